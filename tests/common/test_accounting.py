"""Epsilon against two independent accountants, closed forms and published figures."""

import math
import time
from typing import Any

import pytest
from dp_accounting.pld import PLDAccountant
from opacus.accountants import PRVAccountant
from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent
from scipy.stats import norm

from cohortium.common.document import canonical, parse
from cohortium.common.errors import DocumentError, UsageError
from cohortium.common.privacy import accounting
from cohortium.common.privacy.accounting import (
    ORDERS,
    Mechanism,
    epsilon,
    filter_limit,
    filter_order,
    filter_spent,
    noise_multiplier,
    rdp_epsilon,
    true_positive_rate,
)

# sample rate, noise multiplier, steps, delta, PLD epsilon: the reference table of our design
REFERENCE = [
    (0.01, 1.0, 2000, 1e-5, 2.584),
    (0.05, 1.5, 600, 1e-5, 4.176),
    (32 / 600, 1.2, 937, 1e-4, 7.153),
    (256 / 60000, 1.1, 3515, 1e-6, 1.306),
    (0.1, 3.0, 400, 1e-5, 2.921),
]


def poisson(sample_rate: float, sigma: float, steps: int) -> Mechanism:
    return Mechanism(
        sampler="poisson", sample_rate=sample_rate, noise_multiplier=sigma, steps=steps
    )


def full_batch(sigma: float, steps: int = 1) -> Mechanism:
    return Mechanism(sampler="full-batch", sample_rate=1.0, noise_multiplier=sigma, steps=steps)


@pytest.mark.parametrize(("rate", "sigma", "steps", "delta", "expected"), REFERENCE)
def test_epsilon_is_the_one_of_the_reference_table(
    rate: float, sigma: float, steps: int, delta: float, expected: float
) -> None:
    assert epsilon([poisson(rate, sigma, steps)], delta) == pytest.approx(expected, abs=6e-4)


def test_an_auditor_gets_the_same_from_the_interchange_record() -> None:
    mechanisms = [poisson(0.05, 1.5, 300), full_batch(9.0, 4), poisson(0.01, 1.0, 100)]
    auditor = PLDAccountant()
    for mechanism in mechanisms:
        auditor.compose(mechanism.event())
    ours = epsilon(mechanisms, 1e-5)
    assert 0 <= ours - auditor.get_epsilon(1e-5) < 1e-3


def test_the_next_round_s_epsilon_is_quickly_known() -> None:
    epsilon([poisson(0.05, 1.5, 300)], 1e-5)
    start = time.monotonic()
    epsilon([poisson(0.05, 1.5, 301)], 1e-5)
    assert time.monotonic() - start < 1  # 0.05 on a quiet machine


@pytest.mark.parametrize(("rate", "sigma", "steps", "delta", "expected"), REFERENCE)
def test_opacus_prv_accountant_agrees_within_a_hundredth(
    rate: float, sigma: float, steps: int, delta: float, expected: float
) -> None:
    opacus = PRVAccountant()
    opacus.history = [(sigma, rate, steps)]
    upper = opacus.get_epsilon(delta, eps_error=0.01)
    assert 0 <= upper - epsilon([poisson(rate, sigma, steps)], delta) < 0.02


@pytest.mark.parametrize(("rate", "sigma", "steps", "delta", "expected"), REFERENCE)
def test_opacus_rdp_accountant_agrees_and_is_an_upper_bound(
    rate: float, sigma: float, steps: int, delta: float, expected: float
) -> None:
    rdp = compute_rdp(q=rate, noise_multiplier=sigma, steps=steps, orders=ORDERS)
    theirs, _ = get_privacy_spent(orders=ORDERS, rdp=rdp, delta=delta)
    ours = rdp_epsilon([poisson(rate, sigma, steps)], delta)
    assert ours == pytest.approx(theirs, rel=1e-9)
    assert expected < ours < 1.2 * expected


