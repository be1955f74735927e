"""What the new parts of a study cannot be together is refused in one line, with the key."""

from collections.abc import Mapping
from typing import Any

import pytest
from tests.common.test_study import merge

from cohortium.common.document import parse
from cohortium.common.errors import DocumentError
from cohortium.common.study import Study

COLUMNS = {
    "age": {"kind": "number", "low": 0.0, "high": 100.0},
    "sex": {"kind": "flag", "no_label": "female", "yes_label": "male"},
    "ward": {"kind": "category", "codes": ["A", "B", "C"]},
    "stage": {"kind": "category", "codes": ["I", "II", "III"]},
    "zip": {"kind": "category", "codes": [str(code) for code in range(101)]},
    "ill": {"kind": "flag"},
    "pain": {"kind": "flag"},
    "days": {"kind": "number", "low": 0.0, "high": 100.0},
    "change": {"kind": "number", "low": -10.0, "high": 10.0},
}
TASKS: dict[str, Any] = {
    "binary": {"kind": "binary", "label": "ill", "positive_codes": ["1"]},
    "multiclass": {"kind": "multiclass", "label": "stage"},
    "multilabel": {"kind": "multilabel", "labels": ["ill", "pain"]},
    "regression": {"kind": "regression", "label": "change"},
    "survival": {"kind": "survival", "time": "days", "event": "ill", "horizons": [30.0, 60.0]},
}
STUDY: dict[str, Any] = {
    "name": "made-up",
    "purpose": {"text": "to test what fits", "duo": "GRU", "legal_basis": "consent"},
    "data": {"dataset": "ward", "features": ["age"]},
    "data_model": {"name": "ward", "columns": COLUMNS},
    "split": {"test_fraction": 0.3},
    "training": {"rounds": 1, "batches": "full"},
    "privacy": {"mechanism": "gaussian", "epsilon": 1.0, "delta": 1e-5, "clip_norm": 1.0},
    "fairness": {"attributes": ["sex", "age", "ward"], "bands": {"age": [40.0, 60.0]}},
    "sites": {"names": ["a", "b", "c", "d"], "min_sites": 2},
}


def study(kind: str, change: Mapping[str, Any]) -> Study:
    model = {"name": "linear" if kind == "regression" else "logistic"}
    base = {**STUDY, "task": TASKS[kind], "model": model}
    return parse(merge(base, change), Study, "study.toml")


def refusal(kind: str, change: Mapping[str, Any]) -> str:
    with pytest.raises(DocumentError) as caught:
        study(kind, change)
    message = str(caught.value)
    assert message.startswith("study.toml: ")
    assert "\n" not in message
    assert len(message) < 400
    return message


@pytest.mark.parametrize("kind", TASKS)
def test_a_study_of_every_kind_of_outcome_can_be_written(kind: str) -> None:
    outputs = {"binary": 1, "multiclass": 3, "multilabel": 2, "regression": 1, "survival": 2}
    chosen = study(kind, {})
    assert chosen.outputs == outputs[kind]
    assert set(chosen.task.columns) <= set(chosen.columns_read)


@pytest.mark.parametrize(
    ("kind", "task", "says"),
    [
        ("multiclass", {"label": "days"}, 'task.label: "days" is a number, and classes are'),
        ("multiclass", {"label": "days"}, 'use kind = "regression"'),
        ("multiclass", {"label": "ill"}, 'use kind = "binary"'),
        ("multiclass", {"label": "zip"}, '"zip" has 101 codes; at most 100 classes'),
        ("multiclass", {"label": "stag"}, 'task.label: schema "ward" has no "stag"; did you'),
        ("multilabel", {"labels": ["ill", "stage"]}, '"stage" is a category, and labels are flags'),
        ("multilabel", {"labels": ["ill", "days"]}, '"days" is a number, and labels are flags'),
        ("multilabel", {"labels": ["ill", "ill"]}, "labels names a column twice"),
        ("multilabel", {"labels": ["ill"]}, "task.labels: Tuple should have at least 2"),
        ("multilabel", {"labels": ["ill", "gone"]}, 'task.labels: schema "ward" has no "gone"'),
        ("regression", {"label": "ill"}, '"ill" is a flag, and a regression predicts a number'),
        ("regression", {"label": "stage"}, 'use kind = "multiclass"'),
        ("survival", {"time": "ill", "event": "pain"}, 'task.time: "ill" is a flag'),
        ("survival", {"event": "stage"}, 'task.event: "stage" is a category'),
        ("survival", {"time": "change"}, 'task.time: "change" may be below 0'),
        ("survival", {"horizons": [30.0, 101.0]}, "task.horizons: outside the bounds of days"),
        ("survival", {"horizons": []}, "horizons"),
        ("survival", {"horizons": [30.0, 20.0]}, "horizons must rise"),
        ("survival", {"horizons": [30.0, 30.0]}, "horizons must rise"),
        ("survival", {"horizons": [0.0, 30.0]}, "horizons must rise, from above 0"),
        ("survival", {"positive_codes": ["1"]}, 'unknown key "task.positive_codes"; known'),
        ("survival", {"horizon": [1.0]}, 'unknown key "task.horizon"; did you mean "horizons"'),
        ("binary", {"kind": "ordinal"}, "task"),
    ],
)
def test_an_outcome_that_its_columns_cannot_be_is_refused(
    kind: str, task: Mapping[str, Any], says: str
) -> None:
    assert says in refusal(kind, {"task": task})


