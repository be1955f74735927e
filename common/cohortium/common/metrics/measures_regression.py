"""Measures of a predicted number."""

import math
from dataclasses import dataclass, replace
from typing import Self

from cohortium.common.metrics.measures import (
    At,
    Found,
    Measure,
    Sums,
    added,
    bare,
    exp,
    on_line,
    on_log,
    on_scale,
    same,
    times_n,
)
from cohortium.common.metrics.tallies import RegressionTally

UNSHOWN = "not every site shows the squares of its squared errors"
CONSTANT = "there is nobody to count, or the outcome or the prediction is always the same"


@dataclass(frozen=True)
class Moments:
    """Of n patients: means, variances and covariance of outcome y and prediction p, e = p - y."""

    n: float
    y: float
    p: float
    y_variance: float
    p_variance: float
    covariance: float

    @classmethod
    def of(cls, sums: Sums) -> Self:
        """From sums of y, y squared, p, p squared and p y, and n."""
        n = sums[-1]
        y, y2, p, p2, product = (total / n for total in sums[:-1])
        return cls(n, y, p, max(y2 - y**2, 0.0), max(p2 - p**2, 0.0), product - p * y)

    @property
    def squared(self) -> float:
        """Mean squared error."""
        scatter = self.y_variance + self.p_variance - 2 * self.covariance
        return (self.p - self.y) ** 2 + max(scatter, 0.0)


def _moments(tally: RegressionTally, _: At) -> Sums | None:
    return times_n(
        tally.n,
        tally.outcome,
        tally.outcome2,
        tally.predicted,
        tally.predicted2,
        tally.product,
    )


def _squares(tally: RegressionTally, _: At) -> Sums | None:
    """Sums of e squared and of its square (not a number if not shown), then n."""
    fourth = math.nan if tally.fourth is None else tally.fourth
    return times_n(tally.n, tally.squared, fourth)


def _mse(sums: Sums) -> Found | None:
    """Interval on the log scale, variance from the mean of the squares' squares."""
    squares, fourth, n = sums
    mean = squares / n
    if math.isnan(fourth):
        return bare(mean, n, UNSHOWN)
    return on_log(mean, (fourth / n - mean**2) / n, n)


def _rmse(sums: Sums) -> Found | None:
    found = _mse(sums)
    if found is None:
        return None
    scaled = found.scaled and (found.scaled[0] / 2, found.scaled[1] / 4)
    root = on_scale(math.sqrt(found.value), found.of, scaled, exp)
    return replace(root, why=found.why)


def _mae(sums: Sums) -> Found | None:
    """Interval on the log scale; the squares of |e| are those of e."""
    absolute, squares, n = sums
    mean = absolute / n
    return on_log(mean, (squares / n - mean**2) / n, n)


def _r2(sums: Sums) -> Found | None:
    """1 - mean squared error / variance of the outcome; below 0 where the mean does better.

    Interval on the scale log(1 - R2) by the delta method, as if y and p were normal together:
    simulated coverage 0.93 to 0.97 there from 50 patients on. Outcomes with heavy tails make it
    too narrow (see tests/common/test_coverage_regression.py).
    """
    found = Moments.of(sums)
    if not found.y_variance:
        return None
    lost = found.squared / found.y_variance
    scatter = found.y_variance + found.p_variance - 2 * found.covariance  # of e
    bias2 = (found.p - found.y) ** 2
    if not lost or scatter <= 0:
        return on_scale(1 - lost, found.n, None, _kept)
    e2_variance = 2 * scatter**2 + 4 * bias2 * scatter  # of e squared
    together = (found.covariance - found.y_variance) ** 2  # covariance of e and y, squared
    spread = e2_variance / found.squared**2 + 2 - 4 * together / (found.squared * found.y_variance)
    return on_scale(1 - lost, found.n, (math.log(lost), max(spread, 0.0) / found.n), _kept)


def _kept(log_lost: float) -> float:
    return 1 - exp(log_lost)


def _bias(sums: Sums) -> Found | None:
    """Mean of p - y."""
    found = Moments.of(sums)
    scatter = found.y_variance + found.p_variance - 2 * found.covariance
    return on_line(found.p - found.y, scatter / found.n, found.n)


def _slope(sums: Sums) -> Found | None:
    """Of y on p by least squares: 1 is right, below 1 the predictions are too extreme.

    Interval as if the scatter about the line were the same everywhere: where it is not, it covers
    less (see tests/common/test_coverage_regression.py).
    """
    found = Moments.of(sums)
    if not found.p_variance or found.n <= 2:
        return None
    return on_line(found.covariance / found.p_variance, _noise(found) / found.p_variance, found.n)


def _intercept(sums: Sums) -> Found | None:
    """Of the same line, at a prediction of 0."""
    found = Moments.of(sums)
    if not found.p_variance or found.n <= 2:
        return None
    value = found.y - found.covariance / found.p_variance * found.p
    return on_line(value, _noise(found) * (1 + found.p**2 / found.p_variance), found.n)


def _noise(found: Moments) -> float:
    """Variance about the line, over n."""
    left = found.y_variance - found.covariance**2 / found.p_variance
    return max(left, 0.0) / (found.n - 2)


REGRESSION: tuple[Measure[RegressionTally], ...] = (
    Measure("mae", lambda t, _: times_n(t.n, t.absolute, t.squared), _mae, exp, added),
    Measure("mse", _squares, _mse, exp, added),
    Measure("rmse", _squares, _rmse, exp, added),
    Measure("r2", _moments, _r2, _kept, added, nobody=CONSTANT),
    Measure("bias", _moments, _bias, same, added),
    Measure("calibration_slope", _moments, _slope, same, added, nobody=CONSTANT),
    Measure("calibration_intercept", _moments, _intercept, same, added, nobody=CONSTANT),
)
