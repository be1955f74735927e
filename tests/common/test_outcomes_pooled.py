"""Tallies of every kind of outcome, put together in any way, against the pooled rows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines.utils import concordance_index
from numpy.typing import NDArray
from scipy.stats import linregress
from sklearn import metrics
from tests.outcomes import patients, study

from cohortium.common.metrics import multiclass, regression, survival
from cohortium.common.metrics.performance import Estimate, Performance, performance
from cohortium.common.metrics.tallies import Tally
from cohortium.common.study import Study

Floats = NDArray[np.float64]
Tallied = Callable[[Floats, Floats, Study, frozenset[str], int], Tally]

TALLIES: dict[str, Tallied] = {
    "multiclass": multiclass.tally,
    "regression": regression.tally,
    "survival": survival.tally,
}
STUDIES = {kind: study(kind) for kind in TALLIES}
HORIZONS = (1.0, 2.0)


def measured(kind: str, sites: dict[str, tuple[Floats, Floats]]) -> tuple[Performance, ...]:
    tallies = {
        site: TALLIES[kind](*rows, STUDIES[kind], frozenset(), 0) for site, rows in sites.items()
    }
    return performance(tallies, (0.5,), HORIZONS)


def at(found: tuple[Performance, ...], measure: str, **where: Any) -> Performance:
    return next(
        one
        for one in found
        if one.measure == measure and all(getattr(one, key) == at for key, at in where.items())
    )


def width(one: Estimate) -> float:
    assert one.low is not None
    assert one.high is not None
    return one.high - one.low


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_how_rows_are_spread_over_sites_and_in_which_order_does_not_change_the_pool(
    kind: str, data: st.DataObject
) -> None:
    predicted, outcome = patients(kind, 60, seed=3)
    owner = np.array(data.draw(st.lists(st.integers(0, 3), min_size=60, max_size=60)))
    order = data.draw(st.permutations(sorted(set(owner.tolist()))))
    spread = measured(kind, {str(k): (predicted[owner == k], outcome[owner == k]) for k in order})
    whole = measured(kind, {"all": (predicted, outcome)})
    compared = 0
    for one in whole:
        found = at(spread, one.measure, part=one.part).pooled
        if one.pooled.value is not None:
            assert found.value == pytest.approx(one.pooled.value, abs=1e-9, rel=1e-9)
            if one.pooled.low is not None:
                assert found.low == pytest.approx(one.pooled.low, abs=1e-9, rel=1e-6)
            assert found.of == one.pooled.of
            compared += 1
    assert compared >= 7


def test_classes_of_four_sites_give_what_scikit_learn_gives_on_their_pooled_rows() -> None:
    sites = {str(k): patients("multiclass", 50 + 30 * k, seed=k) for k in range(4)}
    scores, true = (np.concatenate(rows) for rows in zip(*sites.values(), strict=True))
    called, found = scores.argmax(axis=1), measured("multiclass", sites)
    expected = {
        "accuracy": metrics.accuracy_score(true, called),
        "macro_sensitivity": metrics.balanced_accuracy_score(true, called),
        "macro_ppv": metrics.precision_score(true, called, average="macro"),
        "macro_f1": metrics.f1_score(true, called, average="macro"),
        "log_loss": metrics.log_loss(true, scores),
        "brier": metrics.brier_score_loss(true.astype(int), scores, scale_by_half=False),
    }
    for name, value in expected.items():
        assert at(found, name, part="").pooled.value == pytest.approx(value, abs=1e-9)
    micro = metrics.f1_score(true, called, average="micro")
    assert at(found, "accuracy", part="").pooled.value == pytest.approx(micro)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_class_against_the_rest_is_what_scikit_learn_says_of_it(place: int) -> None:
    scores, true = patients("multiclass", 200, seed=1)
    found, name = measured("multiclass", {"a": (scores, true)}), "abc"[place]
    inside, called = true == place, scores.argmax(axis=1) == place
    expected = {
        "auroc": metrics.roc_auc_score(inside, scores[:, place]),
        "auprc": metrics.average_precision_score(inside, scores[:, place]),
        "brier": metrics.brier_score_loss(inside, scores[:, place]),
        "log_loss": metrics.log_loss(inside, scores[:, place]),
        "sensitivity": metrics.recall_score(inside, called),
        "ppv": metrics.precision_score(inside, called),
        "f1": metrics.f1_score(inside, called),
        "mcc": metrics.matthews_corrcoef(inside, called),
        "balanced_accuracy": metrics.balanced_accuracy_score(inside, called),
        "prevalence": inside.mean(),
        "selection_rate": called.mean(),
        "observed_to_expected": inside.sum() / scores[:, place].sum(),
    }
    for measure, value in expected.items():
        assert at(found, measure, part=name).sites["a"].value == pytest.approx(value, abs=1e-9)


def test_an_absent_class_makes_macro_averages_unknown_not_lower() -> None:
    scores, true = patients("multiclass", 90, seed=2)
    rows = true != 2
    found = measured("multiclass", {"a": (scores[rows], true[rows]), "b": (scores, true)})
    one = at(found, "macro_sensitivity").sites["a"]
    assert (one.value, one.reason) == (None, "a class has no patients, or is never called")
    assert at(found, "macro_sensitivity").sites["b"].value is not None
    absent = at(found, "auroc", part="c").sites["a"]
    assert (absent.value, absent.reason) == (None, "no patient is in the class")


def test_numbers_of_four_sites_give_what_scikit_learn_gives_on_their_pooled_rows() -> None:
    sites = {str(k): patients("regression", 50 + 30 * k, seed=k) for k in range(4)}
    predicted, outcome = (np.concatenate(rows) for rows in zip(*sites.values(), strict=True))
    found, line = measured("regression", sites), linregress(predicted, outcome)
    expected = {
        "mae": metrics.mean_absolute_error(outcome, predicted),
        "mse": metrics.mean_squared_error(outcome, predicted),
        "rmse": metrics.root_mean_squared_error(outcome, predicted),
        "r2": metrics.r2_score(outcome, predicted),
        "bias": (predicted - outcome).mean(),
        "calibration_slope": line.slope,
        "calibration_intercept": line.intercept,
    }
    for name, value in expected.items():
        assert at(found, name).pooled.value == pytest.approx(value, rel=1e-7)
    for name, error in (("slope", line.stderr), ("intercept", line.intercept_stderr)):
        one = at(found, f"calibration_{name}").pooled
        assert width(one) == pytest.approx(2 * 1.959964 * error, rel=1e-6)


def test_a_constant_outcome_has_no_r2_rather_than_one_of_zero() -> None:
    predicted, _ = patients("regression", 40, seed=1)
    found = measured("regression", {"a": (predicted, np.full(40, 75.0))})
    one = at(found, "r2").sites["a"]
    assert one.value is None
    assert "always the same" in one.reason
    assert at(found, "mae").sites["a"].value is not None


def test_concordance_is_counted_within_each_site_and_never_across() -> None:
    sites = {str(k): patients("survival", 60 + 20 * k, seed=k) for k in range(4)}
    found = at(measured("survival", sites), "concordance")
    for site, (predicted, outcome) in sites.items():
        expected = concordance_index(outcome[:, 0], predicted[:, -1], outcome[:, 1])
        assert found.sites[site].value == pytest.approx(expected, abs=1e-12)
    parts = [survival.tally(*rows, STUDIES["survival"], frozenset(), 0) for rows in sites.values()]
    pooled = sum(p.concordant or 0 for p in parts) / sum(p.pairs or 0 for p in parts)
    assert found.pooled.value == pytest.approx(pooled)
    assert found.over_sites is not None
    assert 0.5 < found.over_sites.low < found.over_sites.mean < found.over_sites.high < 1


def test_one_site_s_survival_split_in_two_is_not_claimed_to_pool_exactly() -> None:
    """Each site weighs by its own censoring: close to, not equal to, that of all rows together."""
    predicted, outcome = patients("survival", 400, seed=5)
    halves = {
        "a": (predicted[:200], outcome[:200]),
        "b": (predicted[200:], outcome[200:]),
    }
    for name in ("brier", "observed_risk"):
        split = at(measured("survival", halves), name, horizon=2.0).pooled
        whole = at(measured("survival", {"all": (predicted, outcome)}), name, horizon=2.0).pooled
        assert split.value == pytest.approx(whole.value, abs=0.01)
        assert width(split) == pytest.approx(width(whole), rel=0.05)


def test_no_patients_are_measured_as_unknown_with_a_reason_whatever_the_outcome() -> None:
    for kind in TALLIES:
        predicted, outcome = patients(kind, 30, seed=1)
        for one in measured(kind, {"a": (predicted[:0], outcome[:0])}):
            assert (one.sites["a"].value, one.over_sites) == (None, None), one
            assert one.sites["a"].reason, one
