"""L0: the mechanism that is counted is the one that runs, and each broken one is caught."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.client import broken_engines as broken
from tests.client.broken_engines import Break, optimiser, sampler

from cohortium.client.selftest import check, mechanism
from cohortium.client.selftest.check import CPU, Check
from cohortium.client.selftest.rehearsal import ledger_and_steps
from cohortium.client.selftest.result import of_mechanism
from cohortium.client.training import private
from cohortium.common.privacy import discrete_gaussian
from cohortium.common.privacy.accounting import Mechanism

VALUES, STEPS = 200_000, 150


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No failure by chance: 6 standard errors, not 4. One thread, as a site trains by default."""
    monkeypatch.setattr(check, "LIMIT", 6.0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def noise() -> Iterable[Check]:
    return mechanism.noise_of_batches(CPU, VALUES)


def full_batch_noise() -> Iterable[Check]:
    return mechanism.noise_of_full_batch(CPU, VALUES)


def clip() -> Iterable[Check]:
    return mechanism.contributions(CPU)


def batches() -> Iterable[Check]:
    return mechanism.batches(CPU, STEPS)


def repetition() -> Iterable[Check]:
    return mechanism.repetition(CPU, 50_000)


def wrong(checks: Iterable[Check]) -> set[str]:
    return {check.name for check in checks if not check.ok}


@pytest.mark.parametrize(
    ("breaks", "checks", "caught"),
    [
        (optimiser(broken.Halved), noise, {"poisson-scale"}),
        (optimiser(broken.SlightlyLess), noise, {"poisson-scale"}),
        (optimiser(broken.Tenth), noise, {"poisson-scale"}),
        (
            broken.weak_source("mechanism", 0.5),
            full_batch_noise,
            {"full-batch-scale"},
        ),
        (optimiser(broken.NoClipping), clip, {"poisson-clip"}),
        (optimiser(broken.ClippedByLayer), clip, {"poisson-clip"}),
        (optimiser(broken.NotANumber), clip, {"poisson-clip"}),
        (broken.full_batch_unclipped, clip, {"full-batch-clip"}),
        (sampler(broken.Shuffled()), batches, {"batch-variance", "own-coins"}),
        (sampler(broken.rotating), batches, {"own-coins"}),
    ],
)
def test_a_broken_engine_is_caught_by_the_check_of_what_is_broken(
    monkeypatch: pytest.MonkeyPatch,
    breaks: Break,
    checks: Callable[[], Iterable[Check]],
    caught: set[str],
) -> None:
    assert wrong(checks()) == set()
    breaks(monkeypatch)
    assert caught <= wrong(checks())


def test_noise_without_tails_is_caught_although_its_scale_is_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    optimiser(broken.Truncated)(monkeypatch)
    found = mechanism.noise_of_batches(CPU, 1_000_000)
    assert "poisson-tails" in wrong(found)


def test_noise_that_can_be_drawn_again_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanism, "_fresh", lambda _: (np.ones(100), np.ones(100)))
    with monkeypatch.context() as patch:
        broken.seeded(patch)
        same = {"sites-correlation", "rounds-correlation", "restarts-correlation"}
        assert wrong(repetition()) == same
    broken.repeating(monkeypatch)
    assert "steps-correlation" in wrong(repetition())


@pytest.mark.slow
def test_a_machine_that_gives_every_new_process_the_same_key_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mechanism._unlike("restarts", *mechanism._fresh(2000)).ok
    (tmp_path / "sitecustomize.py").write_text("import os\nos.urandom = lambda n: bytes(n)\n")
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{before}".rstrip(os.pathsep))
    assert not mechanism._unlike("restarts", *mechanism._fresh(2000)).ok


def test_noise_of_counts_of_another_scale_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wrong(mechanism.counts()) == set()
    draws = discrete_gaussian.draws
    monkeypatch.setattr(mechanism, "draws", lambda n, variance: draws(n, variance * 9 / 10))
    assert wrong(mechanism.counts()) == {"counts-variance"}


def test_steps_that_the_ledger_does_not_know_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ledger_and_steps() == (12, 12)
    told = private._mechanism

    def one_less(plan: private.PrivatePlan) -> Mechanism:
        return told(plan).model_copy(update={"steps": plan.local_steps - 1})

    monkeypatch.setattr(private, "_mechanism", one_less)
    assert not mechanism.ledger().ok


@pytest.mark.slow
def test_a_sound_site_fails_less_than_once_in_a_thousand_times() -> None:
    checks = list(mechanism.run(CPU, values=20_000, steps=100))
    found = of_mechanism(checks)
    assert (found.verdict, wrong(checks)) == ("passed", set())
    assert sum(check.by_chance for check in checks) == 15
    assert 0 < found.numbers["false-alarm-rate"] < 1e-3


def test_what_is_wrong_is_said_in_words() -> None:
    good, bad = Check("a", True, "a is right"), Check("b", False, "b: 3 of 4 steps entered")
    found = of_mechanism([good, bad])
    assert (found.verdict, found.words) == ("failed", "b: 3 of 4 steps entered")
