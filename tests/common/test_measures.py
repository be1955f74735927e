"""Every measure is in docs/measures.md; what it is called there is what a report holds."""

from pathlib import Path
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
from cohortium.common.metrics.performance import performance

PAGE = (Path(__file__).parents[2] / "docs/measures.md").read_text()
MODULES: dict[str, Any] = {
    "multiclass": multiclass,
    "regression": regression,
    "survival": survival,
    "labelling": labelling,
    "contacts": contacts,
    "reconstruction": reconstruction,
}


def test_every_measure_of_a_yes_or_no_outcome_is_explained() -> None:
    for found in performance({}, (0.5,)):
        assert f"`{found.measure}`" in PAGE


@pytest.mark.parametrize("kind", MODULES)
def test_every_measure_of_another_outcome_is_explained(kind: str) -> None:
    tally = MODULES[kind].tally(*patients(kind, 40, 1), study(kind), frozenset(), 0)
    for found in performance({"a": tally}, (), (1.0, 2.0)):
        assert f"`{found.measure}`" in PAGE, found.measure


def test_a_measure_has_one_place_in_the_list_by_threshold_horizon_and_part() -> None:
    for kind, module in MODULES.items():
        tally = module.tally(*patients(kind, 40, 1), study(kind), frozenset(), 0)
        found = performance({"a": tally}, (0.5,), (1.0, 2.0))
        places = [(one.measure, one.threshold, one.horizon, one.part) for one in found]
        assert len(places) == len(set(places))
