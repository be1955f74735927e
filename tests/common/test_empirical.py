"""Bounds and tests of the privacy audit, against sums written out and numbers that others found."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from cohortium.common.privacy import empirical
from cohortium.common.privacy.accounting import Mechanism, epsilon
from cohortium.common.privacy.empirical import (
    LIMIT,
    one_run_bound,
    one_run_ceiling,
    one_run_p_value,
)


def pmf(k: int, n: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def brute_force_p_value(m: int, r: int, v: int, eps: float, delta: float) -> float:
    """The theorem as it is written, with every sum written out."""
    q = math.exp(eps) / (1 + math.exp(eps))
    beta = sum(pmf(k, r, q) for k in range(v, r + 1))
    alpha = max(
        (sum(pmf(k, r, q) for k in range(v - i, v)) / i for i in range(1, v + 1)), default=0.0
    )
    return min(1.0, beta + 2 * m * delta * alpha)


@given(
    r=st.integers(1, 60),
    data=st.data(),
    eps=st.floats(0, 6),
    delta=st.sampled_from([0.0, 1e-6, 1e-4, 1e-2]),
)
@settings(deadline=None, max_examples=200)
def test_the_one_run_p_value_is_that_of_the_theorem_written_out(
    r: int, data: st.DataObject, eps: float, delta: float
) -> None:
    v = data.draw(st.integers(0, r))
    m = data.draw(st.integers(r, 500))
    expected = brute_force_p_value(m, r, v, eps, delta)
    assert one_run_p_value(m, r, v, eps, delta) == pytest.approx(expected, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize(
    ("canaries", "guesses", "ceiling"),
    [(200, 50, 2.78), (1000, 100, 3.47), (1000, 500, 5.09), (5000, 500, 4.98)],
)
def test_the_ceiling_is_what_the_design_measured(
    canaries: int, guesses: int, ceiling: float
) -> None:
    assert one_run_ceiling(canaries, guesses, 1e-5) == pytest.approx(ceiling, abs=0.005)


def test_at_delta_zero_the_ceiling_is_a_formula() -> None:
    """All r right: q^r = 0.05."""
    q = 0.05 ** (1 / 100)
    assert one_run_ceiling(1000, 100, 0.0) == pytest.approx(math.log(q / (1 - q)), abs=1e-6)


@pytest.mark.parametrize(("right", "bound"), [(50, 0.0), (55, 0.0), (70, True), (100, True)])
def test_a_bound_is_where_the_p_value_is_the_significance(right: int, bound: float) -> None:
    found = one_run_bound(500, 100, right, 1e-5)
    if bound is True:
        assert one_run_p_value(500, 100, right, found, 1e-5) == pytest.approx(0.05, abs=1e-6)
    else:
        assert found == bound


def test_more_right_guesses_never_show_less() -> None:
    bounds = [one_run_bound(500, 100, right, 1e-5) for right in range(101)]
    assert bounds == sorted(bounds)
    assert bounds[0] == 0.0


def test_randomised_response_is_not_accused_more_often_than_allowed() -> None:
    """Guesses right with probability e^eps / (1 + e^eps) are what epsilon-DP allows at most."""
    rng, eps = np.random.default_rng(1), 1.0
    right = rng.binomial(100, math.exp(eps) / (1 + math.exp(eps)), 800)
    exceeded = np.mean([one_run_bound(100, 100, int(v), 0.0) > eps for v in right])
    assert 0.02 < exceeded <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 800)


def test_one_run_guesses_the_extremes_and_pays_for_every_size_tried() -> None:
    inside = np.arange(100) >= 50
    found = empirical.one_run(np.arange(100.0), inside, 1e-5)
    assert (found.canaries, found.guesses, found.right) == (100, 100, 100)
    assert found.epsilon == one_run_bound(100, 100, 100, 1e-5, 0.05 / 4)  # of 10, 20, 50, 100
    backwards = empirical.one_run(-np.arange(100.0), inside, 1e-5)
    assert backwards.epsilon == 0.0
    few = empirical.one_run(np.arange(4.0), np.arange(4) > 1, 1e-5)
    assert (few.guesses, few.epsilon) == (0, 0.0)


# ------------------------------------------------------------------ shares


@pytest.mark.parametrize(("k", "n"), [(0, 20), (1, 20), (7, 20), (19, 20), (20, 20)])
def test_clopper_pearson_is_where_the_binomial_tail_is_the_significance(k: int, n: int) -> None:
    low, high = float(empirical.at_least(k, n, 0.025)), float(empirical.at_most(k, n, 0.025))
    if k:
        assert sum(pmf(i, n, low) for i in range(k, n + 1)) == pytest.approx(0.025, rel=1e-6)
    if k < n:
        assert sum(pmf(i, n, high) for i in range(k + 1)) == pytest.approx(0.025, rel=1e-6)
    assert (low == 0.0) == (k == 0)
    assert (high == 1.0) == (k == n)


def test_clopper_pearson_of_a_published_table() -> None:
    """81 of 263: (0.2527, 0.3676), Newcombe 1998 (Statistics in Medicine 17), Table I, method 5."""
    low, high = empirical.at_least(81, 263, 0.025), empirical.at_most(81, 263, 0.025)
    assert (round(float(low), 4), round(float(high), 4)) == (0.2527, 0.3676)


# ------------------------------------------------------------------ Gaussian


@pytest.mark.parametrize("mu", [0.1, 0.5, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("delta", [1e-6, 1e-5, 1e-2])
def test_epsilon_of_gaussian_privacy_is_the_accountants(mu: float, delta: float) -> None:
    whole = Mechanism(sampler="full-batch", sample_rate=1.0, noise_multiplier=1 / mu, steps=1)
    assert empirical.gdp_epsilon(mu, delta) == pytest.approx(epsilon([whole], delta), abs=1e-9)


def test_epsilon_of_gaussian_privacy_is_that_of_the_integral() -> None:
    """delta(eps) is the integral of the positive part of p - e^eps q over the noise."""
    mu, delta = 1.3, 1e-3
    eps = empirical.gdp_epsilon(mu, delta)
    above, _ = quad(lambda x: max(0.0, norm.pdf(x, mu) - math.exp(eps) * norm.pdf(x)), -10, 15)
    assert above == pytest.approx(delta, rel=1e-5)


def test_nothing_and_everything_have_an_epsilon() -> None:
    assert empirical.gdp_epsilon(0.0, 1e-5) == empirical.gdp_epsilon(-1.0, 1e-5) == 0.0
    assert empirical.gdp_epsilon(50.0, 1e-5) == empirical.MOST_EPSILON


def test_the_gaussian_bound_rarely_exceeds_the_truth_and_comes_near_it() -> None:
    rng, mu, delta = np.random.default_rng(2), 1.5, 1e-5
    truth, found = empirical.gdp_epsilon(mu, delta), []
    for _ in range(200):
        inside = rng.random(1000) < 0.5
        found.append(empirical.gdp_bound(rng.normal(size=1000) + mu * inside, inside, delta))
    assert np.mean(np.array(found) > truth) <= 0.05
    assert 0.6 * truth < np.mean(found) < truth


def test_scores_that_tell_nothing_give_nothing_away() -> None:
    rng = np.random.default_rng(3)
    found = [
        empirical.gdp_bound(rng.normal(size=400), rng.random(400) < 0.5, 1e-5) for _ in range(50)
    ]
    assert np.mean(np.array(found) > 0) <= 0.1
    assert empirical.gdp_bound(np.ones(100), np.arange(100) < 50, 1e-5) == 0.0


# ------------------------------------------------------------------ distances


def offs(kind: str, rng: np.random.Generator) -> float:
    if kind == "mean":
        return empirical.mean_off(rng.normal(0, 2, 500), 2.0)
    if kind == "scale":
        return empirical.scale_off(rng.normal(0, 2, 5000), 2.0)
    if kind == "tail":
        return empirical.tail_off(rng.normal(0, 2, 5000), 2.0, beyond=2.0)
    if kind == "batch mean":
        return empirical.binomial_mean_off(rng.binomial(200, 0.1, 100), 200, 0.1)
    if kind == "batch variance":
        return empirical.binomial_variance_off(rng.binomial(200, 0.1, 300), 200, 0.1)
    if kind == "variance":
        return empirical.variance_off(rng.normal(0, 2, 5000), 4.0, 48.0)
    return empirical.correlation_off(rng.normal(size=500), rng.normal(size=500))


@pytest.mark.parametrize(
    "kind", ["mean", "scale", "tail", "batch mean", "batch variance", "variance", "correlation"]
)
def test_distances_are_in_standard_errors(kind: str) -> None:
    rng = np.random.default_rng(4)
    found = np.array([offs(kind, rng) for _ in range(1500)])
    assert abs(found.mean()) < 0.1
    assert 0.9 < found.std() < 1.1
    assert abs(np.mean(np.abs(found) > 2) - 0.0455) < 0.02


def test_a_wrong_scale_of_a_third_of_a_percent_is_found_in_a_million_draws() -> None:
    """LIMIT standard errors are 4 / sqrt(2 N) = 0.28 % of the deviation."""
    values = np.random.default_rng(5).normal(size=1_000_000)
    values /= math.sqrt(np.mean(values**2))
    allowed = LIMIT / math.sqrt(2e6)
    assert allowed == pytest.approx(0.0028, abs=5e-5)
    assert abs(empirical.scale_off(values * (1 + 0.99 * allowed), 1.0)) < LIMIT
    assert abs(empirical.scale_off(values * (1 + 1.01 * allowed), 1.0)) > LIMIT


def test_shuffled_batches_have_the_right_mean_and_no_variance() -> None:
    sizes = np.full(300, 20)
    assert empirical.binomial_mean_off(sizes, 200, 0.1) == pytest.approx(0, abs=0.1)
    assert empirical.binomial_variance_off(sizes, 200, 0.1) < -LIMIT


def test_what_never_varies_or_is_no_number_is_infinitely_off() -> None:
    zeros, nan = np.zeros(10), np.full(10, np.nan)
    assert empirical.correlation_off(zeros, zeros) == math.inf
    assert not abs(empirical.correlation_off(nan, nan)) <= LIMIT
    assert not abs(empirical.scale_off(nan, 1.0)) <= LIMIT
