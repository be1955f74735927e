"""Was it worth joining: numbers by hand, published examples, and how often intervals hold."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest, multinomial
from tests.federation import FULL, write_study

from cohortium.common.metrics.intervals import newcombe
from cohortium.common.metrics.paired import (
    Pairs,
    difference_in_differences,
    mcnemar,
    newcombe_paired,
)
from cohortium.common.metrics.tallies import Beside, BinaryTally, Comparison, SiteEvaluation
from cohortium.common.metrics.value import Compared, Value, value
from cohortium.common.study import Study

# ------------------------------------------------------------------ paired proportions


@pytest.mark.parametrize(
    ("cells", "interval"),
    [  # Newcombe 1998, Statistics in Medicine 17:2635, table II, method 10
        ((36, 12, 2, 0), (0.0569, 0.3404)),
        ((20, 12, 2, 16), (0.0562, 0.3290)),
        ((0, 12, 2, 36), (0.0569, 0.3404)),
        ((54, 0, 0, 0), (-0.0664, 0.0664)),
    ],
)
def test_the_interval_is_the_published_one(
    cells: tuple[int, int, int, int], interval: tuple[float, float]
) -> None:
    assert newcombe_paired(Pairs(*cells)) == pytest.approx(interval, abs=5e-4)


def test_swapping_the_models_turns_the_interval_round() -> None:
    low, high = newcombe_paired(Pairs(30, 9, 4, 7))
    assert newcombe_paired(Pairs(30, 4, 9, 7)) == pytest.approx((-high, -low))


@pytest.mark.parametrize("cells", list(product((0, 5), repeat=4))[1:])
def test_no_table_breaks_the_interval(cells: tuple[int, int, int, int]) -> None:
    pairs = Pairs(*cells)
    low, high = newcombe_paired(pairs)
    assert -1 <= low <= pairs.difference <= high <= 1


@pytest.mark.parametrize(
    "shares", [(0.6, 0.15, 0.05, 0.2), (0.7, 0.1, 0.1, 0.1), (0.4, 0.2, 0.2, 0.2)]
)
def test_the_interval_holds_the_truth_in_95_of_100(shares: tuple[float, ...]) -> None:
    """Exactly, over all tables of 30 patients."""
    n, truth, held = 30, shares[1] - shares[2], 0.0
    for a in range(n + 1):
        for b in range(n + 1 - a):
            for c in range(n + 1 - a - b):
                cells = (a, b, c, n - a - b - c)
                low, high = newcombe_paired(Pairs(*cells))
                if low <= truth <= high:
                    held += _probability(cells, shares)
    assert 0.93 <= held <= 0.975


def _probability(cells: tuple[int, ...], shares: tuple[float, ...]) -> float:
    ways = math.factorial(sum(cells)) / math.prod(math.factorial(c) for c in cells)
    return ways * math.prod(p**c for p, c in zip(shares, cells, strict=True))


def test_mcnemar_is_a_coin_for_those_whom_only_one_model_calls_rightly() -> None:
    assert mcnemar(Pairs(30, 9, 4, 7)) == pytest.approx(binomtest(9, 13, 0.5).pvalue)
    assert mcnemar(Pairs(500, 9, 4, 70)) == mcnemar(Pairs(0, 9, 4, 0))
    assert mcnemar(Pairs(10, 0, 0, 3)) == 1.0
    assert mcnemar(Pairs(0, 6, 0, 0)) == pytest.approx(2 / 64)  # by hand


def test_differences_in_differences_hold_the_truth_in_95_of_100() -> None:
    group, reference = (0.5, 0.1, 0.2, 0.2), (0.7, 0.08, 0.07, 0.15)
    truth = (0.1 - 0.2) - (0.08 - 0.07)
    one = multinomial(80, group).rvs(1500, random_state=1)
    other = multinomial(200, reference).rvs(1500, random_state=2)
    held = 0
    for a, b in zip(one, other, strict=True):
        low, high = difference_in_differences(Pairs(*map(int, a)), Pairs(*map(int, b)))[1]
        held += low <= truth <= high
    assert 0.93 <= held / 1500 <= 0.97


# ------------------------------------------------------------------ the whole


def tally(n: int, right: int, auroc: float, variance: float = 0.001) -> BinaryTally:
    return BinaryTally(
        n=n, positives=n // 2, correct=right, tp=None, fp=None, tn=None, fn=None,
        log_loss=0.5, auroc=auroc, auroc_variance=variance, brier=0.2,
    )  # fmt: skip


def comparison(*cells: int | None, auroc: float | None = None) -> Comparison:
    both, one, other, neither = cells
    return Comparison(
        both=both, federated_only=one, other_only=other, neither=neither, auroc=auroc,
        auroc_difference_variance=None if auroc is None else 0.0004, log_loss=0.6, brier=0.25,
    )  # fmt: skip


def evaluation(
    right: int, auroc: float, overall: Comparison, groups: dict[str, Comparison]
) -> SiteEvaluation:
    beside = Beside(overall=overall, groups={"sex": groups})
    return SiteEvaluation(overall=tally(100, right, auroc), groups={}, beside={"own": beside})


HIDDEN = Comparison(both=None, federated_only=None, other_only=None, neither=None, reason="small")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Groups by sex: female first, so the reference; and by age."""
    return write_study(tmp_path, FULL)


