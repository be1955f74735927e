"""Counting at a site, and that what is hidden cannot be worked out from what is shown."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from cohortium.common.document import parse
from cohortium.common.errors import ProtocolError
from cohortium.common.metrics.auroc import auroc
from cohortium.common.metrics.disclosure import suppress
from cohortium.common.metrics.tallies import BinaryTally, SiteEvaluation
from cohortium.common.metrics.tally import measure
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


def tally(tp: int, fp: int, tn: int, fn: int) -> BinaryTally:
    """A measured tally with these cells; its AUROC and log-loss are made up."""
    return BinaryTally(
        n=tp + fp + tn + fn,
        positives=tp + fn,
        correct=tp + tn,
        tp=tp,
        fp=fp,
        tn=tn,
        fn=fn,
        log_loss=0.123456,
        auroc=0.987654,
    )


def evaluation(*levels: tuple[int, int, int, int]) -> SiteEvaluation:
    cells = [sum(cell) for cell in zip(*levels, strict=True)]
    groups = {f"level {place}": tally(*level) for place, level in enumerate(levels)}
    return SiteEvaluation(overall=tally(*cells), groups={"band": groups})


def test_six_patients_by_hand() -> None:
    scores = np.array([0.9, 0.6, 0.5, 0.2, 0.7, 0.1], dtype=np.float32)
    labels = np.array([1, 0, 1, 0, 1, 0], dtype=np.float32)
    sex = np.array([0, 0, 1, 1, -1, 0], dtype=np.int16)
    found = measure(scores, labels, {"sex": sex}, STUDY)
    overall = found.overall
    assert (overall.n, overall.positives, overall.correct) == (6, 3, 4)
    assert (overall.tp, overall.fp, overall.tn, overall.fn) == (2, 1, 2, 1)  # 0.5 is not above 0.5
    assert overall.auroc == pytest.approx(8 / 9)  # only 0.5 against 0.6 is in the wrong order
    assert overall.log_loss == pytest.approx(log_loss(labels, scores.astype(float)))
    assert list(found.groups["sex"]) == ["female", "male", "unknown"]
    assert [level.n for level in found.groups["sex"].values()] == [3, 2, 1]


def test_what_cannot_be_measured_is_unknown_not_zero() -> None:
    scores = np.array([0.9, 0.2], dtype=np.float32)
    found = measure(scores, np.zeros(2, np.float32), {"sex": np.zeros(2, np.int16)}, STUDY)
    assert found.overall.auroc is None
    assert found.overall.reason == "no patient has the outcome"
    nobody = found.groups["sex"]["male"]
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
    small = evaluation((1, 1, 1, 1), (20, 20, 20, 20))
    assert suppress(small, 0) == small


def test_large_cells_are_shown_and_scores_rounded() -> None:
    shown = suppress(evaluation((10, 20, 30, 10), (10, 0, 11, 12)), 10).overall
    assert (shown.n, shown.tp, shown.fn, shown.reason) == (103, 20, 22, "")
    assert (shown.auroc, shown.log_loss) == (0.988, 0.123)


def test_a_small_group_takes_the_next_smallest_with_it() -> None:
    levels = suppress(evaluation((1, 0, 1, 1), (20, 20, 20, 20), (50, 50, 50, 50)), 10)
    small, middle, large = levels.groups["band"].values()
    assert small.n is None
    assert small.reason == "fewer than 10 patients in a cell"
    assert middle.n is None
    assert middle.reason == "hidden so that a smaller group cannot be worked out"
    assert large.n == 200
    assert levels.overall.n == 283


def test_few_mistakes_hide_accuracy_but_not_size() -> None:
    group = suppress(evaluation((30, 2, 30, 1), (20, 20, 20, 20)), 10).groups["band"]["level 0"]
    assert (group.n, group.positives) == (63, 31)
    assert (group.correct, group.tp, group.fp, group.tn, group.fn) == (None,) * 5


def test_few_positives_hide_auroc() -> None:
    group = suppress(evaluation((3, 20, 20, 2), (20, 20, 20, 20)), 10).groups["band"]["level 0"]
    assert (group.n, group.correct) == (45, 23)
    assert (group.positives, group.auroc, group.log_loss) == (None, None, None)


def test_scores_near_0_and_1_do_not_tell_by_their_squares_how_few_mistakes_there_were() -> None:
    """Of 100 patients 3 are missed with certainty: a Brier score of 0.030 would say so."""
    labels = np.repeat(np.array([1, 0], np.float32), 50)
    scores = np.where(labels > 0, 0.9999, 0.0001)
    scores[:3] = 0.0001
    sex = np.tile(np.array([0, 1], np.int16), 50)
    found = measure(scores, labels, {"sex": sex}, STUDY)
    assert found.overall.brier == pytest.approx(0.03, abs=5e-4)
    shown = suppress(found, 10)
    for one in (shown.overall, *shown.groups["sex"].values()):
        assert (one.correct, one.brier, one.mean_score, one.auroc, one.log_loss) == (None,) * 5
    assert (shown.overall.n, shown.overall.positives) == (100, 50)


def test_whoever_has_no_mistake_to_hide_still_says_why_the_means_are_missing() -> None:
    labels = np.repeat(np.array([1, 0], np.float32), 50)
    shown = suppress(measure(labels, labels, {}, STUDY), 10).overall
    assert (shown.correct, shown.auroc) == (100, None)
    assert shown.reason == "scores near 0 and 1 would give counts away"


def test_suppressing_what_is_hidden_already_is_an_error_not_a_zero() -> None:
    hidden = suppress(evaluation((1, 1, 1, 1), (20, 20, 20, 20)), 10)
    with pytest.raises(ProtocolError):
        suppress(hidden, 10)


cells = st.tuples(*[st.integers(0, 25)] * 4)


@settings(max_examples=300)
@given(levels=st.lists(cells, min_size=1, max_size=5), minimum=st.integers(2, 12))
def test_no_small_cell_follows_from_the_total_minus_the_shown_levels(
    levels: list[tuple[int, int, int, int]], minimum: int
) -> None:
    raw = evaluation(*levels)
    shown = suppress(raw, minimum)
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


@given(levels=st.lists(cells, min_size=1, max_size=4))
def test_what_is_shown_is_true(levels: list[tuple[int, int, int, int]]) -> None:
    raw = evaluation(*levels)
    for level, shown in suppress(raw, 10).groups["band"].items():
        for key in ("n", "positives", "correct", "tp", "fp", "tn", "fn"):
            assert getattr(shown, key) in (None, getattr(raw.groups["band"][level], key))


def test_an_evaluation_survives_the_wire() -> None:
    sent = suppress(evaluation((1, 0, 1, 1), (20, 20, 20, 20), (50, 50, 50, 50)), 10)
    assert parse(sent.model_dump(mode="json"), SiteEvaluation, "message") == sent