def test_two_studies_are_composed_and_not_added() -> None:
    both = [poisson(0.01, 1.0, 2000), poisson(0.05, 1.5, 600)]
    assert epsilon(both, 1e-5) == pytest.approx(5.034, abs=2e-3)
    assert sum(epsilon([one], 1e-5) for one in both) == pytest.approx(6.760, abs=2e-3)


def test_a_history_of_rounds_costs_what_its_sum_of_steps_costs() -> None:
    rounds = [poisson(0.05, 1.5, 30)] * 20
    assert epsilon(rounds, 1e-5) == epsilon([poisson(0.05, 1.5, 600)], 1e-5)
    assert rdp_epsilon(rounds, 1e-5) == pytest.approx(
        rdp_epsilon([poisson(0.05, 1.5, 600)], 1e-5), rel=1e-12
    )


@pytest.mark.parametrize(("target", "sigma"), [(1, 14.45), (3, 5.39), (8, 2.32)])
def test_fifteen_full_batches_need_the_published_noise(target: float, sigma: float) -> None:
    found = noise_multiplier(target, 1e-5, 1.0, 15, "full-batch")
    assert found == pytest.approx(sigma, abs=5e-3)
    spent = epsilon([full_batch(found)] * 15, 1e-5)
    assert target - 1e-6 < spent <= target


def test_a_full_batch_epsilon_solves_its_closed_form() -> None:
    mechanisms = [full_batch(4.0, 9), full_batch(2.0, 3)]
    mu = math.sqrt(9 / 16 + 3 / 4)
    e = epsilon(mechanisms, 1e-6)
    delta = norm.cdf(mu / 2 - e / mu) - math.exp(e) * norm.cdf(-mu / 2 - e / mu)
    assert delta == pytest.approx(1e-6, rel=1e-6)


def test_the_exact_and_the_numerical_way_agree_where_both_apply() -> None:
    exact = epsilon([full_batch(3.0, 10)], 1e-5)
    numerical = accounting._sampled_epsilon((), math.sqrt(10) / 3, 1e-5)
    assert numerical == pytest.approx(exact, abs=1e-3)
    assert epsilon([full_batch(3.0, 10), poisson(1e-6, 9.0, 1)], 1e-5) == pytest.approx(
        exact, abs=1e-3
    )


def test_nothing_spent_is_zero_and_no_noise_is_infinite() -> None:
    for nothing in ([], [full_batch(1.0, 0)], [poisson(0.1, 0.0, 0)]):
        assert epsilon(nothing, 1e-5) == 0
        assert rdp_epsilon(nothing, 1e-5) == 0
        assert filter_spent(nothing, 8.0) == 0
    for bare in ([full_batch(0.0)], [poisson(0.1, 0.0, 1), full_batch(5.0)]):
        assert epsilon(bare, 1e-5) == math.inf
        assert rdp_epsilon(bare, 1e-5) == math.inf
        assert filter_spent(bare, 8.0) == math.inf
        assert true_positive_rate(bare) == 1


def test_a_hopeless_epsilon_is_a_bound_and_not_a_crash() -> None:
    start = time.monotonic()
    assert 100 < epsilon([poisson(0.05, 0.05, 1000)], 1e-5) < math.inf
    assert 100 < epsilon([full_batch(0.01, 100)], 1e-5) < math.inf
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("target", "delta", "rate", "steps"),
    [
        (1.0, 1e-5, 0.05, 150),
        (8.0, 1e-5, 0.05, 10),
        (0.1, 1e-6, 0.001, 10_000),
        (50.0, 1e-5, 0.05, 100),
        (3.0, 1e-5, 0.99, 15),
    ],
)
def test_noise_found_for_a_plan_never_exceeds_the_target_and_wastes_little(
    target: float, delta: float, rate: float, steps: int
) -> None:
    start = time.monotonic()
    sigma = noise_multiplier(target, delta, rate, steps, "poisson")
    assert time.monotonic() - start < 6  # under 2 on a quiet machine
    assert epsilon([poisson(rate, sigma, steps)], delta) <= target
    assert epsilon([poisson(rate, sigma * 0.99, steps)], delta) > target


