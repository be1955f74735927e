"""What an attacker really finds, as statistics: lower bounds on epsilon, and tests of a mechanism.

Scores are of planted patients ("canaries"), each put in by a secret fair coin; a high score says
"in". Nothing here knows how they were made. `*_off` functions say how many standard errors
something is from where it should be; beyond `LIMIT` nobody believes in chance.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit, log_ndtr, ndtr, ndtri
from scipy.stats import beta, binom, chi2, norm

LIMIT = 4.0
FALSE_ALARM = 2 * float(norm.sf(LIMIT))  # of one check of something that is as it should be
SIGNIFICANCE = 0.05  # how often a bound may exceed the truth
GUESSES = (10, 20, 50, 100, 200, 500)  # how many canaries a one-run attacker dares to guess
MOST_EPSILON = 100.0  # bounds above it are not told apart

Wide = NDArray[np.float64]
Mask = NDArray[np.bool_]


def at_least(right: ArrayLike, n: int, significance: float) -> Wide:
    """Lower bound on a share of which `right` of n were seen (Clopper & Pearson 1934), one-sided.

    It exceeds the truth with probability `significance` at most; shaped as `right`.
    """
    k = np.asarray(right, np.float64)
    found = beta.ppf(significance, np.maximum(k, 1), n - k + 1)
    return np.where(k > 0, found, 0.0)


def at_most(right: ArrayLike, n: int, significance: float) -> Wide:
    """Upper bound on the same share."""
    k = np.asarray(right, np.float64)
    found = beta.ppf(1 - significance, k + 1, np.maximum(n - k, 1))
    return np.where(k < n, found, 1.0)


def gdp_epsilon(mu: float, delta: float) -> float:
    """Epsilon at `delta` of mu-Gaussian differential privacy (Dong, Roth, Su 2022, Cor. 2.13)."""

    def excess(epsilon: float) -> float:
        first = ndtr(mu / 2 - epsilon / mu)
        return float(first - math.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu)) - delta)

    if mu <= 0 or excess(0.0) <= 0:
        return 0.0
    high = mu**2 / 2 - mu * float(ndtri(delta))  # where the first term alone is delta
    return min(MOST_EPSILON, float(brentq(excess, 0.0, high)))


def gdp_bound(
    scores: Wide, inside: Mask, delta: float, significance: float = SIGNIFICANCE
) -> float:
    """Epsilon at `delta` that scores give away, if their trade-off is a Gaussian's.

    At every threshold Clopper-Pearson bounds how many are found and falsely accused; mu is the
    largest that these allow, at `significance` for all of them together (Bonferroni), and becomes
    epsilon as for a Gaussian mechanism (Nasr et al. 2023, Section 4.2). A sharp estimate; a proof
    only where the trade-off is Gaussian.

    Args:
        scores: (m,) float64. inside: bool (m,), the coins; both kinds are there.
    """
    members, others = np.sort(scores[inside]), np.sort(scores[~inside])
    thresholds = np.unique(scores)[1:]
    level = significance / (2 * max(len(thresholds), 1))
    found = len(members) - np.searchsorted(members, thresholds)
    accused = len(others) - np.searchsorted(others, thresholds)
    mus = ndtri(at_least(found, len(members), level)) - ndtri(at_most(accused, len(others), level))
    return gdp_epsilon(float(np.max(mus, initial=0.0)), delta)


def one_run_p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Most probability of `right` or more right guesses under (epsilon, delta).

    Steinke, Nasr & Jagielski 2023, Theorem 5.2: with W ~ Binomial(guesses, e^eps / (1 + e^eps)),
    Pr[W >= v] + 2 m delta max_{1 <= i <= v} Pr[v - i <= W < v] / i.
    """
    share = float(expit(epsilon))
    below = np.arange(right - 1, -1, -1)  # v - 1, v - 2, ... 0
    spans = np.cumsum(binom.pmf(below, guesses, share)) / np.arange(1, right + 1)
    slack = 2 * canaries * delta * float(np.max(spans, initial=0.0))
    return min(1.0, float(binom.sf(right - 1, guesses, share)) + slack)


