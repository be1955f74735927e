"""Whole-number noise has the distribution that is paid for, to the last probability."""

import math
from collections import Counter
from fractions import Fraction
from typing import NoReturn

import numpy as np
import pytest
from scipy.stats import chisquare
from tests.common.test_coherence import study

from cohortium.common.document import parse
from cohortium.common.privacy import discrete_gaussian as module
from cohortium.common.privacy.accounting import epsilon, noise_multiplier
from cohortium.common.privacy.discrete_gaussian import discrete_gaussian
from cohortium.common.privacy.noise import NoiseSource
from cohortium.common.privacy.plan import GRID, noise_std, planned_evaluation, whole_plan
from cohortium.common.study import Study

Weights = Counter[object]


class RunsOut(Exception):
    """The sampler wanted more coins than it was given."""


def outcomes(draw, depth: int) -> tuple[dict[object, Fraction], Fraction]:  # type: ignore[no-untyped-def]
    """Every result of a sampler with its exact probability, by trying all coins; and what is left.

    Paths of more than `depth` coins are not followed.
    """
    found: dict[object, Fraction] = {}
    left = Fraction(0)
    todo: list[tuple[tuple[int, ...], Fraction]] = [((), Fraction(1))]
    while todo:
        coins, weight = todo.pop()
        given = iter(coins)
        wanted: list[int] = []

        def below(n: int, given=given, wanted=wanted) -> int:  # type: ignore[no-untyped-def]
            for coin in given:
                return int(coin)
            wanted.append(n)
            raise RunsOut

        try:
            result = draw(below)
        except RunsOut:
            if len(coins) >= depth:
                left += weight
            else:
                n = wanted[0]
                todo += [((*coins, k), weight / n) for k in range(n)]
            continue
        found[result] = found.get(result, Fraction(0)) + weight
    return found, left


@pytest.mark.parametrize("gamma", [Fraction(0), Fraction(1, 3), Fraction(1)])
def test_a_coin_of_probability_exp_minus_gamma_is_exactly_that(gamma: Fraction) -> None:
    found, left = outcomes(lambda below: module._accepts(gamma, below), depth=6)
    sure = float(found.get(True, Fraction(0)))
    assert sure <= math.exp(-gamma) + 1e-12
    assert math.exp(-gamma) <= sure + float(left) + 1e-12
    assert left < Fraction(1, 100)


@pytest.mark.parametrize("std", [0.5, 1.0, 3.7])
def test_draws_follow_the_discrete_gaussian(std: float) -> None:
    n = 8000
    draws = discrete_gaussian((n,), std, NoiseSource())
    reach = np.arange(-math.ceil(6 * std), math.ceil(6 * std) + 1)
    weights = np.exp(-(reach**2) / (2 * std**2))
    expected = n * weights / weights.sum()
    enough = expected >= 5
    seen = np.array([(draws == x).sum() for x in reach])
    observed = [*seen[enough], n - seen[enough].sum()]
    wanted = [*expected[enough], n - expected[enough].sum()]
    assert chisquare(observed, wanted).pvalue > 1e-5


def test_numbers_below_any_bound_are_equally_likely_and_below_it() -> None:
    source = NoiseSource()
    assert {source.below(1) for _ in range(10)} == {0}
    seen = Counter(source.below(5) for _ in range(5000))
    assert sorted(seen) == [0, 1, 2, 3, 4]
    assert chisquare(list(seen.values())).pvalue > 1e-5
    assert 0 <= source.below(2**100) < 2**100


def loss(std: float, families: int, eps: float) -> float:
    """delta(eps) of so many counts that are one higher, under discrete noise: by convolution."""
    reach = np.arange(-math.ceil(14 * std), math.ceil(14 * std) + 1)
    weights = np.exp(-(reach**2) / (2 * std**2))
    one = weights / weights.sum()
    total = np.array([1.0])
    for _ in range(families):
        total = np.convolve(total, one)
    sums = np.arange(len(total)) + families * reach[0]
    privacy_loss = (families - 2 * sums) / (2 * std**2)  # of sums x with and without one patient
    return float((total * np.maximum(0, 1 - np.exp(eps - privacy_loss))).sum())


@pytest.mark.parametrize("delta", [1e-6, 1e-5, 1e-2])
def test_discrete_noise_is_as_private_as_what_is_paid_for(delta: float) -> None:
    """Without a little more than the continuous noise it would not be."""
    bare = []
    for eps in (0.1, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 10.0):
        sigma = noise_multiplier(eps, delta, 1.0, 1, "full-batch")
        for tables in (1, 2, 4, 7):
            std = sigma * math.sqrt(tables)
            assert loss(GRID * std, tables, eps) <= delta
            bare.append(loss(std, tables, eps) / delta)
    assert max(bare) > 1.5


def noisy(eps: float, families: int) -> Study:
    chosen = study("binary", {"evaluation": {"noise_epsilon": eps}})
    names = tuple(f"flag{k}" for k in range(families - 1))
    columns = {**chosen.data_model.model_dump()["columns"], **{n: {"kind": "flag"} for n in names}}
    values = chosen.model_dump()
    values["data_model"] = {"name": values["data_model"]["name"], "columns": columns}
    values["fairness"] = {"attributes": names}
    return parse(values, Study, "study.toml")


def test_the_noise_costs_what_the_study_says_and_grows_with_the_root_of_the_tables() -> None:
    one, four = noisy(1.0, 1), noisy(1.0, 4)
    mechanism = planned_evaluation(one)
    assert mechanism is not None
    assert one.privacy.delta is not None
    assert epsilon([mechanism], one.privacy.delta) == pytest.approx(1.0, rel=1e-6)
    assert noise_std(four) == pytest.approx(2 * noise_std(one))
    assert noise_std(noisy(1.0, 1)) == pytest.approx(GRID * 3.73, abs=0.01)  # at delta 1e-5


def test_a_plan_holds_training_and_results_and_merges_what_is_alike() -> None:
    asked = noisy(1.0, 2)
    assert asked.privacy.epsilon == 1.0
    assert [one.steps for one in whole_plan(asked, "a")] == [2]  # one full batch, and the results
    assert [one.steps for one in whole_plan(noisy(0.5, 2), "a")] == [1, 1]
    assert [one.steps for one in whole_plan(study("binary", {}), "a")] == [1]


def test_noise_of_another_process_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("a seed was used")

    monkeypatch.setattr(np.random, "default_rng", refuse)
    first, second = (discrete_gaussian((40,), 20.0, NoiseSource()) for _ in range(2))
    assert (first != second).any()