@pytest.fixture
def found(study: Study) -> Value:
    main = {
        "a": evaluation(
            80, 0.85, comparison(60, 20, 10, 10, auroc=0.80),
            {"female": comparison(30, 12, 4, 4), "male": comparison(30, 8, 6, 6)},
        ),
        "b": evaluation(
            70, 0.75, comparison(60, 10, 15, 15, auroc=0.78),
            {"female": comparison(40, 5, 5, 10), "male": comparison(20, 5, 10, 5)},
        ),
        "c": evaluation(75, 0.80, HIDDEN, {"female": HIDDEN, "male": HIDDEN}),
    }  # fmt: skip
    return value(study, main, {})


def row(found: Value, **wanted: object) -> Compared:
    rows = [r for r in found.compared if all(getattr(r, k) == v for k, v in wanted.items())]
    assert len(rows) == 1, wanted
    return rows[0]


def test_each_site_has_its_answer_with_an_interval(found: Value) -> None:
    a = row(found, measure="accuracy", site="a", attribute="")
    assert (a.n, a.federated, a.other_value) == (100, 0.8, 0.7)
    assert a.difference == pytest.approx(0.1)
    assert (a.low, a.high) == newcombe_paired(Pairs(60, 20, 10, 10))
    assert a.p == pytest.approx(binomtest(20, 30).pvalue)
    auroc = row(found, measure="auroc", site="a")
    assert auroc.difference == pytest.approx(0.05)
    assert auroc.low == pytest.approx(0.05 - 1.959964 * 0.02)
    assert row(found, measure="log_loss", site="b").difference == pytest.approx(-0.1)


def test_sites_are_pooled_by_their_counts_and_who_hides_is_left_out(found: Value) -> None:
    all_sites = row(found, measure="accuracy", site=None, attribute="")
    assert all_sites.n == 200
    assert all_sites.difference == pytest.approx((30 - 25) / 200)
    hidden = row(found, measure="accuracy", site="c", attribute="")
    assert (hidden.difference, hidden.reason) == (None, "small")
    pooled = row(found, measure="auroc", site=None)
    assert pooled.difference is None
    assert "fewer than three sites" in pooled.reason


def test_harm_of_privacy_is_the_difference_in_differences_against_the_reference_group(
    found: Value,
) -> None:
    female = row(found, measure="accuracy", attribute="sex", level="female")
    assert female.n == 110
    assert female.difference == pytest.approx((17 - 9) / 110)
    assert female.extra is None  # it is the reference
    male = row(found, measure="accuracy", attribute="sex", level="male")
    assert male.difference == pytest.approx((13 - 16) / 90)
    assert male.extra == pytest.approx((13 - 16) / 90 - 8 / 110)
    extra, bounds = difference_in_differences(Pairs(50, 13, 16, 11), Pairs(70, 17, 9, 14))
    assert (male.extra, male.extra_low, male.extra_high) == (extra, *bounds)


def test_a_group_that_no_site_shows_is_unknown_and_says_why(found: Value) -> None:
    old = row(found, measure="accuracy", attribute="age", level=">=50")
    assert (old.difference, old.n, old.extra) == (None, None, None)
    assert old.reason == "not shown by disclosure control"


def test_a_model_that_never_saw_a_site_is_held_against_the_one_that_did(study: Study) -> None:
    main = {s: SiteEvaluation(overall=tally(100, 80, 0.85), groups={}) for s in "abc"}
    poorer = {s: SiteEvaluation(overall=tally(100, 70, 0.80), groups={}) for s in "abc"}
    found = value(study, main, {"a": poorer, "b": poorer, "c": poorer})
    a = row(found, other="left out", measure="accuracy", site="a")
    assert (a.low, a.high) == newcombe((80, 100), (70, 100))
    assert row(found, other="left out", measure="accuracy", site=None).n == 300
    auroc = row(found, other="left out", measure="auroc", site="b")
    assert auroc.difference == pytest.approx(0.05)
    assert auroc.high == pytest.approx(0.05 + 1.959964 * math.sqrt(0.002))
    mean = row(found, other="left out", measure="auroc", site=None)
    assert mean.difference == pytest.approx(0.05)
    models = {(c.model, c.measure): c.sites for c in found.crossed}
    assert models["without b", "accuracy"] == {"a": 0.7, "b": 0.7, "c": 0.7}
    assert models["all sites", "auroc"] == {"a": 0.85, "b": 0.85, "c": 0.85}


def test_a_site_that_was_never_measured_without_itself_has_no_row(study: Study) -> None:
    main = {s: SiteEvaluation(overall=tally(100, 80, 0.85), groups={}) for s in "ab"}
    found = value(study, main, {"a": {"b": main["b"]}})
    assert not [r for r in found.compared if r.site == "a"]


def test_where_nothing_was_asked_the_reason_says_so(study: Study) -> None:
    main = {"a": SiteEvaluation(overall=tally(100, 80, 0.85), groups={})}
    assert value(study, main, {}) == Value(reason="the study trains no other model to compare with")


def test_pooling_is_free_of_order() -> None:
    rng = np.random.default_rng(0)
    parts = [Pairs(*map(int, rng.integers(0, 20, 4))) for _ in range(5)]
    forward = sum(parts, start=Pairs(0, 0, 0, 0))
    assert forward == sum(reversed(parts), start=Pairs(0, 0, 0, 0))
