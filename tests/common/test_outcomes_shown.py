"""What a site shows of classes, numbers and times: nothing that gives one patient away."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.outcomes import patients, study

from cohortium.common.metrics import multiclass, regression, survival
from cohortium.common.metrics.cube import OVERALL, Question, hide
from cohortium.common.metrics.kaplan_meier import observed_risk
from cohortium.common.metrics.performance import performance
from cohortium.common.metrics.showing import dominated
from cohortium.common.metrics.tallies import RegressionTally

Floats = NDArray[np.float64]
NOTHING = frozenset[str]()
DATA = (
    Path(os.environ.get("COHORTIUM_TEST_DATA", str(Path(__file__).parents[2] / "../shared/data")))
    / "survival"
)
SUMS = regression.SUMS


def facet(question: Question, name: str) -> tuple[frozenset[int], ...]:
    return next(one.cells for one in question.facets if one.name == name)


def counts(question: Question, name: str) -> list[int]:
    found = np.bincount(question.micro, minlength=question.n_micro)
    return [int(found[sorted(cell)].sum()) for cell in facet(question, name)]


@pytest.mark.parametrize("kind", ["multiclass", "regression", "survival"])
def test_every_facet_holds_every_patient_once(kind: str) -> None:
    module = {"multiclass": multiclass, "regression": regression, "survival": survival}[kind]
    predicted, outcome = patients(kind, 80, seed=4)
    (question,) = module.questions(predicted, outcome, study(kind))
    for one in question.facets:
        assert sorted(cell for some in one.cells for cell in some) == list(range(question.n_micro))
        assert sum(counts(question, one.name)) == 80
    assert question.facets[0].hides == tuple(one.name for one in question.facets[1:])


def test_facets_of_classes_hold_the_counts_that_the_tally_shows() -> None:
    predicted, outcome = patients("multiclass", 300, seed=4)
    (question,) = multiclass.questions(predicted, outcome, study("multiclass"))
    tally = multiclass.tally(predicted, outcome, study("multiclass"), NOTHING, 10)
    one = tally.classes["b"]
    assert counts(question, "calls b") == [one.tp, one.fn, one.fp, one.tn]
    assert counts(question, "is b") == [one.positives, 300 - (one.positives or 0)]
    assert counts(question, "correct") == [tally.correct, 300 - (tally.correct or 0)]
    assert tally.confusion is not None
    assert counts(question, "confusion") == [cell for row in tally.confusion for cell in row]


def test_a_rare_class_hides_itself_and_the_means_of_all() -> None:
    predicted, outcome = patients("multiclass", 300, seed=4)
    rows = (outcome != 2) | (np.cumsum(outcome == 2) <= 4)
    predicted, outcome, asked = predicted[rows], outcome[rows], study("multiclass")
    hidden = hide(multiclass.questions(predicted, outcome, asked), {}, (), 10).facets[OVERALL]
    assert {"is c", "calls c", "confusion"} <= hidden
    tally = multiclass.tally(predicted, outcome, asked, hidden, 10)
    rare, shown = tally.classes["c"], [one.positives for one in tally.classes.values()]
    assert (tally.confusion, tally.log_loss, tally.brier) == (None, None, None)
    assert (rare.positives, rare.tp, rare.auroc, rare.mean_score) == (None, None, None, None)
    assert "fewer than 10" in rare.reason
    assert tally.n == len(outcome)
    assert shown.count(None) >= 2, "with two of three, the third follows from n"


def test_scores_of_zero_and_one_show_no_means_since_those_would_be_counts() -> None:
    _, outcome = patients("multiclass", 300, seed=4)
    certain = np.eye(3)[np.where(np.arange(300) < 3, 0, outcome).astype(int)]
    tally = multiclass.tally(certain, outcome, study("multiclass"), NOTHING, 10)
    assert (tally.log_loss, tally.brier, tally.brier_squares) == (None, None, None)
    assert tally.classes["a"].brier is None
    assert tally.reason == "scores near 0 and 1, or few different ones, would give counts away"
    _, followed = patients("survival", 200, seed=4)
    told = survival.tally(
        (followed[:, :1] > [1.0, 2.0]).astype(float), followed, study("survival"), NOTHING, 10
    )
    assert [there.brier for there in told.horizons] == [None, None]
    assert (told.pairs, told.concordant) == (None, None)


def test_a_group_with_certain_scores_takes_the_means_of_the_others_with_it() -> None:
    """Else its mistakes would follow from the total's Brier score minus the others'."""
    predicted, outcome = patients("multiclass", 300, seed=4)
    predicted[:100] = np.eye(3)[outcome[:100].astype(int)]
    asked, parts = study("multiclass"), {"f": slice(0, 100), "m": slice(100, None)}
    total = multiclass.tally(predicted, outcome, asked, NOTHING, 10)
    levels = {
        level: multiclass.tally(predicted[rows], outcome[rows], asked, NOTHING, 10)
        for level, rows in parts.items()
    }
    assert levels["m"].brier is not None
    agreed = multiclass.agree(total, {"sex": levels})["sex"]["m"]
    assert (agreed.brier, agreed.log_loss, agreed.classes["a"].brier) == (None, None, None)
    assert (agreed.correct, agreed.n) == (levels["m"].correct, 200)
    followed, outcomes = patients("survival", 300, seed=4)
    followed[:100] = outcomes[:100, :1] > [1.0, 2.0]
    both = {
        level: survival.tally(followed[rows], outcomes[rows], study("survival"), NOTHING, 10)
        for level, rows in parts.items()
    }
    whole = survival.tally(followed, outcomes, study("survival"), NOTHING, 10)
    assert both["m"].horizons[0].brier is not None
    told = survival.agree(whole, {"sex": both})["sex"]["m"].horizons[0]
    assert (told.brier, told.predicted) == (None, None)
    assert told.observed is not None


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
def test_a_sum_that_is_not_dominated_never_tells_its_largest_part_closely(
    parts: list[float],
) -> None:
    """Knowing all but the two largest, and one's own, leaves at least 15% of doubt."""
    values = np.sort(np.array(parts))
    if not dominated(values) and values[-1] > 0 and len(values) > 1:
        upper = values.sum() - values[-2]
        assert upper >= 1.15 * values[-1] * (1 - 1e-9)