@pytest.mark.parametrize(
    ("kind", "model", "says"),
    [
        ("regression", "logistic", "a logistic model gives no regression outcome; use"),
        ("multiclass", "linear", "a linear model gives no multiclass outcome"),
        ("multilabel", "linear", "a linear model gives no multilabel outcome"),
        ("survival", "linear", 'a linear model gives no survival outcome; use "logistic"'),
    ],
)
def test_a_model_that_gives_no_such_outcome_is_refused(kind: str, model: str, says: str) -> None:
    assert says in refusal(kind, {"model": {"name": model}})


def test_a_yes_or_no_study_with_a_linear_model_stays_valid() -> None:
    """Releases before other outcomes allowed it, and stored studies must still be read."""
    assert study("binary", {"model": {"name": "linear"}}).outputs == 1


@pytest.mark.parametrize(
    ("fairness", "says"),
    [
        ({"intersections": [["sex", "ill"]]}, '"ill" is not in fairness.attributes'),
        ({"intersections": [["sex", "agee"]]}, 'did you mean "age"?'),
        ({"intersections": [["sex", "sex"]]}, '"sex" is paired with itself'),
        ({"intersections": [["sex", "age"], ["age", "sex"]]}, '"age" and "sex" come twice'),
        ({"intersections": [["sex", "age", "ward"]]}, "fairness.intersections.0"),
        ({"reference": {"ill": "yes"}}, "fairness.reference.ill: not in fairness.attributes"),
        ({"reference": {"sex": "man"}}, 'fairness.reference.sex: "man" is no level of it; known'),
        ({"reference": {"sex": "mal"}}, 'did you mean "male"?'),
        ({"reference": {"age": "40"}}, 'fairness.reference.age: "40" is no level'),
        ({"primary": "fairness"}, "fairness.primary"),
        ({"margins": {"sensitivity": 0.1}}, "fairness.margins.sensitivity: Input should be"),
        ({"margins": {"equal_opportunity": 0}}, "fairness.margins.equal_opportunity"),
        ({"margins": {"equal_opportunity": 5}}, "5 percentage points are 0.05"),
        ({"margins": {"equal_opportunity": 1.0}}, "shares never differ by 1"),
        ({"margins": {"calibration": 0.2}}, "0.2 is no factor above 1"),
        ({"margins": {"calibration": 1.0}}, "1 is no factor above 1"),
        ({"attributes": ["ill"], "bands": None}, '"ill" is the outcome itself'),
        (
            {"attributes": [], "bands": None, "margins": {"accuracy": 0.1}},
            "fairness.margins: there are no fairness.attributes",
        ),
        (
            {"attributes": [], "bands": None, "reference": {"sex": "male"}},
            "fairness.reference: there are no fairness.attributes",
        ),
        (
            {"attributes": [], "bands": None, "intersections": [["sex", "age"]]},
            "fairness.intersections: there are no fairness.attributes",
        ),
    ],
)
def test_a_comparison_that_cannot_be_made_is_refused(
    fairness: Mapping[str, Any], says: str
) -> None:
    assert says in refusal("binary", {"fairness": fairness})


