"""Two models called the same patients: how much better one is, and whether that may be chance."""

import math
from dataclasses import dataclass

from scipy.stats import binomtest

from cohortium.common.metrics.intervals import Interval, wilson


@dataclass(frozen=True)
class Pairs:
    """How many patients both models call rightly, only one of them, and neither; `+` pools."""

    both: int
    first_only: int
    second_only: int
    neither: int

    @property
    def n(self) -> int:
        return self.both + self.first_only + self.second_only + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of the first minus that of the second; needs one patient."""
        return (self.first_only - self.second_only) / self.n

    def __add__(self, other: "Pairs") -> "Pairs":
        return Pairs(
            self.both + other.both,
            self.first_only + other.first_only,
            self.second_only + other.second_only,
            self.neither + other.neither,
        )


def newcombe_paired(pairs: Pairs) -> Interval:
    """95% interval of `difference` (Newcombe 1998, Statistics in Medicine 17:2635, method 10).

    From the Wilson intervals of both accuracies and their correlation, continuity corrected.
    Needs one patient.
    """
    first, second = pairs.both + pairs.first_only, pairs.both + pairs.second_only
    p, q = first / pairs.n, second / pairs.n
    (low_p, high_p), (low_q, high_q) = wilson(first, pairs.n), wilson(second, pairs.n)
    phi = _correlation(pairs)
    below = _reach(p - low_p, high_q - q, phi)
    above = _reach(high_p - p, q - low_q, phi)
    return pairs.difference - below, pairs.difference + above


def mcnemar(pairs: Pairs) -> float:
    """Two-sided exact p of no difference: which model alone is right is a fair coin (1947)."""
    alone = pairs.first_only + pairs.second_only
    return float(binomtest(pairs.first_only, alone).pvalue) if alone else 1.0


def difference_in_differences(group: Pairs, reference: Pairs) -> tuple[float, Interval]:
    """How much more the first model gains in a group than in another, and its 95% interval.

    The two groups share no patient, so their intervals are put together as Newcombe does with
    independent proportions (Zou & Donner 2008, Statistics in Medicine 27:1693). Both need one.
    """
    gain, other = group.difference, reference.difference
    (low, high), (other_low, other_high) = newcombe_paired(group), newcombe_paired(reference)
    more = gain - other
    below = math.hypot(gain - low, other_high - other)
    above = math.hypot(high - gain, other - other_low)
    return more, (more - below, more + above)


def _correlation(pairs: Pairs) -> float:
    a, b, c, d = pairs.both, pairs.first_only, pairs.second_only, pairs.neither
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    if not margins:
        return 0.0
    tilt = float(a * d - b * c)
    if tilt > 0:
        tilt = max(tilt - pairs.n / 2, 0.0)
    return tilt / math.sqrt(margins)


def _reach(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(one**2 - 2 * phi * one * other + other**2, 0.0))
