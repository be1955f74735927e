"""Random effects against published numbers and classical special cases; and their coverage."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from cohortium.common.metrics.random_effects import random_effects

KACKER = (  # Kacker 2004, Metrologia 41:132, table 1, first row
    (61.00, 61.40, 62.21, 62.30, 62.34, 62.60, 62.70, 62.84, 65.90),
    (0.2025, 1.2100, 0.0900, 0.2025, 0.3844, 0.5625, 0.0676, 0.0225, 1.8225),
)


def test_paule_and_mandel_equals_the_published_value() -> None:
    found = random_effects(*KACKER)
    assert found is not None
    assert math.sqrt(found.tau2) == pytest.approx(0.8399, abs=5e-5)


def test_equally_precise_sites_give_the_t_interval_of_their_estimates() -> None:
    values = [0.2, 0.5, 1.4, 0.9]
    for variance in (1e-6, 0.05, 10.0):
        found = random_effects(values, [variance] * 4)
        interval = ttest_1samp(values, 0).confidence_interval(0.95)
        assert found is not None
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6)
        assert found.tau2 == pytest.approx(max(0.0, np.var(values, ddof=1) - variance), abs=1e-9)


def test_three_sites_by_hand() -> None:
    """Mean 2, Q = 2 = k - 1 at tau2 0; t(2) = 4.3027, t(1) = 12.7062; standard error 1/sqrt(3)."""
    found = random_effects([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    assert found is not None
    assert (found.mean, found.tau2, found.i2, found.sites) == (2.0, 0.0, 0.0, 3)
    assert found.high - 2 == pytest.approx(4.30265 / math.sqrt(3), rel=1e-5)
    assert found.new_high - 2 == pytest.approx(12.7062 / math.sqrt(3), rel=1e-5)


def test_two_sites_are_too_few_to_say_how_sites_differ() -> None:
    assert random_effects([0.1, 0.2], [0.01, 0.01]) is None


def test_sites_that_agree_exactly_have_nothing_between_them() -> None:
    found = random_effects([0.7, 0.7, 0.7], [0.1, 0.2, 0.3])
    assert found is not None
    assert (found.tau2, found.i2) == (0.0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("sites", [3, 5, 20])
@pytest.mark.parametrize("largest", [1, 5])
@pytest.mark.parametrize("tau2", [0.0, 0.5, 2.0])
def test_the_interval_over_sites_misses_the_truth_as_often_as_it_says(
    sites: int, largest: int, tau2: float
) -> None:
    rng = np.random.default_rng(20010101)
    variances = np.geomspace(1, largest, sites)
    held = []
    for _ in range(4000):
        truths = rng.normal(0.0, math.sqrt(tau2 * variances.mean()), sites)
        estimates = rng.normal(truths, np.sqrt(variances))
        found = random_effects(estimates.tolist(), variances.tolist())
        assert found is not None
        held.append(found.low <= 0 <= found.high)
    assert 0.93 <= np.mean(held) <= 0.97
