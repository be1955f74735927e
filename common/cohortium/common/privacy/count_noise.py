"""How much noise the counts of an evaluation get, and the mechanism that stands for it.

Counts are of cells: each patient is in exactly one cell of each family (a table of groups by what
was right or wrong), so that one patient more changes as many cells by one as there are families:
L2 sensitivity sqrt(families). The cells' noise is independent and discrete Gaussian, whose Renyi
divergences are at most those of a Gaussian of equal variance (Canonne, Kamath & Steinke 2020,
Theorem 4; those of independent cells add up).
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from cohortium.common.privacy.accounting import Mechanism, noise_multiplier

# Beyond the Gaussian's variance: with it the sum of all families' noise tells at no epsilon more
# than the Gaussian that is accounted for (tests/common/test_discrete_gaussian.py; without it delta
# is up to 3.6 times as large where there is little noise). 1/12 is what rounding would add, and
# nearly enough.
MORE = Fraction(1, 8)
STEPS = 1024  # the variance is a multiple of 1 / STEPS, rounded up


@dataclass(frozen=True)
class CountNoise:
    """`variance` of each cell's noise, and what all of it together costs as a ledger knows it."""

    variance: Fraction
    families: int
    mechanism: Mechanism

    @property
    def std(self) -> float:
        return math.sqrt(self.variance)


def count_noise(epsilon: float, delta: float, families: int) -> CountNoise:
    """The least noise at which the cells of so many families together cost `epsilon`."""
    ratio = noise_multiplier(epsilon, delta, 1.0, 1, "full-batch")
    gaussian = families * ratio**2
    return CountNoise(
        variance=Fraction(math.ceil(gaussian * STEPS), STEPS) + MORE,
        families=families,
        mechanism=Mechanism(
            sampler="full-batch",
            sample_rate=1.0,
            noise_multiplier=ratio,
            steps=1,
            purpose="evaluation",
        ),
    )
