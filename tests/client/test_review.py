"""What a study asks for, in words, for who approves it and for who wrote it."""

from typing import Any

import pytest
from tests.common.test_coherence import TASKS, study

from cohortium.client.difference import difference
from cohortium.client.review import sheet
from cohortium.server.progress import describe

BESIDE: dict[str, Any] = {
    "evaluation": {"own_model": True, "noise_epsilon": 0.5},
    "mitigation": {"ditto": 0.1, "recalibrate": True},
}


@pytest.mark.parametrize("kind", TASKS)
def test_every_kind_of_outcome_can_be_reviewed_and_compared(kind: str) -> None:
    chosen, other = study(kind, {}), study("binary", {"name": "other"})
    assert f"Predicts   {chosen.task.outcome}" in sheet(chosen, None, before=other)
    assert chosen.task.outcome in describe(chosen)[1]
    changes = difference(other, chosen)
    assert (f"task.kind binary -> {kind}" in changes) == (kind != "binary")


def test_whatever_is_made_of_patients_or_costs_privacy_is_on_the_sheet_and_in_the_check() -> None:
    said, (document, text) = sheet(study("binary", BESIDE), None), describe(study("binary", BESIDE))
    for words in ("own model", "personal model", "recalibrated model", "costs epsilon 0.5 more"):
        assert words in said
    for words in ("(own_model)", "(ditto)", "(recalibrate)", "costs epsilon 0.5 more"):
        assert words in text
    assert document["noise_epsilon"] == 0.5
    assert len(document["asks_beside"]) == 3
    assert max(map(len, said.splitlines())) < 110


def test_a_site_that_only_evaluates_is_told_that_nothing_is_trained_there() -> None:
    chosen = study("binary", {"sites": {"evaluate_only": ["d"]}})
    here, elsewhere = sheet(chosen, None, site="d"), sheet(chosen, None, site="a")
    assert "THIS SITE ONLY EVALUATES" in here
    assert "gradients" not in here
    assert "Budget     not charged" in here
    assert "of which only evaluate: d" in elsewhere
    assert "gradients" in elsewhere
    assert "trains nothing at d" in describe(chosen)[1]


def test_a_change_is_said_in_words_that_are_no_program() -> None:
    fairness = {"intersections": [["sex", "age"]], "margins": {"accuracy": 0.05}}
    changes = difference(
        study("binary", {}),
        study("binary", {"sites": {"evaluate_only": ["d"]}, "fairness": fairness, **BESIDE}),
    )
    assert changes == (
        "evaluation.own_model no -> yes",
        "evaluation.noise_epsilon none -> 0.5",
        "fairness.intersections none -> sex, age",
        "fairness.margins none -> accuracy 0.05",
        "mitigation.recalibrate no -> yes",
        "mitigation.ditto none -> 0.1",
        "sites that only evaluate none -> d",
    )