def test_one_outlier_shows_no_sums_of_numbers_and_takes_them_from_other_groups() -> None:
    predicted, outcome = patients("regression", 300, seed=4)
    outcome[0] += 1e4
    asked = study("regression")
    overall = regression.tally(predicted, outcome, asked, NOTHING, 10)
    assert [getattr(overall, name) for name in SUMS] == [None] * len(SUMS)
    assert (overall.n, overall.reason) == (300, "one patient would make up most of it")
    mild = outcome.copy()
    mild[0] = predicted[0] + 70
    total = regression.tally(predicted, mild, asked, NOTHING, 10)
    parts = {
        level: regression.tally(predicted[rows], mild[rows], asked, NOTHING, 10)
        for level, rows in {"few": slice(0, 20), "many": slice(20, None)}.items()
    }
    assert total.squared is not None
    assert parts["few"].squared is None
    assert parts["many"].squared is not None
    agreed = regression.agree(total, {"sex": parts})["sex"]
    assert (agreed["many"].squared, agreed["many"].n) == (None, 280)
    assert "give away another group" in agreed["many"].reason
    assert regression.agree(total, {"sex": {"many": parts["many"]}})["sex"]["many"].squared


def test_an_outcome_of_few_values_shows_no_sums_since_they_would_be_counts() -> None:
    predicted, outcome = patients("regression", 300, seed=4)
    tally = regression.tally(
        predicted, (outcome > 85).astype(float), study("regression"), NOTHING, 10
    )
    assert tally.outcome is None
    assert "so few values" in tally.reason


@pytest.mark.parametrize("far", [0.0, 1e3])
def test_rounding_costs_no_measure_of_numbers_more_than_its_third_digit(far: float) -> None:
    """Nor where the mean is a hundred times the spread."""
    predicted, outcome = patients("regression", 300, seed=4)
    rows = predicted + far, outcome + far, study("regression"), NOTHING
    exact = performance({"a": regression.tally(*rows, 0)}, (0.5,))
    shown = performance({"a": regression.tally(*rows, 10)}, (0.5,))
    for one, other in zip(exact, shown, strict=True):
        if one.measure not in ("bias", "calibration_intercept"):
            assert other.pooled.value == pytest.approx(one.pooled.value, rel=0.005), one.measure
    assert shown[4].pooled.value == pytest.approx(exact[4].pooled.value, abs=0.02)


def test_horizons_are_shown_from_the_last_by_halves_as_far_as_no_cell_is_small() -> None:
    asked = study("survival", horizons=[1.0, 2.0, 3.0, 4.0])
    predicted, outcome = patients("survival", 150, seed=4)
    predicted = np.column_stack([predicted, predicted])
    (question,) = survival.questions(predicted, outcome, asked)
    names = [one.name for one in question.facets]
    assert names == ["n", "events", "horizon 4", "horizon 2", "horizon 1", "horizon 3"]
    times, events = outcome[:, 0], outcome[:, 1] > 0.5
    within = times <= 4
    assert counts(question, "horizon 4") == [
        int((within & ~events & (times < 4)).sum()),
        int((within & events).sum()),
        int(((times > 4) | (times == 4) & ~events).sum()),
    ]