def test_a_comparison_that_can_be_made_is_accepted() -> None:
    fairness = {
        "intersections": [["sex", "age"], ["age", "ward"]],
        "reference": {"sex": "male", "age": "40 to <60", "ward": "C"},
        "primary": "predictive_parity",
        "margins": {"predictive_parity": 0.1, "calibration": 1.25},
    }
    assert study("binary", {"fairness": fairness}).fairness.margins["calibration"] == 1.25


@pytest.mark.parametrize("kind", ["regression", "survival"])
def test_a_gap_is_judged_only_where_something_is_called(kind: str) -> None:
    fairness = {"attributes": ["sex"], "bands": None, "margins": {"calibration": 1.2}}
    assert f"fairness.margins: not yet for a {kind}" in refusal(kind, {"fairness": fairness})
    study(kind, {"fairness": {"intersections": [["sex", "age"]]}})


@pytest.mark.parametrize("kind", ["multiclass", "regression", "survival"])
def test_thresholds_where_nothing_has_a_score_are_refused(kind: str) -> None:
    said = refusal(kind, {"evaluation": {"thresholds": [0.3]}})
    assert "evaluation.thresholds: nothing is called positive" in said


@pytest.mark.parametrize("kind", [kind for kind in TASKS if kind != "binary"])
@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("evaluation", "own_model", True),
        ("evaluation", "noise_epsilon", 0.5),
        ("mitigation", "recalibrate", True),
        ("mitigation", "ditto", 0.1),
    ],
)
def test_what_is_there_for_yes_or_no_alone_says_so(
    kind: str, part: str, key: str, value: object
) -> None:
    assert f"{part}.{key}: not yet for a {kind} outcome" in refusal(kind, {part: {key: value}})
    study("binary", {part: {key: value}})


def test_noise_in_results_needs_a_study_that_has_a_delta() -> None:
    plain = {
        "privacy": {"mechanism": "none", "epsilon": None, "delta": None, "clip_norm": None},
        "evaluation": {"noise_epsilon": 0.5},
    }
    assert "evaluation.noise_epsilon: noise costs privacy" in refusal("binary", plain)
    for wrong in (0.0, -1.0, 11.0):
        said = refusal("binary", {"evaluation": {"noise_epsilon": wrong}})
        assert "evaluation.noise_epsilon" in said


def test_models_without_a_site_are_not_trained_where_nothing_would_be_said_of_them() -> None:
    both = {"evaluation": {"noise_epsilon": 0.5, "leave_one_site_out": True}}
    assert "evaluation.leave_one_site_out: with noise_epsilon" in refusal("binary", both)


NO_PRIVACY = {"mechanism": "none", "epsilon": None, "delta": None, "clip_norm": None}
SHUFFLED = {"batches": "shuffle", "batch_size": 4, "learning_rate": 0.1}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sites": {"evaluate_only": ["e"]}}, 'sites: evaluate_only: "e" is not in names'),
        ({"sites": {"evaluate_only": ["a", "a"]}}, "evaluate_only holds a site twice"),
        ({"sites": {"evaluate_only": ["a", "b", "c", "d"]}}, "none is left to train"),
        ({"sites": {"evaluate_only": ["a", "b", "c"]}}, "only 1 are named for training"),
        (
            {"sites": {"evaluate_only": ["a"]}, "preprocessing": {"site_intercept": True}},
            "intercept that nobody trained",
        ),
        (
            {
                "sites": {"evaluate_only": ["a"]},
                "privacy": NO_PRIVACY,
                "preprocessing": {"scaling": "site-standard"},
            },
            "such a site has none; use another scaling",
        ),
        (
            {
                "sites": {"evaluate_only": ["a"]},
                "privacy": NO_PRIVACY,
                "training": {**SHUFFLED, "shared_stream_rows": [1, 2, 3, 4]},
            },
            "replays sites that all train",
        ),
    ],
)
def test_sites_that_only_evaluate_are_some_of_the_sites_and_not_all(
    change: Mapping[str, Any], says: str
) -> None:
    assert says in refusal("binary", change)


def test_sites_that_train_are_those_that_do_not_only_evaluate() -> None:
    chosen = study("binary", {"sites": {"evaluate_only": ["b", "d"]}})
    assert chosen.sites.training == ("a", "c")
