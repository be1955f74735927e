"""L1: planted patients find less than is claimed, and much more as soon as an engine is broken."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm
from tests.client import broken_engines as broken
from tests.client.broken_engines import Break, optimiser, sampler

from cohortium.client.selftest import canaries
from cohortium.client.selftest.canaries import FULL_BATCH, POISSON, Audited, Plan

SMALL = Plan("poisson", sample_rate=0.1, steps=50, noise_multiplier=1.0, canaries=2500)
SMALL_FULL = replace(FULL_BATCH, canaries=2500)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As a site trains by default; many small steps wait for each other on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def audited(estimate: float, control: float, plan: Plan = POISSON, claim: float = 4.0) -> Audited:
    return Audited(plan=plan, claim=claim, estimate=estimate, control=control)


# ------------------------------------------------------------------ the real engines


@pytest.mark.parametrize("plan", [SMALL, SMALL_FULL], ids=lambda plan: str(plan.sampler))
def test_a_sound_engine_is_below_its_claim_and_half_of_its_noise_above(plan: Plan) -> None:
    found = canaries.audit(plan)
    assert 0.25 * found.claim < found.estimate < found.claim
    assert found.control > 1.1 * found.claim
    assert not found.leaks


@pytest.mark.parametrize(
    "breaks",
    [
        optimiser(broken.Halved),
        optimiser(broken.Tenth),
        optimiser(broken.NoClipping),
    ],
)
def test_a_broken_engine_gives_more_away_than_it_claims(
    monkeypatch: pytest.MonkeyPatch, breaks: Break
) -> None:
    breaks(monkeypatch)
    assert canaries.estimate(SMALL, SMALL.noise_multiplier) > SMALL.claim


def test_a_full_batch_without_clipping_is_caught_too(monkeypatch: pytest.MonkeyPatch) -> None:
    broken.full_batch_unclipped(monkeypatch)
    assert canaries.estimate(SMALL_FULL, 1.0) > SMALL_FULL.claim


def test_shuffled_batches_are_not_seen_by_canaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why L0 looks at batch sizes, and why the two come together."""
    sampler(broken.Shuffled())(monkeypatch)
    assert canaries.estimate(SMALL, SMALL.noise_multiplier) < SMALL.claim


def test_scores_are_the_log_likelihood_ratio_written_out() -> None:
    plan, rng = replace(SMALL, noise_multiplier=0.8), np.random.default_rng(0)
    sums = rng.normal(size=(5, 7))
    there = 0.9 * norm.pdf(sums, 0, 0.8) + 0.1 * norm.pdf(sums, 1, 0.8)
    expected = np.log(there / norm.pdf(sums, 0, 0.8)).sum(axis=0)
    assert canaries.scores(sums, plan) == pytest.approx(expected)
    everybody = replace(plan, sample_rate=1.0)
    expected = np.log(norm.pdf(sums, 1, 0.8) / norm.pdf(sums, 0, 0.8)).sum(axis=0)
    assert canaries.scores(sums, everybody) == pytest.approx(expected)


# ------------------------------------------------------------------ the verdict


def test_the_plans_claim_what_an_audit_can_reach() -> None:
    for plan in canaries.PLANS:
        assert 1.5 <= plan.claim <= 5
        assert plan.canaries == 5000


@pytest.mark.parametrize(
    ("estimate", "control", "verdict"),
    [
        (2.3, 7.2, "passed"),
        (1.4, 5.2, "passed"),
        (4.0, 5.2, "passed"),
        (4.1, 9.0, "failed"),
        (4.1, 4.1, "failed"),
        (1.3, 7.0, "inconclusive"),
        (0.0, 0.0, "inconclusive"),
        (2.3, 5.1, "inconclusive"),
    ],
)
def test_the_verdict_needs_the_band_and_the_control(
    estimate: float, control: float, verdict: str
) -> None:
    sound = audited(3.0, 8.0, FULL_BATCH)
    found = canaries.found([audited(estimate, control), sound])
    assert (found.level, found.verdict) == ("L1", verdict)
    assert (found.claim, found.numbers["canaries"]) == (4.0, 5000)
    swapped = canaries.found([sound, audited(estimate, control)])
    assert swapped.verdict == verdict


def test_the_record_shows_the_engine_that_leaks() -> None:
    found = canaries.found([audited(2.3, 7.2), audited(4.5, 9.0, FULL_BATCH)])
    assert (found.verdict, found.estimate) == ("failed", 4.5)
    assert found.words == (
        "more is given away than is claimed; full-batch: epsilon 4.50 found, 4.00 claimed, "
        "9.00 found with half of the noise"
    )
    assert {check.name: check.ok for check in found.checks} == {
        "poisson-estimate": True,
        "poisson-control": True,
        "full-batch-estimate": False,
        "full-batch-control": True,
    }


# ------------------------------------------------------------------ as it is shipped


@pytest.mark.slow
def test_the_shipped_audit_passes_a_sound_engine() -> None:
    found = canaries.found([canaries.audit(plan) for plan in canaries.PLANS])
    assert found.verdict == "passed", found.words


ENGINES: Mapping[str, Break] = {
    "halved": optimiser(broken.Halved),
    "divided by the batch": optimiser(broken.Tenth),
    "not clipped": optimiser(broken.NoClipping),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_the_shipped_audit_fails_a_broken_engine(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    ENGINES[name](monkeypatch)
    assert canaries.found([canaries.audit(POISSON)]).verdict == "failed"
