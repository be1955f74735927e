"""Gaps between two groups: against published numbers and other software, and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, chi2_contingency, fisher_exact, norm

from cohortium.common.evaluating import Criterion
from cohortium.common.fairness.contrasts import verdict
from cohortium.common.fairness.counts import Group, Share
from cohortium.common.fairness.gaps import (
    area_gap,
    calibration_gap,
    same_share_p,
    share_gap,
)
from cohortium.common.fairness.power import detectable_difference
from cohortium.common.metrics.auroc import auroc, auroc_variance
from cohortium.common.metrics.intervals import newcombe

MARGIN = 0.05
TABLES = st.tuples(*[st.integers(0, 40)] * 4).filter(lambda t: t[0] + t[1] > 0 < t[2] + t[3])


@given(TABLES)
def test_p_of_equal_shares_is_that_of_scipy(table: tuple[int, int, int, int]) -> None:
    a, b, c, d = table
    n = sum(table)
    found = same_share_p((a, a + b), (c, c + d))
    if not (a + c) * (b + d):
        assert found == 1.0
    elif min(a + b, c + d) * min(a + c, b + d) < n:
        assert found == pytest.approx(fisher_exact([[a, b], [c, d]]).pvalue)
    else:
        chi2 = chi2_contingency([[a, b], [c, d]], correction=False).statistic
        assert found == pytest.approx(math.erfc(math.sqrt(chi2 * (n - 1) / n / 2)))


def test_few_patients_with_a_rare_outcome_are_tested_exactly() -> None:
    assert same_share_p((3, 4), (2, 1000)) == pytest.approx(fisher_exact([[3, 1], [2, 998]]).pvalue)


@pytest.mark.parametrize(
    ("patients", "gap"),
    [(20, 0.32), (50, 0.20), (100, 0.14), (200, 0.10), (500, 0.07), (1000, 0.05)],
)
def test_smallest_detectable_gaps_are_those_of_the_design(patients: int, gap: float) -> None:
    """Sensitivity 0.8 of 1000 reference patients, without a margin."""
    found = detectable_difference(Share(0, patients), Share(800, 1000), 0.0)
    assert found == pytest.approx(gap, abs=0.008)


def test_two_patients_detect_nothing_rather_than_something_impossible() -> None:
    assert detectable_difference(Share(1, 2), Share(1, 2), MARGIN) is None


def test_without_noise_the_interval_is_newcombes() -> None:
    found = share_gap(Share(56, 70), Share(48, 80), MARGIN)
    assert (found.value, found.reference_value, found.gap) == pytest.approx((0.8, 0.6, 0.2))
    assert found.interval == newcombe((56, 70), (48, 80))


def test_noise_in_the_counts_widens_the_interval_as_it_should() -> None:
    """Reference: variance p (1 - p) / n + s^2 ((1 - p)^2 + p^2) / n^2 of each share."""
    plain = share_gap(Share(80, 100), Share(160, 200), MARGIN)
    noisy = share_gap(Share(80, 100, 9.0, 9.0), Share(160, 200, 9.0, 9.0), MARGIN)
    expected = 0.16 / 100 + 9 * 0.68 / 100**2 + 0.16 / 200 + 9 * 0.68 / 200**2
    assert plain.interval is not None
    assert noisy.interval is not None
    assert noisy.interval[1] == pytest.approx(1.959964 * math.sqrt(expected))
    assert noisy.interval[1] > plain.interval[1]
    assert plain.detectable is not None
    assert noisy.detectable is not None
    assert noisy.detectable > plain.detectable


def test_a_ratio_of_calibrations_is_read_on_the_log_scale() -> None:
    """Observed 60 for 50 expected of 200, against 30 for 40 of 100."""
    level = Group(n=200, positives=60, expected=50.0)
    reference = Group(n=100, positives=30, expected=40.0)
    found = calibration_gap(level, reference, 1.25)
    assert (found.value, found.reference_value) == pytest.approx((1.2, 0.75))
    assert found.gap == pytest.approx(1.6)
    error = math.sqrt(0.7 / 60 + 0.7 / 30)  # by the delta method (Debray et al. 2017)
    low, high = 1.6 * math.exp(-1.959964 * error), 1.6 * math.exp(1.959964 * error)
    assert found.interval == pytest.approx((low, high), rel=0.03)
    assert found.detectable == pytest.approx(1.25 * math.exp(2.8015852 * error), rel=0.05)


def test_three_patients_who_are_all_ill_are_no_proof_of_a_bad_calibration() -> None:
    """0.9 of three were expected; among 43 others 42 were ill where 27 were expected.

    If women's risk too is 42 / 27 times the expected one, all three are ill one time in ten.
    """
    three = Group(n=3, positives=3, expected=0.91)
    found = calibration_gap(three, Group(n=43, positives=42, expected=26.7), 1.25)
    assert found.p is not None
    assert found.p > 0.05
    assert verdict(found.interval, "calibration", 1.25) == "inconclusive"


def area(value: float, variance: float) -> Group:
    return Group(auroc=value, auroc_variance=variance)


def test_one_site_gives_the_difference_of_its_own_areas() -> None:
    found = area_gap([(area(0.9, 0.0009), area(0.7, 0.0016))], 0.03)
    assert found.gap == pytest.approx(0.2)
    assert found.p is not None
    assert 1e-6 < found.p < 0.005
    assert found.interval is not None
    low, high = found.interval
    assert low < 0.2 - 1.8 * 0.05  # an area near 1 may be much lower, but not higher
    assert high < 0.2 + 1.96 * 0.05


def test_sites_that_differ_widen_the_interval_of_an_area_gap() -> None:
    agreeing = [(area(0.8, 0.001), area(0.7, 0.001))] * 4
    differing = [(area(0.7 + x, 0.001), area(0.7, 0.001)) for x in (-0.1, 0.05, 0.2, 0.25)]
    one, other = area_gap(agreeing, 0.03), area_gap(differing, 0.03)
    assert one.gap == pytest.approx(0.1)
    assert other.gap == pytest.approx(0.1, abs=0.01)
    assert one.interval is not None
    assert other.interval is not None
    assert other.interval[0] < 0 < one.interval[0]
    assert one.interval[0] == pytest.approx(0.1 - 1.96 * math.sqrt(0.002 / 4), abs=1e-4)


def test_two_sites_are_their_mean_and_value_minus_reference_is_the_gap() -> None:
    found = area_gap(
        [(area(0.9, 0.001), area(0.8, 0.001)), (area(0.7, 0.003), area(0.8, 0.003))], 1
    )
    assert (found.value, found.reference_value, found.gap) == pytest.approx((0.8, 0.8, 0.0))
    assert found.interval == pytest.approx((-0.0877, 0.0877), abs=1e-4)


def test_a_perfect_ranking_has_no_error_and_no_verdict_by_it() -> None:
    found = area_gap([(area(1.0, 0.0), area(0.8, 0.001))], 0.03)
    assert found.gap == pytest.approx(0.2)
    assert (found.interval, found.p) == (None, None)
    assert verdict(found.interval, "auroc", 0.03) == "inconclusive"


@pytest.mark.parametrize(
    ("criterion", "margin", "interval", "expected"),
    [
        ("accuracy", 0.05, (-0.05, 0.05), "within margin"),
        ("accuracy", 0.05, (-0.06, 0.05), "inconclusive"),
        ("accuracy", 0.05, (0.051, 0.2), "GAP"),
        ("accuracy", 0.05, (-0.2, -0.051), "GAP"),
        ("accuracy", 0.05, (0.01, 0.2), "inconclusive"),
        ("calibration", 1.25, (0.81, 1.24), "within margin"),
        ("calibration", 1.25, (0.5, 0.79), "GAP"),
        ("calibration", 1.25, (1.26, 2.0), "GAP"),
        ("calibration", 1.25, (0.7, 1.1), "inconclusive"),
        ("auroc", 0.03, None, "inconclusive"),
    ],
)
def test_a_verdict_says_more_than_its_interval(
    criterion: Criterion, margin: float, interval: tuple[float, float] | None, expected: str
) -> None:
    assert verdict(interval, criterion, margin) == expected


def chances(n: int, n0: int, p: float, p0: float) -> dict[str, float]:
    """Exact chance of each verdict on two proportions."""
    found = dict.fromkeys(("within margin", "GAP", "inconclusive"), 0.0)
    ends = (binom.ppf((1e-6, 1 - 1e-6), m, q).astype(int) for m, q in ((n, p), (n0, p0)))
    (low, high), (low0, high0) = ends
    for k in range(low, high + 1):
        for k0 in range(low0, high0 + 1):
            said = verdict(newcombe((k, n), (k0, n0)), "accuracy", MARGIN)
            found[said] += float(binom.pmf(k, n, p) * binom.pmf(k0, n0, p0))
    return found


@pytest.mark.parametrize(("n", "n0"), [(20, 60), (100, 100)])
def test_chance_alone_is_called_a_gap_too_often(n: int, n0: int) -> None:
    assert chances(n, n0, 0.8, 0.8)["GAP"] <= 0.025


@pytest.mark.slow
@pytest.mark.parametrize(("n", "n0"), [(20, 100), (50, 50), (100, 400), (400, 400)])
@pytest.mark.parametrize("p0", [0.1, 0.3, 0.5, 0.8, 0.95])
def test_verdicts_are_wrong_more_often_than_they_say(n: int, n0: int, p0: float) -> None:
    """Without a gap GAP in 2.5% at most; with a gap as large as the margin neither of the two in
    more than 5%; with a detectable one GAP in about 80%."""
    margin = -MARGIN if p0 > 0.5 else MARGIN
    assert chances(n, n0, p0, p0)["GAP"] <= 0.025
    edge = chances(n, n0, p0 + margin, p0)
    assert edge["within margin"] <= 0.05
    assert edge["GAP"] <= 0.05
    away = detectable_difference(Share(0, n), Share(round(p0 * n0), n0), MARGIN)
    assert away is not None
    p = p0 - away if p0 >= 0.5 else p0 + away
    least, most = (0.75, 0.9) if n >= 50 else (0.67, 0.93)
    assert least <= chances(n, n0, p, p0)["GAP"] <= most


@pytest.mark.slow
def test_enough_patients_without_a_gap_are_seldom_within_the_margin() -> None:
    assert chances(2200, 2200, 0.8, 0.8)["within margin"] >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("sites", "spread"), [(1, 0.0), (2, 0.0), (3, 0.0), (5, 0.0), (5, 0.05)])
def test_an_interval_of_an_area_gap_misses_the_truth_more_often_than_it_says(
    sites: int, spread: float
) -> None:
    """Groups of 40 ill and 60 well patients, AUROC 0.75 and 0.85, that vary by site."""
    rng = np.random.default_rng(20140710)
    ill = np.arange(100) < 40

    def drawn(truth: float) -> Group:
        scores = rng.normal(size=100) + math.sqrt(2) * norm.ppf(truth) * ill
        return area(auroc(scores, ill) or 0.5, auroc_variance(scores, ill) or 0.0)

    held, false_gaps, draws = 0, 0, 800
    for _ in range(draws):
        moved = rng.normal(0, spread, sites)
        pairs = [(drawn(0.75 + x), drawn(0.85)) for x in moved]
        interval = area_gap(pairs, 0.03).interval
        assert interval is not None
        held += interval[0] <= -0.1 <= interval[1]
        equal = area_gap([(drawn(0.8 + x), drawn(0.8)) for x in moved], 0.03).interval
        false_gaps += verdict(equal, "auroc", 0.03) == "GAP"
    assert 0.93 <= held / draws <= 0.995
    assert false_gaps / draws <= 0.025


@pytest.mark.slow
@pytest.mark.parametrize(("n", "n0"), [(100, 300), (400, 400)])
@pytest.mark.parametrize("ratio", [1.0, 1.3])
def test_an_interval_of_a_calibration_ratio_misses_the_truth_more_often_than_it_says(
    n: int, n0: int, ratio: float
) -> None:
    rng = np.random.default_rng(20140710)

    def drawn(patients: int, factor: float) -> Group:
        risk = rng.beta(1, 3, patients) * 0.7
        ill = rng.random(patients) < factor * risk
        return Group(n=patients, positives=int(ill.sum()), expected=float(risk.sum()))

    held = []
    for _ in range(3000):
        interval = calibration_gap(drawn(n, ratio), drawn(n0, 1.0), 1.25).interval
        assert interval is not None
        held.append(interval[0] <= ratio <= interval[1])
    assert 0.95 <= np.mean(held) <= 0.985
