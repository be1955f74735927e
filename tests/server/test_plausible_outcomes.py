"""Tallies that no table gives: one hostile site must not break the report of the others."""

import json
from typing import Any

import pytest
from pydantic import TypeAdapter
from tests.outcomes import patients, study

from cohortium.common.errors import ProtocolError
from cohortium.common.metrics import multiclass, regression, survival
from cohortium.common.metrics.tallies import Tally
from cohortium.server.plausible_evaluation import _check_tally

MODULES = {"multiclass": multiclass, "regression": regression, "survival": survival}


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
