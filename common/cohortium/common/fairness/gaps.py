"""How far two groups lie apart, by kind of criterion, with 95% interval and p of no gap."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit
from scipy.stats import fisher_exact
from scipy.stats import t as student

from cohortium.common.fairness.counts import Group, Share
from cohortium.common.fairness.power import (
    detectable_difference,
    detectable_shift,
    share_variance,
)
from cohortium.common.metrics.intervals import (
    Z_95,
    Interval,
    expit,
    logit,
    newcombe,
    wald,
    wilson,
)
from cohortium.common.metrics.measures import LEAST_SHARE
from cohortium.common.metrics.random_effects import FEWEST, random_effects

FEWEST_EXPECTED = 1.0  # patients in each cell, for the chi-square test
LEAST_VARIANCE = 1e-24  # of an AUROC: what 16 million patients of each class can give
NO_INTERVAL = "too few patients, or too perfect a result, for an interval"

Pair = tuple[Group, Group]  # a group and its reference, of one site


@dataclass(frozen=True)
class Gap:
    """`gap` = value - reference_value, or their ratio; see `verdicts.Contrast`."""

    value: float
    reference_value: float
    gap: float
    interval: Interval | None = None
    p: float | None = None
    detectable: float | None = None
    of: int | None = None
    reference_of: int | None = None


def share_gap(level: Share, reference: Share, margin: float) -> Gap:
    """Difference of two proportions of different patients; both denominators above 0.

    Newcombe's interval; with noise in the counts, a normal one (Wald) whose variance includes it.
    """
    noisy = level.part_noise + level.rest_noise + reference.part_noise + reference.rest_noise > 0
    interval, p = _noisy(level, reference) if noisy else _exact(level, reference)
    return Gap(
        value=level.value,
        reference_value=reference.value,
        gap=level.value - reference.value,
        interval=interval,
        p=p,
        detectable=detectable_difference(level, reference, margin),
        of=level.whole,
        reference_of=reference.whole,
    )


def same_share_p(one: tuple[int, int], other: tuple[int, int]) -> float:
    """Two-sided p of equal proportions, from successes and trials of each.

    The score test, as chi-square times (N - 1) / N, where every cell expects one patient or more;
    else Fisher's exact test by Irwin's rule (Campbell 2007, Statistics in Medicine 26:3661).
    """
    (a, m), (b, n) = one, other
    yes, no, everybody = a + b, m + n - a - b, m + n
    if not yes or not no:
        return 1.0
    if min(m, n) * min(yes, no) / everybody < FEWEST_EXPECTED:
        return min(1.0, float(fisher_exact([[a, m - a], [b, n - b]]).pvalue))
    chi2 = (everybody - 1) * (a * (n - b) - b * (m - a)) ** 2 / (m * n * yes * no)
    return math.erfc(math.sqrt(chi2 / 2))


def area_gap(pairs: Sequence[Pair], margin: float) -> Gap:
    """Difference of two AUROC, each within a site, of different patients; one pair or more.

    One site: from the logit intervals of DeLong's variances, put together as Newcombe does for
    proportions (Zou & Donner 2008, Statistics in Medicine 27:1693). Two: the mean of both
    differences. Three or more: random effects of the differences. No interval unless every group
    `varies`.
    """
    if not all(varies(one) for pair in pairs for one in pair):
        return _areas(pairs, [1.0] * len(pairs))
    if len(pairs) == 1:
        return _one_site(*pairs[0], margin)
    return _few_sites(pairs, margin) if len(pairs) < FEWEST else _many_sites(pairs, margin)


def varies(group: Group) -> bool:
    """Whether an AUROC has an error to speak of: not where patients are ranked without mistake."""
    area, variance = _area(group)
    return LEAST_SHARE < area < 1 - LEAST_SHARE and variance > LEAST_VARIANCE


def calibration_gap(level: Group, reference: Group, margin: float) -> Gap:
    """Ratio of two ratios of observed to expected patients with the outcome.

    Of each, Wilson's interval of the share observed, the expected number taken as given; put
    together on the log scale (Donner & Zou 2012, Statistical Methods in Medical Research 21:347).
    As if all patients of a group had the same risk: rather too wide than too narrow. Both groups
    must have someone with the outcome, and someone expected to.
    """
    (value, below, above), (other, other_below, other_above) = map(_observed, (level, reference))
    distance = math.log(value / other)
    low, high = _together(distance, (below, above), (other_below, other_above))
    error = max(distance - low, high - distance) / Z_95
    return Gap(
        value=value,
        reference_value=other,
        gap=value / other,
        interval=(math.exp(low), math.exp(high)),
        p=_p_of_interval(distance, (low, high)),
        detectable=math.exp(detectable_shift(error, math.log(margin))),
        of=level.n,
        reference_of=reference.n,
    )


def _together(gap: float, level: Interval, reference: Interval) -> Interval:
    """Interval of a difference, from how far those of its two sides reach below and above."""
    return gap - math.hypot(level[0], reference[1]), gap + math.hypot(level[1], reference[0])


def _p_of_interval(gap: float, interval: Interval) -> float:
    """Two-sided p of 0, as the 95% interval's side towards it is as long as 1.96 errors."""
    return _normal_p(gap, (gap - interval[0] if gap > 0 else interval[1] - gap) / Z_95)


