"""L1: how much 5000 planted patients find out about themselves from what the engines release.

Each canary moves a coordinate of its own by the clip norm, and a secret coin decides whether it is
planted. Noise and batches of different coordinates have nothing in common, so that one run gives
thousands of independent answers to the question that epsilon is about (orthogonal canaries, after
Nasr et al. 2023 and Steinke et al. 2023). The estimate must lie below the claim, and a run with
half of the noise, which everybody must be able to tell, above it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from cohortium.client.selftest.check import (
    CPU,
    Check,
    Checks,
    Wide,
    one_coordinate_each,
    released,
)
from cohortium.client.selftest.result import Found
from cohortium.client.training import full_batch
from cohortium.common.privacy.accounting import Mechanism, Sampler, epsilon
from cohortium.common.privacy.empirical import Mask, gdp_bound
from cohortium.common.privacy.noise import NoiseSource
from cohortium.common.privacy.selftest import Verdict

DELTA = 1e-5
CANARIES = 5000
LEAST, MOST = 0.35, 1.0  # of the claim; a sound engine gives 0.5 to 0.7, see docs/privacy-audits.md
CAUGHT = 1.3  # of the claim; half of the noise gives 1.6 to 2.0
HALF = 0.5
EXPECTED = 3.0


@dataclass(frozen=True)
class Plan:
    """What is run, and hence claimed: with 5000 canaries epsilon 4.8 (Poisson), 4.4 (full)."""

    sampler: Sampler
    sample_rate: float
    steps: int
    noise_multiplier: float = 1.0
    canaries: int = CANARIES

    @property
    def mechanism(self) -> Mechanism:
        return Mechanism(
            sampler=self.sampler,
            sample_rate=self.sample_rate,
            noise_multiplier=self.noise_multiplier,
            steps=self.steps,
        )

    @property
    def claim(self) -> float:
        return epsilon([self.mechanism], DELTA)


POISSON = Plan("poisson", sample_rate=0.05, steps=200)
FULL_BATCH = Plan("full-batch", sample_rate=1.0, steps=1)
PLANS = (POISSON, FULL_BATCH)


@dataclass(frozen=True)
class Audited:
    """An engine's estimate beside what was claimed, and that of the run with half of the noise."""

    plan: Plan
    claim: float
    estimate: float
    control: float

    @property
    def leaks(self) -> bool:
        return self.estimate > MOST * self.claim

    @property
    def powerful(self) -> bool:
        """Whether the audit would have seen that something is wrong."""
        return self.estimate >= LEAST * self.claim and self.control >= CAUGHT * self.claim


def audit(plan: Plan, device: torch.device = CPU) -> Audited:
    """Run a plan's engine as it is, and with half of the noise that is claimed."""
    return Audited(
        plan=plan,
        claim=plan.claim,
        estimate=estimate(plan, plan.noise_multiplier, device),
        control=estimate(plan, HALF * plan.noise_multiplier, device),
    )


def estimate(plan: Plan, noise_multiplier: float, device: torch.device = CPU) -> float:
    """Epsilon that one run gives away to who believes that it has the plan's noise."""
    planted = NoiseSource().uniform(plan.canaries) < 0.5
    engine = _poisson if plan.sampler == "poisson" else _full_batch
    sums = engine(replace(plan, noise_multiplier=noise_multiplier), planted, device)
    return gdp_bound(scores(sums, plan), planted, DELTA)


def scores(sums: Wide, plan: Plan) -> Wide:
    """Log likelihood ratio of planted to not, (m,), of what was released, (steps, m).

    A step's value is N(0, s^2) or, if planted, with probability q N(1, s^2), in units of the clip
    norm: log(1 - q + q exp((x - 1/2) / s^2)).
    """
    q, variance = plan.sample_rate, plan.noise_multiplier**2
    drawn = np.log(q) + (sums - 0.5) / variance
    stayed = np.log1p(-q) if q < 1 else -np.inf
    total: Wide = np.logaddexp(stayed, drawn).sum(axis=0)
    return total


def _poisson(plan: Plan, planted: Mask, device: torch.device) -> Wide:
    seen = released(
        nn.Linear(plan.canaries, 1, bias=False),
        *one_coordinate_each(np.flatnonzero(planted), plan.canaries),
        steps=plan.steps,
        sample_rate=plan.sample_rate,
        noise_multiplier=plan.noise_multiplier,
        device=device,
    )
    return seen.sums.astype(np.float64)


def _full_batch(plan: Plan, planted: Mask, device: torch.device) -> Wide:
    module = nn.Linear(plan.canaries, 1, bias=False)
    rows = one_coordinate_each(np.flatnonzero(planted), plan.canaries)
    start = np.zeros(plan.canaries, np.float32)
    engine = full_batch.FullBatchPlan("regression", 1.0, plan.noise_multiplier, EXPECTED)
    sums = [
        -EXPECTED * full_batch.train(module, start, *rows, engine, NoiseSource(), device).delta
        for _ in range(plan.steps)
    ]
    return np.array(sums, np.float64)


def checks_of(audited: Audited) -> Checks:
    """The estimate, and the control, against the claim."""
    engine, claim = audited.plan.sampler, audited.claim
    numbers = {
        f"{engine}-claim": claim,
        f"{engine}-estimate": audited.estimate,
        f"{engine}-control": audited.control,
    }
    said = (
        f"{engine}: canaries find epsilon {audited.estimate:.2f} where {claim:.2f} is claimed "
        f"({audited.estimate / claim:.2f} of it; sound is {LEAST:g} to {MOST:g})"
    )
    inside = LEAST * claim <= audited.estimate <= MOST * claim
    yield Check(f"{engine}-estimate", inside, said, numbers)
    said = (
        f"{engine}: with half of the noise they find {audited.control:.2f} "
        f"({audited.control / claim:.2f} of the claim; caught is {CAUGHT:g} or more)"
    )
    yield Check(f"{engine}-control", audited.control >= CAUGHT * claim, said)


def found(audited: Sequence[Audited]) -> Found:
    """L1: failed above the claim; passed in the band if the control was caught.

    Claim, estimate and control are those of the engine that leaks, or of the first.
    """
    leaking = [one for one in audited if one.leaks]
    weak = [one for one in audited if not one.powerful]
    verdict: Verdict = "failed" if leaking else "inconclusive" if weak else "passed"
    shown = leaking or weak or list(audited)
    first = (leaking or list(audited))[0]
    return Found(
        level="L1",
        verdict=verdict,
        words="; ".join([*MEANINGS[verdict], *map(_in_words, shown)]),
        checks=[check for one in audited for check in checks_of(one)],
        claim=first.claim,
        estimate=first.estimate,
        control=first.control,
        numbers={"canaries": float(first.plan.canaries)},
    )


MEANINGS: Mapping[Verdict, tuple[str, ...]] = {
    "passed": (),
    "failed": ("more is given away than is claimed",),
    "inconclusive": (
        "the audit has lost its power",
        "canaries do not reach the engine, or there is more noise than is claimed",
    ),
}


def _in_words(one: Audited) -> str:
    return (
        f"{one.plan.sampler}: epsilon {one.estimate:.2f} found, {one.claim:.2f} claimed, "
        f"{one.control:.2f} found with half of the noise"
    )
