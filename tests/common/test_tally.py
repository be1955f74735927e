"""Counting at a site, and that what is hidden cannot be worked out from what is shown."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import log_loss, roc_auc_score

from cohortium.common.document import parse
from cohortium.common.errors import ProtocolError
from cohortium.common.metrics.auroc import auroc
from cohortium.common.metrics.evaluation import FEDERATED, evaluate
from cohortium.common.metrics.tallies import BinaryTally, SiteEvaluation, Tally
from cohortium.common.study import Study

STUDY = parse(
    {
        "name": "made-up",
        "purpose": {"text": "to test the tallies", "duo": "GRU", "legal_basis": "consent"},
        "data": {"dataset": "ward", "features": ["age"]},
        "data_model": {
            "name": "ward",
            "columns": {
                "age": {"kind": "number", "low": 0.0, "high": 100.0},
                "sex": {"kind": "flag", "no_label": "female", "yes_label": "male"},
                "ill": {"kind": "flag"},
            },
        },
        "task": {"kind": "binary", "label": "ill", "positive_codes": ["1"]},
        "model": {"name": "logistic"},
        "split": {"test_fraction": 0.5},
        "training": {"rounds": 1, "batches": "full"},
        "privacy": {"mechanism": "none"},
        "fairness": {"attributes": ["sex"]},
        "sites": {"names": ["north"], "min_sites": 1},
    },
    Study,
    "study.toml",
)


Cells = tuple[int, int, int, int]  # tp, fp, tn, fn


def counted(*levels: Cells, minimum: int) -> SiteEvaluation:
    """Patients of each level of `band` with these cells; scores of 0.7 and 0.3, or nearly so."""
    cells = [(called, ill) for called, ill in ((1, 1), (1, 0), (0, 0), (0, 1))]
    who = [
        (level, *cell)
        for level, counts in enumerate(levels)
        for cell, count in zip(cells, counts, strict=True)
        for _ in range(count)
    ]
    level, called, ill = np.array(who or np.zeros((0, 3), int)).T
    scores = np.where(called > 0, 0.7, 0.3) + 0.01 * np.sin(np.arange(len(who)))
    band = {"band": level.astype(np.int16)}
    return evaluate({FEDERATED: scores}, ill.astype(np.float32), band, banded(len(levels)), minimum)


def banded(levels: int) -> Study:
    """STUDY with an attribute `band` of so many levels, and no curves."""
    codes = tuple(f"level {place}" for place in range(max(levels, 2)))
    columns = STUDY.data_model.model_dump()["columns"]
    columns["band"] = {"kind": "category", "codes": codes}
    values = {
        **STUDY.model_dump(),
        "data_model": {"name": "ward", "columns": columns},
        "fairness": {"attributes": ("band",)},
        "evaluation": {"curves": False},
    }
    return parse(values, Study, "study.toml")


def measure(
    scores: NDArray[np.floating],
    labels: NDArray[np.float32],
    attributes: Mapping[str, NDArray[np.int16]],
    study: Study,
    minimum: int = 0,
) -> SiteEvaluation:
    return evaluate({FEDERATED: scores}, labels, attributes, study, minimum)


def band(found: SiteEvaluation, place: int) -> BinaryTally:
    return binary(found.groups["band"][f"level {place}"])


def binary(found: Tally) -> BinaryTally:
    assert isinstance(found, BinaryTally)
    return found


def test_six_patients_by_hand() -> None:
    scores = np.array([0.9, 0.6, 0.5, 0.2, 0.7, 0.1], dtype=np.float32)
    labels = np.array([1, 0, 1, 0, 1, 0], dtype=np.float32)
    sex = np.array([0, 0, 1, 1, -1, 0], dtype=np.int16)
    found = measure(scores, labels, {"sex": sex}, STUDY)
    overall = binary(found.overall)
    assert (overall.n, overall.positives, overall.correct) == (6, 3, 4)
    assert (overall.tp, overall.fp, overall.tn, overall.fn) == (2, 1, 2, 1)  # 0.5 is not above 0.5
    assert overall.auroc == pytest.approx(8 / 9)  # only 0.5 against 0.6 is in the wrong order
    assert overall.log_loss == pytest.approx(log_loss(labels, scores.astype(float)))
    assert list(found.groups["sex"]) == ["female", "male", "unknown"]
    assert [level.n for level in found.groups["sex"].values()] == [3, 2, 1]


def test_what_cannot_be_measured_is_unknown_not_zero() -> None:
    scores = np.array([0.9, 0.2], dtype=np.float32)
    found = measure(scores, np.zeros(2, np.float32), {"sex": np.zeros(2, np.int16)}, STUDY)
    assert binary(found.overall).auroc is None
    assert found.overall.reason == "no patient has the outcome"
    nobody = binary(found.groups["sex"]["male"])
    assert (nobody.n, nobody.auroc, nobody.log_loss) == (0, None, None)
    assert nobody.reason == "no patients"


def test_patients_without_an_answer_join_a_declared_level_of_that_name() -> None:
    labels = ("female", "male", "unknown")
    sex = {"kind": "category", "codes": ("F", "M", "U"), "labels": labels}
    columns = {**STUDY.data_model.model_dump()["columns"], "sex": sex}
    values = {**STUDY.model_dump(), "data_model": {"name": "ward", "columns": columns}}
    chosen = parse(values, Study, "study.toml")
    levels = np.array([0, 2, -1], dtype=np.int16)
    found = measure(np.full(3, 0.7), np.ones(3, np.float32), {"sex": levels}, chosen)
    assert {name: tally.n for name, tally in found.groups["sex"].items()} == {
        "female": 1,
        "male": 0,
        "unknown": 2,
    }


@pytest.mark.parametrize("broken", [float("nan"), 1.5, -0.1])
def test_a_model_that_gives_no_probabilities_is_refused(broken: float) -> None:
    scores = np.array([0.9, broken], dtype=np.float32)
    with pytest.raises(ProtocolError, match="no probabilities"):
        measure(scores, np.ones(2, np.float32), {}, STUDY)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2).filter(
        lambda rows: len({positive for _, positive in rows}) == 2
    )
)
def test_auroc_with_ties_equals_scikit_learn(rows: list[tuple[int, bool]]) -> None:
    scores = np.array([score / 5 for score, _ in rows])
    positive = np.array([positive for _, positive in rows])
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))


def test_a_reproduction_on_public_data_hides_and_rounds_nothing() -> None:
    found = counted((1, 1, 1, 1), (20, 20, 20, 20), minimum=0)
    assert [(one.n, one.tp, one.reason) for one in (band(found, 0), band(found, 1))] == [
        (4, 1, ""),
        (80, 20, ""),
    ]
    exact = binary(found.overall).brier
    assert exact is not None
    assert exact != round(exact, 3)


def test_large_cells_are_shown_and_scores_rounded() -> None:
    found = counted((10, 20, 30, 10), (10, 0, 11, 12), minimum=10)
    shown = binary(found.overall)
    assert (shown.n, shown.tp, shown.fn, shown.reason) == (103, 20, 22, "")
    assert shown.auroc is not None
    assert shown.auroc == round(shown.auroc, 3)


def test_a_small_group_takes_the_next_smallest_with_it() -> None:
    found = counted((1, 0, 1, 1), (20, 20, 20, 20), (50, 50, 50, 50), minimum=10)
    assert [band(found, k).n for k in range(3)] == [None, None, 200]
    assert {band(found, k).reason for k in (0, 1)} == {
        "fewer than 10 patients in a cell, or in one that would follow"  # which of both is not said
    }
    assert found.overall.n == 283


def test_few_mistakes_hide_accuracy_but_not_size() -> None:
    group = band(counted((30, 2, 30, 1), (20, 20, 20, 20), minimum=10), 0)
    assert (group.n, group.positives) == (63, 31)
    assert (group.correct, group.tp, group.fp, group.tn, group.fn) == (None,) * 5


def test_few_positives_hide_auroc() -> None:
    group = band(counted((3, 20, 20, 2), (20, 20, 20, 20), minimum=10), 0)
    assert (group.n, group.correct) == (45, 23)
    assert (group.positives, group.auroc, group.log_loss) == (None, None, None)


def test_scores_near_0_and_1_do_not_tell_by_their_squares_how_few_mistakes_there_were() -> None:
    """Of 100 patients 3 are missed with certainty: a Brier score of 0.030 would say so."""
    labels = np.repeat(np.array([1, 0], np.float32), 50)
    scores = np.where(labels > 0, 0.9999, 0.0001)
    scores[:3] = 0.0001
    sex = {"sex": np.tile(np.array([0, 1], np.int16), 50)}
    assert binary(measure(scores, labels, sex, STUDY).overall).brier == pytest.approx(
        0.03, abs=5e-4
    )
    shown = measure(scores, labels, sex, STUDY, 10)
    for one in map(binary, (shown.overall, *shown.groups["sex"].values())):
        assert (one.correct, one.brier, one.mean_score, one.auroc, one.log_loss) == (None,) * 5
    assert (shown.overall.n, binary(shown.overall).positives) == (100, 50)


def test_one_group_with_scores_near_0_and_1_takes_the_means_of_the_others_with_it() -> None:
    """Else those of that group would follow from the total minus the others."""
    labels = np.tile(np.repeat(np.array([1, 0], np.float32), 25), 2)
    scores = np.where(labels > 0, 0.9999, 0.0001)
    scores[50:] = np.where(labels[50:] > 0, 0.7, 0.3) + np.linspace(0, 0.1, 50)
    sex = {"sex": np.repeat(np.array([0, 1], np.int16), 50)}
    shown = measure(scores, labels, sex, STUDY, 10)
    assert binary(shown.overall).brier is not None
    for one in map(binary, shown.groups["sex"].values()):
        assert (one.brier, one.auroc, one.mean_score, one.calibration) == (None,) * 4
        assert one.bins is None or set(one.bins.mean_score) == {None}


def test_whoever_has_no_mistake_to_hide_still_says_why_the_means_are_missing() -> None:
    labels = np.repeat(np.array([1, 0], np.float32), 50)
    shown = binary(measure(labels, labels, {}, STUDY, 10).overall)
    assert (shown.correct, shown.auroc) == (100, None)
    assert shown.reason == "scores near 0 and 1, or few different ones, would give counts away"


def test_a_perfect_model_where_nobody_is_ill_has_no_sensitivity_and_no_gap() -> None:
    scores = np.array([0.9] * 20 + [0.1] * 60)
    labels = (scores > 0.5).astype(np.float32)
    sex = {"sex": np.array([0] * 40 + [1] * 40, np.int16)}
    well = binary(measure(scores, labels, sex, STUDY, 10).groups["sex"]["male"])
    assert (well.n, well.tp, well.fn, well.auroc) == (40, 0, 0, None)
    assert well.reason == "no patient has the outcome"


def test_before_the_last_round_nothing_is_said_by_group_nor_in_bins() -> None:
    scores = np.linspace(0.05, 0.95, 200)
    labels = (np.arange(200) % 3 == 0).astype(np.float32)
    sex = {"sex": np.tile(np.array([0, 1], np.int16), 100)}
    found = evaluate({FEDERATED: scores}, labels, sex, STUDY, 10, last=False)
    assert found.groups == {}
    assert binary(found.overall).n == 200


def test_bins_are_as_fine_as_small_cells_allow() -> None:
    labels = np.tile(np.array([0, 1], np.float32), 80)
    fine = np.repeat(np.linspace(0.06, 0.94, 8), 20) + np.tile(np.linspace(-0.01, 0.01, 20), 8)
    bins = binary(measure(fine, labels, {}, STUDY, 10).overall).bins
    assert bins is not None
    assert (bins.n, bins.positives) == ((20,) * 8, (10,) * 8)
    assert bins.mean_score[0] == 0.06
    coarse = np.repeat([0.1, 0.2, 0.4, 0.6, 0.8], 32)
    coarse[:4] = 0.01  # two with and two without the outcome alone in the lowest eighth
    coarse[4:32] = 0.2
    bins = binary(measure(coarse, labels, {}, STUDY, 10).overall).bins
    assert bins is not None
    assert len(bins.n) == 4


def test_models_beside_are_counted_on_the_same_patients() -> None:
    labels = np.tile(np.array([0, 1], np.float32), 60)
    scores = np.where(labels > 0, 0.7, 0.3)
    scores[:30] = 1 - scores[:30]  # wrong
    other = np.where(labels > 0, 0.6, 0.4)
    other[15:50] = 1 - other[15:50]
    sex = {"sex": np.tile(np.array([0, 0, 1, 1], np.int16), 30)}
    found = evaluate({FEDERATED: scores, "own": other}, labels, sex, STUDY, 0)
    whole = found.beside["own"].overall
    assert (whole.both, whole.federated_only, whole.other_only, whole.neither) == (70, 20, 15, 15)
    assert whole.auroc == pytest.approx(roc_auc_score(labels, other))
    parts = found.beside["own"].groups["sex"].values()
    assert sum(part.neither or 0 for part in parts) == 15
    shown = evaluate({FEDERATED: scores, "own": other}, labels, sex, STUDY, 10).beside["own"]
    assert shown.overall.both == 70
    assert all(part.neither is None for part in shown.groups["sex"].values())


cells = st.tuples(*[st.integers(0, 25)] * 4)


@settings(max_examples=60, deadline=None)
@given(levels=st.lists(cells, min_size=1, max_size=5), minimum=st.integers(2, 12))
def test_no_small_cell_follows_from_the_total_minus_the_shown_levels(
    levels: list[Cells], minimum: int
) -> None:
    shown = counted(*levels, minimum=minimum)
    for key in ("n", "positives", "correct", "tp", "fp", "tn", "fn"):
        total = getattr(shown.overall, key)
        assert total is None or not 0 < total < minimum
        values = [getattr(level, key) for level in shown.groups["band"].values()]
        assert not any(0 < value < minimum for value in values if value is not None)
        hidden = values.count(None)
        if total is not None and hidden:
            rest = total - sum(value for value in values if value is not None)
            assert hidden > 1
            assert not 0 < rest < minimum


@settings(max_examples=60, deadline=None)
@given(levels=st.lists(cells, min_size=1, max_size=4))
def test_what_is_shown_is_true(levels: list[Cells]) -> None:
    raw, shown = counted(*levels, minimum=0), counted(*levels, minimum=10)
    for level, one in shown.groups["band"].items():
        for key in ("n", "positives", "correct", "tp", "fp", "tn", "fn"):
            assert getattr(one, key) in (None, getattr(raw.groups["band"][level], key))


def test_an_evaluation_survives_the_wire() -> None:
    sent = counted((1, 0, 1, 1), (20, 20, 20, 20), (50, 50, 50, 50), minimum=10)
    assert parse(sent.model_dump(mode="json"), SiteEvaluation, "message") == sent


def test_a_model_of_sex_alone_does_not_tell_by_its_mean_score_how_many_women_there_are() -> None:
    """Whoever has the model knows both scores: 0.391 = (4 x .71 + 116 x .38) / 120."""
    sex = np.where(np.arange(120) < 4, 0, 1).astype(np.int16)
    labels = np.tile(np.array([0, 1], np.float32), 60)
    shown = measure(np.where(sex == 0, 0.71, 0.38), labels, {"sex": sex}, STUDY, 10)
    assert [binary(level).n for level in shown.groups["sex"].values()] == [None, None]
    overall = binary(shown.overall)
    assert overall.n == 120
    assert (overall.mean_score, overall.brier, overall.log_loss, overall.auroc) == (None,) * 4
    assert overall.bins is None or set(overall.bins.mean_score) == {None}
    assert "few different ones" in overall.reason
