"""A slope that is not that of the pooled rows, or given where there is none, misleads a clinic."""

import math
from collections.abc import Callable
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from cohortium.common.metrics.calibration import (
    ANYWHERE,
    BOX,
    EVERYBODY,
    FURTHEST,
    MAX_STEPS,
    NO_END,
    TOO_EVEN,
    TOO_FAR,
    Point,
    Sums,
    drive,
    logits,
    newton,
    pooled_fit,
    shown,
    site_fit,
    sums_at,
)
from cohortium.common.metrics.calibration_disclosure import Patients, answer
from cohortium.common.metrics.tallies import Calibration

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def ward(
    seed: int, n: int, slope: float = 1.0, spread: float = 1.5, intercept: float = 0.0
) -> tuple[Floats, Flags]:
    """Scores, and outcomes that follow them with this calibration."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, spread, n)
    return 1 / (1 + np.exp(-x)), rng.random(n) < 1 / (1 + np.exp(-intercept - slope * x))


def numbers(fit: Calibration) -> tuple[float, ...]:
    return (
        fit.intercept,
        fit.slope,
        fit.intercept_variance,
        fit.slope_variance,
        fit.covariance,
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(20, 300),
    slope=st.sampled_from([-0.5, 0.2, 1.0, 3.0]),
    spread=st.sampled_from([0.1, 1.0, 4.0]),
    intercept=st.sampled_from([-2.0, 0.0]),
)
def test_a_sites_own_fit_is_that_of_scikit_learn(
    seed: int, n: int, slope: float, spread: float, intercept: float
) -> None:
    scores, positive = ward(seed, n, slope, spread, intercept)
    fit = site_fit(scores, positive)
    if fit is None:
        return
    x = logits(scores)[:, None]
    oracle = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000, solver="newton-cholesky")
    oracle.fit(x, positive)
    p = oracle.predict_proba(x)[:, 1]
    design = np.hstack([np.ones_like(x), x])
    covariance = np.linalg.inv(design.T @ (design * (p * (1 - p))[:, None]))
    assert fit.slope == pytest.approx(oracle.coef_[0, 0], rel=1e-7, abs=1e-7)
    assert fit.intercept == pytest.approx(oracle.intercept_[0], rel=1e-7, abs=1e-7)
    assert fit.slope_variance == pytest.approx(covariance[1, 1], rel=1e-3)
    assert fit.intercept_variance == pytest.approx(covariance[0, 0], rel=1e-3)
    wide = np.sqrt(covariance[0, 0] * covariance[1, 1])  # of which a covariance may be next to none
    assert fit.covariance == pytest.approx(covariance[0, 1], abs=1e-3 * wide)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    seed=st.integers(0, 10**6),
    intercept=st.floats(-3, 3),
    slope=st.floats(0, 5),
)
def test_merged_sums_are_those_of_the_pooled_rows(
    sizes: list[int], seed: int, intercept: float, slope: float
) -> None:
    wards = [ward(seed + k, n) for k, n in enumerate(sizes)]
    point = Point(intercept=intercept, slope=slope)
    parts = [sums_at(logits(scores), positive, point) for scores, positive in wards]
    rows = (np.concatenate([w[0] for w in wards]), np.concatenate([w[1] for w in wards]))
    whole = sums_at(logits(rows[0]), rows[1], point)
    for order in (parts, parts[::-1]):
        merged = reduce(add, order)
        assert merged.gradient == pytest.approx(whole.gradient, abs=1e-9)
        assert merged.information == pytest.approx(whole.information, abs=1e-9)


def test_sums_by_hand() -> None:
    """Scores 1/2 and 3/4, the second with the outcome: x = 0 and log 3."""
    sums = sums_at(
        logits(np.array([0.5, 0.75])), np.array([False, True]), Point(intercept=0, slope=1)
    )
    x = math.log(3)
    assert sums.gradient == pytest.approx((-0.25, 0.25 * x))
    assert sums.information == pytest.approx((0.25 + 0.1875, 0.1875 * x, 0.1875 * x * x))


@pytest.mark.parametrize("slope", [0.5, 1.0, 2.5])
def test_the_fit_over_sites_is_that_of_all_their_rows(slope: float) -> None:
    wards = [ward(seed, 40 * (1 + seed), slope) for seed in range(4)]
    together = site_fit(*(np.concatenate(part) for part in zip(*wards, strict=True)))
    found = over(wards, 0)
    assert isinstance(found, Calibration)
    assert together is not None
    assert numbers(found) == pytest.approx(numbers(together), abs=1e-8, rel=1e-6)


def at(table: tuple[Floats, Flags], point: Point) -> Sums:
    return sums_at(logits(table[0]), table[1], point)


# ------------------------------------------------------------------ where there is none


@pytest.mark.parametrize(
    ("scores", "positive"),
    [
        ([0.1, 0.2, 0.3, 0.4], [0, 0, 0, 1]),  # one with the outcome
        ([0.1, 0.2, 0.3, 0.4], [1, 1, 1, 1]),
        ([], []),
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]),  # separated
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0]),  # the other way round
        ([0.1, 0.5, 0.5, 0.9], [0, 0, 1, 1]),  # but for a tie
        ([0.3, 0.3, 0.3, 0.3], [0, 1, 0, 1]),  # no spread
        ([0.0, 1e-9, 0.0, 1e-8], [0, 1, 1, 0]),  # none that counts
    ],
)
def test_no_slope_is_given_where_none_exists(scores: list[float], positive: list[int]) -> None:
    assert site_fit(np.array(scores, float), np.array(positive, bool)) is None


def test_scores_of_exactly_0_and_1_count_as_nearly_so() -> None:
    fit = site_fit(np.array([0.0, 0.0, 1.0, 1.0, 0.2]), np.array([0, 1, 1, 1, 0], bool))
    assert fit is not None
    assert abs(logits(np.array([0.0, 1.0]))).tolist() == pytest.approx([FURTHEST, FURTHEST])


def test_a_fit_over_sites_says_why_there_is_none() -> None:
    separated = (np.array([0.2, 0.3, 0.7, 0.8]), np.array([0, 0, 1, 1], bool))
    assert drive(newton(MAX_STEPS, BOX), lambda p: at(separated, p)) == NO_END
    assert drive(newton(50, BOX), lambda p: at(separated, p)) == TOO_FAR
    reversed_ = ward(1, 500, slope=-1.0)
    assert drive(newton(MAX_STEPS, BOX), lambda p: at(reversed_, p)) == TOO_FAR
    even = (np.full(9, 0.3), np.arange(9) % 2 == 0)
    assert drive(newton(MAX_STEPS, BOX), lambda p: at(even, p)) == TOO_EVEN
    assert drive(newton(1, ANYWHERE), lambda p: at(ward(1, 500, 3.0), p)) == NO_END
    assert pooled_fit(NO_END, ()).fit is None
    assert pooled_fit(NO_END, ()).reason == NO_END


def test_sums_that_no_data_give_end_in_a_reason_and_not_in_an_error() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        a, b, c, d, e = rng.normal(0, 10.0 ** rng.integers(-3, 12), 5).tolist()
        lie = Sums(gradient=(a, b), information=(abs(c), d, abs(e)))
        assert isinstance(drive(newton(MAX_STEPS, BOX), always(lie)), str | Calibration)


def always(sums: Sums) -> Callable[[Point], Sums]:
    return lambda _: sums


# ------------------------------------------------------------------ what is shown


def test_a_sites_own_fit_is_rounded_unless_disclosure_control_is_off() -> None:
    fit = site_fit(*ward(2, 200))
    assert fit is not None
    assert shown(fit, 0) == fit
    rounded = shown(fit, 10)
    assert rounded is not None
    assert (rounded.intercept, rounded.slope) == (round(fit.intercept, 3), round(fit.slope, 3))
    assert rounded.slope_variance == float(f"{fit.slope_variance:.3g}")
    assert shown(None, 10) is None


def test_a_fit_so_steep_that_it_counts_who_is_above_its_middle_is_not_shown() -> None:
    """Forty patients, of whom one is on the wrong side of the cut: nobody else is undecided."""
    scores = np.r_[np.linspace(0.1, 0.4, 20), np.linspace(0.6, 0.9, 20)]
    positive = np.r_[np.zeros(18, bool), True, False, np.ones(20, bool)]
    fit = site_fit(scores, positive)
    assert fit is not None
    assert shown(fit, 10) is None


def test_rounding_moves_a_pooled_fit_no_more_than_is_said() -> None:
    """K u / 2 times the variances; and the interval counts it in (see calibration_disclosure)."""
    cell, misses = 10, 0
    for seed in range(40):
        wards = [ward(100 * seed + k, 120, slope=0.5 + seed / 30) for k in range(4)]
        exact, rough = over(wards, 0), over(wards, cell)
        assert isinstance(exact, Calibration)
        assert isinstance(rough, Calibration)
        reach = 4 * cell / 10 / 2 * (exact.slope_variance + abs(exact.covariance))
        assert abs(rough.slope - exact.slope) <= reach + 0.03 * math.sqrt(exact.slope_variance)
        assert rough.slope_variance > 0.9 * exact.slope_variance
        misses += abs(rough.slope - exact.slope) > 0.15 * math.sqrt(exact.slope_variance)
    assert misses <= 2


def over(wards: list[tuple[Floats, Flags]], minimum_cell: int) -> Calibration | str:
    """The fit over sites with such a policy."""

    def look(point: Point) -> Sums:
        return reduce(add, (told(table, point, minimum_cell) for table in wards))

    return drive(newton(MAX_STEPS, BOX), look)


def told(table: tuple[Floats, Flags], point: Point, minimum_cell: int) -> Sums:
    scores, positive = table
    patients = Patients(logits(scores), positive, {EVERYBODY: np.ones(len(scores), bool)})
    return answer(patients, {EVERYBODY: point}, minimum_cell)[EVERYBODY]
