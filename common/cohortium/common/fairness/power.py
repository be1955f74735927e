"""The smallest gap that an audit of so many patients would find."""

import math
from collections.abc import Callable

from cohortium.common.fairness.counts import Share
from cohortium.common.metrics.intervals import Z_95

Z_POWER = 0.8416212335729143  # the normal distribution's 80% point
STEPS = 60  # halvings of a range of at most 1


def detectable_shift(standard_error: float, margin: float, reach: float = Z_95 + Z_POWER) -> float:
    """The true gap whose 95% interval lies wholly beyond the margin in 80% of studies.

    margin + (z_0.975 + z_0.80) standard errors, for an estimate whose error does not depend on it;
    `reach`: other points than those of the normal distribution.
    """
    return margin + reach * standard_error


def detectable_difference(level: Share, reference: Share, margin: float) -> float | None:
    """The same of two proportions, whose error depends on them: the smallest d with

        d >= margin + (z_0.975 + z_0.80) sqrt(p (1 - p) / n + p0 (1 - p0) / n0)

    where n and n0 are the patients, p0 the reference's share, of one more success and one more
    failure than were seen, and p lies d from it on the side with more room. Noise adds its own
    variance to each term. None where not even the largest d is enough.
    """
    p0 = (max(reference.part, 0) + 1) / (reference.whole + 2)
    known = share_variance(p0, reference)
    away, room = (-1, p0) if p0 >= 0.5 else (1, 1 - p0)

    def enough(d: float) -> bool:
        spread = known + share_variance(p0 + away * d, level)
        return d >= detectable_shift(math.sqrt(spread), margin)

    return _smallest(enough, room)


def share_variance(p: float, share: Share) -> float:
    """Variance of a proportion p of so many patients, with the noise in its two counts.

    p (1 - p) / n + (s (1 - p)^2 + t p^2) / n^2, s and t the variances of the noise in the patients
    counted and in the rest (delta method).
    """
    noise = share.part_noise * (1 - p) ** 2 + share.rest_noise * p**2
    return p * (1 - p) / share.whole + noise / share.whole**2


def _smallest(enough: Callable[[float], bool], most: float) -> float | None:
    """The value at which a condition starts to hold, by bisection."""
    if not enough(most):
        return None
    low, high = 0.0, most
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
