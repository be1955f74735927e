"""The line of a finished round says what its kind of outcome is followed by."""

from typing import Any

import pytest
from tests.outcomes import patients, study

from cohortium.common.metrics import (
    contacts,
    labelling,
    multiclass,
    reconstruction,
    regression,
    survival,
)
from cohortium.common.metrics.summary import summarise
from cohortium.common.metrics.tallies import SiteEvaluation
from cohortium.server.progress import line
from cohortium.server.store import RoundRecord

MODULES: dict[str, Any] = {
    "multiclass": multiclass,
    "regression": regression,
    "survival": survival,
    "cox": survival,
    "labelling": labelling,
    "contacts": contacts,
    "reconstruction": reconstruction,
}


def record(**evaluations: SiteEvaluation) -> RoundRecord:
    return RoundRecord(
        round=1,
        seconds=0.5,
        received={},
        replied=("north",),
        missing=(),
        refused={},
        spent={},
        evaluations=evaluations,
        summary=summarise(evaluations) if evaluations else None,
    )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("multiclass", ("log-loss", "accuracy")),
        ("regression", ("MAE", "RMSE", "R2")),
        ("survival", ("C", "Brier")),
        ("cox", ("C",)),
        ("labelling", ("log-loss", "accuracy")),
        ("contacts", ("precision L/5", "precision L", "AUROC")),
        ("reconstruction", ("MSE", "explained")),
    ],
)
def test_each_kind_of_outcome_is_followed_by_its_own_measures(
    kind: str, words: tuple[str, ...]
) -> None:
    tally = MODULES[kind].tally(*patients(kind, 80, 1), study(kind), frozenset(), 0)
    found, text = line(study(kind), record(north=SiteEvaluation(overall=tally, groups={})))
    for (name, value), word in zip(found["headline"].items(), words, strict=True):
        assert f"{word} {value:.3f}" in text, name


def test_a_round_without_evaluation_shows_dashes_and_not_zeros() -> None:
    found, text = line(study("binary"), record())
    assert text.startswith("  1/1  log-loss   -    AUROC   -    accuracy   -  ")
    assert set(found["headline"].values()) == {None}