def one_run_bound(
    canaries: int, guesses: int, right: int, delta: float, significance: float = SIGNIFICANCE
) -> float:
    """The largest epsilon that so many right guesses refute; 0.0 where they refute none."""

    def excess(epsilon: float) -> float:
        return one_run_p_value(canaries, guesses, right, epsilon, delta) - significance

    if excess(0.0) >= 0:
        return 0.0
    high = 1.0
    while excess(high) < 0:
        high *= 2
        if high > MOST_EPSILON:
            return MOST_EPSILON
    return float(brentq(excess, 0.0, high, xtol=1e-9))


def one_run_ceiling(
    canaries: int, guesses: int, delta: float, significance: float = SIGNIFICANCE
) -> float:
    """What an audit of this size can show at most: every guess is right."""
    return one_run_bound(canaries, guesses, guesses, delta, significance)


@dataclass(frozen=True)
class OneRun:
    """A one-run audit's best bound: of `guesses` about `canaries` so many were `right`."""

    canaries: int
    guesses: int
    right: int
    epsilon: float


def one_run(scores: Wide, inside: Mask, delta: float, significance: float = SIGNIFICANCE) -> OneRun:
    """Guess "in" for the highest scores and "out" for the lowest, half of the guesses each.

    Every number of `GUESSES` that the canaries allow is tried, at `significance` for all of them
    together (Bonferroni).
    """
    ascending = inside[np.argsort(scores, kind="stable")]
    tried = [r for r in GUESSES if r <= len(scores)]
    found = []
    for guesses in tried:
        half = guesses // 2
        right = int(ascending[-half:].sum()) + int((~ascending[:half]).sum())
        level = significance / len(tried)
        bound = one_run_bound(len(scores), guesses, right, delta, level)
        found.append(OneRun(len(scores), guesses, right, bound))
    nothing = OneRun(len(scores), 0, 0, 0.0)
    return max(found, key=lambda run: (run.epsilon, run.right / run.guesses), default=nothing)


def mean_off(values: Wide, std: float) -> float:
    """Of the mean from 0, where the values should be independent with deviation `std`."""
    return float(values.mean() / std * math.sqrt(len(values)))


def scale_off(values: Wide, std: float) -> float:
    """Of the root mean square from `std`: LIMIT means |s / std - 1| = LIMIT / sqrt(2 N)."""
    return (math.sqrt(float(values @ values) / len(values)) / std - 1) * math.sqrt(2 * len(values))


def tail_off(values: Wide, std: float, beyond: float = 4.0) -> float:
    """Of how many values lie beyond so many `std` from 0; exact for independent normal ones."""
    share = 2 * float(norm.sf(beyond))
    count = int((np.abs(values) > beyond * std).sum())
    return _off(binom.cdf(count, len(values), share), binom.sf(count - 1, len(values), share))


def binomial_mean_off(counts: NDArray[np.int64], n: int, rate: float) -> float:
    """Of the sum of counts that should be independent draws from Binomial(n, rate); exact."""
    trials, total = n * len(counts), int(counts.sum())
    return _off(binom.cdf(total, trials, rate), binom.sf(total - 1, trials, rate))


def binomial_variance_off(counts: NDArray[np.int64], n: int, rate: float) -> float:
    """Of their variance about the known mean, as a chi-square; shuffled batches have none."""
    squares = float(((counts - n * rate) ** 2).sum() / (n * rate * (1 - rate)))
    return _off(chi2.cdf(squares, len(counts)), chi2.sf(squares, len(counts)))


def variance_off(values: Wide, variance: float, fourth: float) -> float:
    """Of the mean square from `variance`, for independent values with fourth moment `fourth`."""
    error = math.sqrt((fourth - variance**2) / len(values))
    return (float(values @ values) / len(values) - variance) / error


def correlation_off(one: Wide, other: Wide) -> float:
    """Of the correlation from 0: LIMIT means |correlation| = LIMIT / sqrt(N).

    Infinite where one of them does not vary at all.
    """
    lengths = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / lengths * math.sqrt(len(one)) if lengths else math.inf


def _off(below: float, above: float) -> float:
    """Two one-sided probabilities as a distance, signed by the side."""
    side = 1.0 if above < below else -1.0
    return side * float(norm.isf(max(min(0.5, below, above), 1e-300)))