def _exact(level: Share, reference: Share) -> tuple[Interval, float]:
    one, other = (level.part, level.whole), (reference.part, reference.whole)
    return newcombe(one, other), same_share_p(one, other)


def _noisy(level: Share, reference: Share) -> tuple[Interval | None, float | None]:
    gap = level.value - reference.value
    variance = sum(share_variance(one.value, one) for one in (level, reference))
    return wald(gap, variance, float), _normal_p(gap, math.sqrt(variance))


def _normal_p(distance: float, error: float) -> float:
    return math.erfc(abs(distance) / error / math.sqrt(2))


def _area(group: Group) -> tuple[float, float]:
    assert group.auroc is not None
    assert group.auroc_variance is not None
    return group.auroc, group.auroc_variance


def _one_site(level: Group, reference: Group, margin: float) -> Gap:
    (area, below, above), (other, other_below, other_above) = map(_reach, (level, reference))
    interval = _together(area - other, (below, above), (other_below, other_above))
    error = math.sqrt(_area(level)[1] + _area(reference)[1])
    return Gap(
        value=area,
        reference_value=other,
        gap=area - other,
        interval=interval,
        p=_p_of_interval(area - other, interval),
        detectable=detectable_shift(error, margin),
    )


def _reach(group: Group) -> tuple[float, float, float]:
    """An AUROC, and how far its interval reaches below and above."""
    area, variance = _area(group)
    low, high = wald(logit(area), variance / (area * (1 - area)) ** 2, expit)
    return area, area - low, high - area


def _few_sites(pairs: Sequence[Pair], margin: float) -> Gap:
    error = math.sqrt(math.fsum(_variances(pairs))) / len(pairs)
    return _from_errors(_areas(pairs, [1.0] * len(pairs)), [(error, math.inf)], margin)


def _many_sites(pairs: Sequence[Pair], margin: float) -> Gap:
    """The wider of Hartung and Knapp's interval and the normal one with the same weights.

    Sites that agree better than chance would narrow the first by luck (Wiksten, Rücker & Schwarzer
    2016, Statistics in Medicine 35:2503).
    """
    differences = [_area(level)[0] - _area(reference)[0] for level, reference in pairs]
    found = random_effects(differences, _variances(pairs))
    assert found is not None
    weights = [1 / (variance + found.tau2) for variance in _variances(pairs)]
    free = found.sites - 1
    scattered = (found.high - found.low) / 2 / float(stdtrit(free, 0.975))
    errors = [(scattered, free), (1 / math.sqrt(math.fsum(weights)), math.inf)]
    return _from_errors(_areas(pairs, weights), errors, margin)


def _variances(pairs: Sequence[Pair]) -> list[float]:
    return [_area(level)[1] + _area(reference)[1] for level, reference in pairs]


def _areas(pairs: Sequence[Pair], weights: Sequence[float]) -> Gap:
    """Weighted means over sites, without an interval."""
    total = math.fsum(weights)
    level, reference = (
        math.fsum(w * _area(pair[side])[0] for w, pair in zip(weights, pairs, strict=True)) / total
        for side in (0, 1)
    )
    return Gap(value=level, reference_value=reference, gap=level - reference)


def _from_errors(gap: Gap, errors: Sequence[tuple[float, float]], margin: float) -> Gap:
    """The least sure of several standard errors with their degrees of freedom."""
    laws = [(error, student(free)) for error, free in errors if error > 0]
    reach = max(float(law.ppf(0.975)) * error for error, law in laws)
    return Gap(
        value=gap.value,
        reference_value=gap.reference_value,
        gap=gap.gap,
        interval=(gap.gap - reach, gap.gap + reach),
        p=max(2 * float(law.sf(abs(gap.gap) / error)) for error, law in laws),
        detectable=max(
            detectable_shift(error, margin, float(law.ppf(0.975) + law.ppf(0.8)))
            for error, law in laws
        ),
    )


def _observed(group: Group) -> tuple[float, float, float]:
    """Observed / expected, and how far the interval of its log reaches below and above."""
    assert group.n is not None
    assert group.positives is not None
    assert group.expected is not None
    share, (low, high) = group.positives / group.n, wilson(group.positives, group.n)
    return group.positives / group.expected, math.log(share / low), math.log(high / share)
