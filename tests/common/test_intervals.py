"""Intervals against published ones, independent formulas, and how often they hold the truth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from cohortium.common.metrics.auroc import auroc, auroc_variance
from cohortium.common.metrics.intervals import (
    expit,
    logit,
    mcc_variance,
    newcombe,
    wald,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_equal_the_published_ones(
    successes: int, trials: int, low: float, high: float
) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17:873, table II, method 10
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((10, 10), (0, 10), 0.6075, 1.0000),
    ],
)
def test_differences_of_proportions_equal_the_published_ones(
    one: tuple[int, int], other: tuple[int, int], low: float, high: float
) -> None:
    assert newcombe(one, other) == pytest.approx((low, high), abs=5e-5)


@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=4, max_size=40).filter(
        lambda rows: 2 <= sum(positive for _, positive in rows) <= len(rows) - 2
    )
)
def test_delong_by_ranks_equals_its_definition_over_all_pairs_with_ties(
    rows: list[tuple[int, bool]],
) -> None:
    ill = np.array([score for score, positive in rows if positive], float)
    well = np.array([score for score, positive in rows if not positive], float)
    wins = (ill[:, None] > well) + (ill[:, None] == well) / 2
    expected = wins.mean(axis=1).var(ddof=1) / len(ill) + wins.mean(axis=0).var(ddof=1) / len(well)
    scores = np.array([score / 6 for score, _ in rows])
    positive = np.array([positive for _, positive in rows])
    assert auroc_variance(scores, positive) == pytest.approx(expected, abs=1e-15)


def test_delong_with_one_patient_of_a_class_is_unknown_not_zero() -> None:
    assert auroc_variance(np.array([0.1, 0.2, 0.9]), np.array([False, False, True])) is None


@given(st.tuples(*[st.integers(1, 400)] * 4))
def test_the_variance_of_mcc_equals_the_delta_method_by_finite_differences(
    cells: tuple[int, int, int, int],
) -> None:
    def mcc(p: np.ndarray) -> float:
        tp, fp, tn, fn = p
        return float((tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))

    n = sum(cells)
    p = np.array(cells) / n
    step = 1e-6 * p.min()
    moves = np.eye(4) * step
    gradient = np.array([(mcc(p + move) - mcc(p - move)) / (2 * step) for move in moves])
    expected = (gradient @ (np.diag(p) - np.outer(p, p)) @ gradient) / n
    tp, fp, tn, fn = cells
    assert mcc_variance(tp, fp, tn, fn) == pytest.approx(expected, rel=1e-3, abs=1e-9)


@given(st.floats(-30, 30))
def test_logit_and_expit_undo_each_other(value: float) -> None:
    assert 0 < expit(value) < 1
    if abs(value) < 15:
        assert logit(expit(value)) == pytest.approx(value, rel=1e-6, abs=1e-9)


def wilson_coverage(trials: int, p: float) -> float:
    """Exact: the chance of those outcomes whose interval holds p."""
    intervals = np.array([wilson(k, trials) for k in range(trials + 1)])
    holds = (intervals[:, 0] <= p) & (p <= intervals[:, 1])
    return float(binom.pmf(np.arange(trials + 1), trials, p)[holds].sum())


@pytest.mark.parametrize(("trials", "low", "high"), [(50, 0.2, 0.8), (200, 0.05, 0.95)])
def test_a_wilson_interval_misses_the_truth_as_often_as_it_says(
    trials: int, low: float, high: float
) -> None:
    found = [wilson_coverage(trials, p) for p in np.linspace(low, high, 301)]
    assert min(found) >= 0.93
    assert max(found) <= 0.97


@pytest.mark.parametrize("trials", [(20, 50), (50, 50)])
def test_a_newcombe_interval_misses_the_truth_as_often_as_it_says(trials: tuple[int, int]) -> None:
    m, n = trials
    bounds = np.array([[newcombe((a, m), (b, n)) for b in range(n + 1)] for a in range(m + 1)])
    found = []
    for p in np.linspace(0.2, 0.8, 13):
        for q in np.linspace(0.2, 0.8, 13):
            holds = (bounds[..., 0] <= p - q + 1e-12) & (p - q - 1e-12 <= bounds[..., 1])
            chance = np.outer(binom.pmf(range(m + 1), m, p), binom.pmf(range(n + 1), n, q))
            found.append(chance[holds].sum())
    assert min(found) >= 0.93
    assert max(found) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ill", "well", "truth"),
    [(20, 20, 0.75), (20, 100, 0.85), (50, 50, 0.6), (50, 200, 0.95), (100, 100, 0.9)],
)
def test_a_delong_interval_misses_the_truth_as_often_as_it_says(
    ill: int, well: int, truth: float
) -> None:
    rng = np.random.default_rng(20140710)
    positive = np.arange(ill + well) < ill
    apart = math.sqrt(2) * norm.ppf(truth)  # of two normal populations with this AUROC
    held = []
    for _ in range(4000):
        scores = rng.normal(size=ill + well) + apart * positive
        area, variance = auroc(scores, positive), auroc_variance(scores, positive)
        if not area or not variance or area == 1:
            continue
        low, high = wald(logit(area), variance / (area * (1 - area)) ** 2, expit)
        held.append(low <= truth <= high)
    assert 0.93 <= np.mean(held) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("prevalence", [0.1, 0.5])
@pytest.mark.parametrize(("sensitivity", "specificity"), [(0.6, 0.7), (0.9, 0.9)])
def test_intervals_of_mcc_and_f1_miss_the_truth_as_often_as_they_say(
    prevalence: float, sensitivity: float, specificity: float
) -> None:
    ill, well = prevalence, 1 - prevalence
    shares = (
        ill * sensitivity,
        well * (1 - specificity),
        well * specificity,
        ill * (1 - sensitivity),
    )
    truth, f1 = _mcc(*shares), 2 * shares[0] / (2 * shares[0] + shares[1] + shares[3])
    rng = np.random.default_rng(20140710)
    held = []
    for tp, fp, tn, fn in rng.multinomial(300, shares, 4000).tolist():
        phi = _mcc(tp, fp, tn, fn)
        spread = mcc_variance(tp, fp, tn, fn) / (1 - phi**2) ** 2
        low, high = wald(math.atanh(phi), spread, math.tanh)
        least, most = (2 * share / (1 + share) for share in wilson(tp, tp + fp + fn))
        held.append((low <= truth <= high, least <= f1 <= most))
    assert all(0.93 <= share <= 0.97 for share in np.mean(held, axis=0))


def _mcc(tp: float, fp: float, tn: float, fn: float) -> float:
    return (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
