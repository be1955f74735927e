"""What the empirical privacy audits find of sound engines and of broken ones, over many runs.

    python -m benchmarks.privacy_audit [--runs 20]

Prints one line for each engine: the estimate as a share of the claim, least, mean and most.
"""

import argparse
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from tests.client import broken_engines as broken
from tests.client.broken_engines import Break, optimiser, sampler

from cohortium.client.selftest import canaries

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
    runs = parser.parse_args().runs
    torch.set_num_threads(1)  # as a site trains by default
    for plan in (canaries.FULL_BATCH, canaries.POISSON):
        engines = ENGINES if plan.sampler == "poisson" else {"sound": SOUND}
        print(f"{plan.sampler}, claim {plan.claim:.2f}, {plan.canaries} canaries")
        report("control (noise halved in the plan)", shares(plan, SOUND, runs, canaries.HALF))
        for name, breaks in engines.items():
            report(name, shares(plan, breaks, runs, 1.0))


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