def test_noise_found_once_is_remembered() -> None:
    first = noise_multiplier(1.0, 1e-5, 0.05, 150, "poisson")
    start = time.monotonic()
    assert noise_multiplier(1.0, 1e-5, 0.05, 150, "poisson") == first
    assert time.monotonic() - start < 0.01


@pytest.mark.parametrize("cap", [0.01, 0.5, 1.0, 3.0, 8.0, 20.0])
def test_a_history_that_the_filter_lets_through_is_within_the_cap(cap: float) -> None:
    order = filter_order(cap, 1e-5)
    limit = filter_limit(cap, 1e-5, order)
    for step in (full_batch(3.0 / cap), poisson(0.05, max(1.0, 2 / cap), 1)):
        steps = math.floor(limit / filter_spent([step], order))
        if steps:
            history = [step.model_copy(update={"steps": steps})]
            assert filter_spent(history, order) <= limit
            assert epsilon(history, 1e-5) <= cap
            assert rdp_epsilon(history, 1e-5) <= cap


def test_filter_spends_add_up_and_match_the_gaussian_s_closed_form() -> None:
    assert filter_spent([full_batch(2.0, 3)], 8.0) == pytest.approx(3 * 8 / (2 * 4))
    one, two = poisson(0.1, 2.0, 5), full_batch(7.0, 2)
    total = filter_spent([one, two], 5.0)
    assert total == pytest.approx(filter_spent([one], 5.0) + filter_spent([two], 5.0))


@pytest.mark.parametrize(("cap", "rate", "steps"), [(1, 0.01, 2000), (3, 0.05, 300), (8, 0.1, 300)])
def test_the_filters_order_suits_sampled_training_too(cap: float, rate: float, steps: int) -> None:
    sigma = noise_multiplier(cap, 1e-5, rate, steps, "poisson")
    order = filter_order(cap, 1e-5)
    share = filter_limit(cap, 1e-5, order) / filter_spent([poisson(rate, sigma, steps)], order)
    assert share > 0.7


def test_a_cap_too_small_for_anything_is_said_to_be() -> None:
    with pytest.raises(UsageError, match="leaves room for no release"):
        filter_order(1e-6, 1e-5)


def test_an_attackers_hits_are_the_ones_of_the_reference() -> None:
    assert true_positive_rate([poisson(0.01, 1.0, 2000)]) == pytest.approx(0.042, abs=5e-4)
    assert true_positive_rate([poisson(0.05, 1.5, 600)]) == pytest.approx(0.080, abs=5e-4)
    assert true_positive_rate([]) == pytest.approx(0.01)
    expected = norm.cdf(norm.ppf(0.01) + 0.5)
    assert true_positive_rate([full_batch(2.0)]) == pytest.approx(expected)


def test_a_mechanism_survives_the_ledgers_json() -> None:
    mechanism = poisson(0.05, 1.5, 600)
    assert parse(mechanism.model_dump(), Mechanism, "ledger") == mechanism
    assert Mechanism.model_validate_json(canonical(mechanism)) == mechanism
    assert str(mechanism.event()) == (
        "SelfComposedDpEvent(event=PoissonSampledDpEvent(sampling_probability=0.05, "
        "event=GaussianDpEvent(noise_multiplier=1.5)), count=600)"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"sampler": "full-batch", "sample_rate": 0.5},
        {"sample_rate": 0.0},
        {"sample_rate": 1.5},
        {"noise_multiplier": -1.0},
        {"steps": -1},
        {"sampler": "shuffle"},
    ],
)
def test_a_mechanism_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DocumentError):
        parse({**poisson(0.1, 1.0, 1).model_dump(), **wrong}, Mechanism, "ledger")
