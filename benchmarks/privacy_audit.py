"""What the empirical privacy audits find of sound engines and of broken ones, over many runs.

    python -m benchmarks.privacy_audit [--runs 20] [--level L1]

Prints one line for each engine: the estimate as a share of the claim, least, mean and most. L1
takes 1 to 2 minutes for each line of 20 runs, L2 half a minute to five.
"""

import argparse
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from tests.client import broken_engines as broken
from tests.client.broken_engines import Break, optimiser, sampler
from tests.client.made_up import made_up

from cohortium.client.selftest import canaries, one_run
from cohortium.client.selftest.check import CPU

SOUND: Break = lambda patch: None  # noqa: E731
ENGINES: Mapping[str, Break] = {
    "sound": SOUND,
    "noise x 0.9": optimiser(broken.TenthLess),
    "noise halved": optimiser(broken.Halved),
    "noise divided by the batch (10)": optimiser(broken.Tenth),
    "clipped to 1.2 C": optimiser(broken.ClippedLater),
    "not clipped": optimiser(broken.NoClipping),
    "shuffled batches": sampler(broken.Shuffled()),
}


def shares(plan: canaries.Plan, breaks: Break, runs: int, noise: float) -> list[float]:
    """Estimate over claim, of `runs` runs of a plan with `noise` of its noise."""
    with pytest.MonkeyPatch.context() as patch:
        breaks(patch)
        found = [canaries.estimate(plan, noise * plan.noise_multiplier) for _ in range(runs)]
    return [estimate / plan.claim for estimate in found]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--level", choices=["L1", "L2"], default="L1")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # as a site trains by default
    {"L1": canaries_found, "L2": guesses}[asked.level](asked.runs)


def canaries_found(runs: int) -> None:
    """L1, on its own plans."""
    for plan in (canaries.FULL_BATCH, canaries.POISSON):
        engines = ENGINES if plan.sampler == "poisson" else {"sound": SOUND}
        print(f"{plan.sampler}, claim {plan.claim:.2f}, {plan.canaries} canaries")
        report("control (noise halved in the plan)", shares(plan, SOUND, runs, canaries.HALF))
        for name, breaks in engines.items():
            report(name, shares(plan, breaks, runs, 1.0))


def guesses(runs: int) -> None:
    """L2, of a network with 64 hidden units and 23 inputs (1601 parameters)."""
    for batches, epsilon in (("full", 3.0), ("full", 1.0), ("poisson", 3.0), ("poisson", 1.0)):
        study = made_up(batches, epsilon)
        claim = one_run.claimed(study)
        print(f"{batches}, claim {claim:.2f}")
        sound = {"no noise": (SOUND, 0.0), "sound": (SOUND, 1.0)}
        mistakes = POISSON if batches == "poisson" else FULL
        for name, (breaks, noise) in (sound | {k: (v, 1.0) for k, v in mistakes.items()}).items():
            with pytest.MonkeyPatch.context() as patch:
                breaks(patch)
                found = [one_run.audit(study, CPU, noise).epsilon for _ in range(runs)]
            report(name, [epsilon / claim for epsilon in found])


FULL: Mapping[str, Break] = {
    "noise halved": broken.weak_source("one_run", 0.5),
    "noise divided by ten": broken.weak_source("one_run", 0.1),
    "not clipped": broken.full_batch_unclipped,
}
POISSON: Mapping[str, Break] = {
    "noise halved": optimiser(broken.Halved),
    "noise divided by ten": optimiser(broken.Tenth),
    "not clipped": optimiser(broken.NoClipping),
}


def report(name: str, found: list[float]) -> None:
    """One line."""
    values = np.array(found)
    print(
        f"  {name:36} {values.min():6.2f} {values.mean():6.2f} {values.max():6.2f}   "
        f"sd {values.std():.3f}  above the claim {np.mean(values > 1):.0%}  of {len(values)}",
        flush=True,
    )


if __name__ == "__main__":
    main()