def test_few_events_hide_concordance_but_not_how_many_patients_there_are() -> None:
    predicted, outcome = patients("survival", 100, seed=4)
    outcome[:, 1] = np.arange(100) < 4
    asked = study("survival")
    hidden = hide(survival.questions(predicted, outcome, asked), {}, (), 10).facets[OVERALL]
    tally = survival.tally(predicted, outcome, asked, hidden, 10)
    assert (tally.n, tally.events, tally.pairs, tally.c_variance) == (100, None, None, None)
    assert all(there.observed is None for there in tally.horizons)


@pytest.mark.parametrize("kind", ["multiclass", "regression", "survival"])
def test_a_hidden_group_shows_nothing_but_the_reason(kind: str) -> None:
    module = {"multiclass": multiclass, "regression": regression, "survival": survival}[kind]
    predicted, outcome = patients(kind, 9, seed=4)
    asked = study(kind)
    hidden = hide(module.questions(predicted, outcome, asked), {}, (), 10).facets[OVERALL]
    text = module.tally(predicted, outcome, asked, hidden, 10).model_dump_json()
    assert _numbers(json.loads(text)) == []
    assert "fewer than 10" in text


def _numbers(value: object) -> list[float]:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in _numbers(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in _numbers(inner)]
    return [value] if isinstance(value, int | float) else []


def lung() -> tuple[Floats, Floats, NDArray[np.int64]]:
    """A risk by age alone, (time, death), and the institution of 227 patients."""
    if not (DATA / "lung.csv").exists():
        pytest.skip("the folder with public survival data is not there")
    rows = np.genfromtxt(DATA / "lung.csv", delimiter=",", names=True)
    rows = rows[~np.isnan(rows["inst"])]
    hazard = np.exp((rows["age"] - 63) * 0.02)
    predicted = np.exp(-np.log(2) / 310 * hazard[:, None] * [180.0, 365.0])
    return predicted, np.column_stack([rows["time"], rows["status"] == 2]), rows["inst"].astype(int)


def test_eighteen_institutions_show_no_cell_below_the_minimum() -> None:
    predicted, outcome, institution = lung()
    asked = study("survival", horizons=[180.0, 365.0])
    shown, patients_shown = {}, 0
    for one in np.unique(institution):
        rows = institution == one
        hidden = hide(survival.questions(predicted[rows], outcome[rows], asked), {}, (), 10).facets
        tally = survival.tally(predicted[rows], outcome[rows], asked, hidden[OVERALL], 10)
        shown[str(one)] = tally
        assert tally.n is None or tally.n >= 10
        if tally.events is not None:
            assert tally.events >= 10 or tally.events == 0
            assert rows.sum() - tally.events >= 10 or rows.sum() == tally.events
        patients_shown += tally.n or 0
    assert len(shown) >= 18
    assert sum(tally.n is None for tally in shown.values()) >= 5
    assert 100 < patients_shown < len(outcome)
    for found in performance(shown, (), (180.0, 365.0)):
        assert found.pooled.value is not None or found.pooled.reason


def test_external_validation_on_another_registry_shows_its_calibration() -> None:
    """Risk by lymph nodes, a little by age, fixed in Rotterdam, measured in Germany."""
    if not (DATA / "gbsg.csv").exists():
        pytest.skip("the folder with public survival data is not there")
    german = np.genfromtxt(DATA / "gbsg.csv", delimiter=",", names=True)
    rotterdam = np.genfromtxt(DATA / "rotterdam.csv", delimiter=",", names=True)
    horizons = [730.0, 1825.0]
    relapse = (rotterdam["recur"] == 1) | (rotterdam["death"] == 1)
    time = np.where(rotterdam["recur"] == 1, rotterdam["rtime"], rotterdam["dtime"])
    many = rotterdam["nodes"] > 3
    fitted = {
        group: [
            1 - (observed_risk(time[many == group], relapse[many == group], h).value or 0)
            for h in horizons
        ]
        for group in (False, True)
    }
    predicted = np.array([fitted[bool(nodes > 3)] for nodes in german["nodes"]])
    predicted **= np.exp(0.005 * (german["age"] - 53))[:, None]  # of two risks, means are counts
    outcome = np.column_stack([german["rfstime"], german["status"]])
    asked = study("survival", horizons=horizons)
    tally = survival.tally(predicted, outcome, asked, NOTHING, 10)
    found = {
        (one.measure, one.horizon): one.pooled
        for one in performance({"germany": tally}, (), tuple(horizons))
    }
    assert 0.55 < (found["concordance", None].value or 0) < 0.7
    for horizon in horizons:
        assert 0.1 < (found["brier", horizon].value or 0) < 0.26
        ratio = found["observed_to_expected", horizon]
        assert ratio.low is not None
        assert ratio.low < (ratio.value or 0) < (ratio.high or 0)


def test_what_hides_is_a_tally_that_a_message_may_carry() -> None:
    predicted, outcome = patients("regression", 300, seed=4)
    tally = regression.tally(predicted, outcome, study("regression"), NOTHING, 10)
    assert RegressionTally.model_validate_json(tally.model_dump_json()) == tally
