"""Tallies that no table gives: one hostile site must not break the report of the others."""

import json
from typing import Any

import pytest
from pydantic import TypeAdapter
from tests.outcomes import patients, study

from cohortium.common.errors import ProtocolError
from cohortium.common.metrics import (
    contacts,
    labelling,
    multiclass,
    reconstruction,
    regression,
    survival,
)
from cohortium.common.metrics.tallies import Tally
from cohortium.server.plausible_evaluation import _check_tally

MODULES: dict[str, Any] = {
    "multiclass": multiclass,
    "regression": regression,
    "survival": survival,
    "cox": survival,
    "labelling": labelling,
    "contacts": contacts,
    "reconstruction": reconstruction,
}


def possible(kind: str, minimum_cell: int = 10) -> dict[str, Any]:
    found = MODULES[kind].tally(*patients(kind, 300, 4), study(kind), frozenset(), minimum_cell)
    values: dict[str, Any] = found.model_dump()
    return values


def check(kind: str, values: dict[str, Any]) -> None:
    """As the coordinator does with what came as JSON, whose keys are sorted."""
    raw = json.dumps(values, sort_keys=True)
    _check_tally(study(kind), TypeAdapter[Tally](Tally).validate_json(raw))


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("minimum_cell", [0, 10])
def test_what_a_site_measures_passes(kind: str, minimum_cell: int) -> None:
    check(kind, possible(kind, minimum_cell))


@pytest.mark.parametrize("kind", MODULES)
def test_what_a_site_hides_passes(kind: str) -> None:
    module, rows = MODULES[kind], patients(kind, 300, 4)
    asked = study(kind)
    facets = {one.name for one in module.questions(*rows, asked)[0].facets}
    check(kind, module.tally(*rows, asked, frozenset(facets), 10).model_dump())
    none = tuple(row[:0] for row in rows)
    check(kind, module.tally(*none, asked, frozenset(), 10).model_dump())


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("multiclass", {"correct": 301}),
        ("multiclass", {"n": None}),
        ("multiclass", {"confusion": ((1, 2), (3, 4))}),
        ("multiclass", {"confusion": ((100, 0, 0), (0, 100, 0), (0, 0, 101))}),
        ("multiclass", {"classes": {}}),
        ("regression", {"squared": 1e300}),
        ("regression", {"predicted": 1e200}),
        ("regression", {"outcome2": 1.0}),
        ("regression", {"absolute": 1e3}),
        ("regression", {"fourth": 1.0}),
        ("regression", {"product": None}),
        ("regression", {"n": None}),
        ("survival", {"events": 301}),
        ("survival", {"horizons": ()}),
        ("survival", {"pairs": 1e6}),
        ("survival", {"pairs": 1.0}),
        ("survival", {"c_variance": 1e200}),
        ("cox", {"pairs": 1.0}),
        ("labelling", {"measured": 301}),
        ("labelling", {"n": None}),
        ("labelling", {"right": 1.0}),
        ("labelling", {"right2": None}),
        ("labelling", {"log_loss": 1e3}),
        ("labelling", {"states": {}}),
        ("contacts", {"measured": 301}),
        ("contacts", {"top": 0.0}),
        ("contacts", {"fifth2": 1.0}),
        ("contacts", {"auroc2": None}),
        ("reconstruction", {"spread": None}),
        ("reconstruction", {"squared2": 1e-9}),
        ("reconstruction", {"product": 1e9}),
        ("reconstruction", {"kind": "generation"}),
    ],
)
def test_what_no_table_gives_is_left_out(kind: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        check(kind, {**possible(kind), **wrong})


def test_risks_that_fall_and_scores_beyond_reason_are_left_out() -> None:
    values = possible("survival")
    first, second = values["horizons"]
    for wrong in ({"observed": 0.0}, {"brier": 1e200}, {"brier_variance": 1e200}):
        with pytest.raises(ProtocolError):
            check("survival", {**values, "horizons": (first, {**second, **wrong})})


def test_a_tally_of_another_kind_than_the_study_s_is_left_out() -> None:
    with pytest.raises(ProtocolError):
        check("survival", possible("regression"))


def test_states_whose_shares_are_no_parts_of_one_whole_are_left_out() -> None:
    values = possible("labelling")
    state = values["states"]["H"]
    for wrong in (
        {"true": 0.9},
        {"called": 0.0},
        {"right": 0.5},
        {"true2": 0.0},
        {"product": 1.0},
        dict.fromkeys(state),
    ):
        with pytest.raises(ProtocolError):
            check("labelling", {**values, "states": {**values["states"], "H": {**state, **wrong}}})
