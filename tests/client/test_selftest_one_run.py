"""L2: what it proves of a study's own plan, and that it says when it proves nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import outcomes
from tests.client import broken_engines as broken
from tests.client.broken_engines import optimiser
from tests.client.made_up import INPUTS, made_up
from tests.federation import PLAIN, make_site, write_study

from cohortium.client import local_round
from cohortium.client.selftest import one_run
from cohortium.client.selftest.check import CPU
from cohortium.client.selftest.synthetic import patients
from cohortium.client.training import private
from cohortium.client.training.update import LocalUpdate
from cohortium.common.cli import main
from cohortium.common.errors import UsageError
from cohortium.common.identity import SigningKey
from cohortium.common.layout import table_layout
from cohortium.common.models.building import build_seeded
from cohortium.common.privacy.empirical import OneRun

FULL, POISSON = made_up("full", 2.0), made_up("poisson", 0.5)
NO_GUESS = OneRun(1000, 100, 55, 0.0)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As a site trains by default."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ------------------------------------------------------------------ on the real engines


def test_a_sound_engine_stays_below_the_claim_which_no_noise_exceeds() -> None:
    sound, control = one_run.audit(FULL, CPU), one_run.audit(FULL, CPU, noise=0.0)
    assert sound.canaries == control.canaries == 1000
    assert sound.epsilon < 1.5 < 2.0 < control.epsilon
    assert one_run.found(FULL, sound, control).verdict == "passed"


@pytest.mark.parametrize("batches", ["full", "poisson"])
def test_a_study_that_trains_a_part_of_its_model_is_audited_on_that_part(batches: str) -> None:
    study = made_up(batches, 2.0, hidden=32, transfer={"freeze": ("2.*",), "own": ("0.bias",)})
    sound, control = one_run.audit(study, CPU), one_run.audit(study, CPU, noise=0.0)
    assert sound.canaries == INPUTS * 32 + 32
    assert sound.epsilon < 1.0 < control.epsilon


def test_an_engine_with_next_to_no_noise_exceeds_the_claim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken.weak_source("one_run", 0.01)(monkeypatch)
    found = one_run.found(FULL, one_run.audit(FULL, CPU), NO_GUESS)
    assert found.verdict == "failed", found.words


@pytest.mark.slow
def test_an_engine_for_poisson_batches_with_next_to_no_noise_exceeds_the_claim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    optimiser(broken.Hundredth)(monkeypatch)
    found = one_run.found(POISSON, one_run.audit(POISSON, CPU), NO_GUESS)
    assert found.verdict == "failed", found.words


def test_half_of_the_noise_is_not_seen_which_is_why_it_is_no_substitute_for_canaries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken.weak_source("one_run", 0.5)(monkeypatch)
    assert one_run.audit(FULL, CPU).epsilon < 2.0


def test_an_audit_of_a_model_without_room_says_that_it_shows_nothing() -> None:
    study = made_up("full", 3.0, hidden=0)
    sound, control = one_run.audit(study, CPU), one_run.audit(study, CPU, noise=0.0)
    assert sound.canaries == INPUTS + 1
    found = one_run.found(study, sound, control)
    assert found.verdict == "inconclusive"
    assert found.words.startswith("the audit cannot reach the claimed epsilon")


def test_without_noise_the_attacker_reads_the_coins_of_a_full_batch() -> None:
    study, planted = made_up("full", 1.0, hidden=0), np.arange(12) % 2 > 0
    features, labels = patients(study, 60, np.random.default_rng(0))
    module, copy = (build_seeded(study.model, table_layout(INPUTS), 1, 0) for _ in range(2))
    known = features[12:], labels[12:]
    attacker = one_run.Attacker(study, copy, (features[:12], labels[:12]), known, noise=1.0)
    there = np.concatenate([np.flatnonzero(planted), np.arange(12, 60)])
    shadow = one_run.Shadow(study, 0.0, CPU)
    shadow.train(module, features[there], labels[there], attacker.look)
    scores = attacker.scores(belief=0.0)  # the right one here: estimates of c - 1/2
    assert scores == pytest.approx(planted - 0.5, abs=0.05)


def test_the_study_that_is_audited_is_the_one_that_a_site_trains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran = []
    train = private.train

    def watched(*arguments: Any) -> LocalUpdate:
        ran.append(arguments[4])
        return train(*arguments)

    monkeypatch.setattr(private, "train", watched)
    monkeypatch.setattr(one_run, "MOST", 20)
    one_run.audit(POISSON, CPU)
    plan = local_round.private_plan(POISSON, 200)
    assert len(ran) == 4
    for one in ran:
        assert (one.noise_multiplier, one.clip_norm) == (plan.noise_multiplier, plan.clip_norm)
        assert (one.sample_rate, one.local_steps) == (plan.sample_rate, plan.local_steps)
        assert one.optimiser.learning_rate == plan.optimiser.learning_rate


# ------------------------------------------------------------------ verdicts


@pytest.mark.parametrize(
    ("seen", "control", "verdict"),
    [(0.2, 2.5, "passed"), (2.2, 2.5, "failed"), (2.2, 0.5, "failed"), (0.2, 1.9, "inconclusive")],
)
def test_the_verdict_needs_a_control_that_exceeds_the_claim(
    seen: float, control: float, verdict: str
) -> None:
    found = one_run.found(FULL, OneRun(400, 100, 60, seen), OneRun(400, 50, 50, control))
    assert found.verdict == verdict
    assert found.claim == pytest.approx(2.0, abs=1e-3)
    assert (found.estimate, found.control, found.study) == (seen, control, FULL.digest)
    assert found.numbers == {"canaries": 400, "guesses": 100, "right": 60}


def test_a_study_without_privacy_has_nothing_to_audit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="promises no privacy"):
        one_run.audit(write_study(tmp_path, PLAIN), CPU)


# ------------------------------------------------------------------ made-up patients


def test_made_up_patients_lie_within_the_public_bounds_and_tell_nothing() -> None:
    features, labels = patients(FULL, 2000, np.random.default_rng(0))
    assert features.shape == (2000, INPUTS)
    assert np.abs(features).max() <= 2.5  # public-range scaling
    assert set(labels.tolist()) == {0.0, 1.0}
    correlations = [np.corrcoef(column, labels)[0, 1] for column in features.T]
    assert np.abs(correlations).max() < 0.1


@pytest.mark.parametrize("batches", ["full", "poisson"])
@pytest.mark.parametrize("kind", outcomes.TASKS)
def test_every_kind_of_outcome_can_be_audited(
    kind: str, batches: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_run, "MOST", one_run.LEAST)  # the models of some kinds are large
    noisy = made_up(batches, 1.0)
    keys = {"training": noisy.training, "privacy": noisy.privacy}
    study = outcomes.study(kind).model_copy(update=keys)
    seen = one_run.audit(study, CPU)
    assert (seen.canaries, seen.guesses > 0) == (one_run.LEAST, True)


def test_the_command_audits_a_study_that_the_site_knows_and_opens_no_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_run, "MOST", 40)
    site = make_site(tmp_path / "a", "a", SigningKey.generate().public)
    study = made_up("full", 3.0)
    site.studies.receive(study, 0)
    (site.directory.root / "ward.csv").unlink()
    words = ["site", "selftest", "--level", "L2", "--study", "made-up"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--dir", str(site.directory.root)])
    said = capsys.readouterr().out
    assert (ended.value.code, said.split(":")[0]) == (0, "L2 inconclusive")
    event = list(site.log.events())[-1]
    assert (event.study, event.detail["level"], event.detail["canaries"]) == (
        study.digest,
        "L2",
        "40",
    )
    with pytest.raises(SystemExit) as unknown:
        main(["site", "selftest", "--level", "L2", "--study", "x", "--dir", str(tmp_path / "a")])
    assert unknown.value.code == 2
