"""A site's evaluation of a model: counted by group, and what must not be shown left out."""

from collections.abc import Mapping
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from cohortium.common.errors import ProtocolError
from cohortium.common.metrics import (
    comparison,
    contacts,
    cube,
    labelling,
    multiclass,
    multilabel,
    reconstruction,
    regression,
    survival,
    tally,
)
from cohortium.common.metrics.cube import OVERALL, Flags, Group, Levels, families
from cohortium.common.metrics.tallies import (
    UNKNOWN,
    Beside,
    BinaryTally,
    Comparison,
    SiteEvaluation,
    Tally,
)
from cohortium.common.study import Study

FEDERATED = "federated"

# Each has questions(predicted, outcome, study), tally(predicted, outcome, study, hidden,
# minimum_cell) and, where means of one group could follow from others', agree(overall, groups).
KINDS: dict[str, ModuleType] = {
    "binary": tally,
    "multiclass": multiclass,
    "multilabel": multilabel,
    "regression": regression,
    "survival": survival,
    "labelling": labelling,
    "contacts": contacts,
    "reconstruction": reconstruction,
    "generation": reconstruction,
}

Floats = NDArray[np.float64]


def evaluate(
    scored: Mapping[str, NDArray[np.floating]],
    labels: NDArray[np.floating],
    attributes: Mapping[str, NDArray[np.int16]],
    study: Study,
    minimum_cell: int,
    last: bool = True,
) -> SiteEvaluation:
    """What a site may show of a model on its held-out patients; with minimum_cell 0, everything.

    Args:
        scored: `federated`: predictions of the study's kind (`common/predict.py`), by patient; and
            for a yes or no outcome the scores (n,) of other models on the same patients.
        labels: by patient, in the outcome's own units.
        attributes: (n,) per fairness attribute: level, -1 unknown.
        last: of the final model: by group too, and beside other models.

    Raises:
        ProtocolError: a score is no probability: the model that was sent is broken.
    """
    predictions = {name: np.asarray(values, np.float64) for name, values in scored.items()}
    outcome = np.asarray(labels, np.float64)
    if study.task.kind == "binary":
        for values in predictions.values():
            _require_probabilities(values)
    counted = _Counted(study, predictions, outcome, minimum_cell)
    levels = {name: members(study, name, found) for name, found in attributes.items()}
    return counted.by_group(levels) if last else counted.overall_alone()


class _Counted:
    """The patients of one evaluation."""

    def __init__(
        self, study: Study, predictions: dict[str, Floats], outcome: Floats, minimum_cell: int
    ) -> None:
        self._study, self._outcome, self._minimum_cell = study, outcome, minimum_cell
        self._kind = KINDS[study.task.kind]
        self._federated = predictions.pop(FEDERATED)
        self._others = predictions

    def overall_alone(self) -> SiteEvaluation:
        hidden = self._hidden({}, beside=False)
        return SiteEvaluation(overall=self._tally(self._everybody(), OVERALL, hidden), groups={})

    def by_group(self, levels: Mapping[str, Levels]) -> SiteEvaluation:
        hidden = self._hidden(levels, beside=True)
        tables = families(levels, self._study.fairness.intersections)
        overall = self._tally(self._everybody(), OVERALL, hidden)
        groups = {
            name: {level: self._tally(rows, (name, level), hidden) for level, rows in some.items()}
            for name, some in tables.items()
        }
        agree = getattr(self._kind, "agree", None)
        return SiteEvaluation(
            overall=overall,
            groups=agree(overall, groups) if agree and self._minimum_cell else groups,
            beside={
                name: self._beside(name, tables, hidden.facets, overall) for name in self._others
            },
        )

    def _hidden(self, levels: Mapping[str, Levels], beside: bool) -> cube.Hidden:
        questions = list(self._kind.questions(self._federated, self._outcome, self._study))
        if beside:
            questions += [
                comparison.question(name, self._federated, other, self._outcome, self._study)
                for name, other in self._others.items()
            ]
        intersections = self._study.fairness.intersections if levels else ()
        minimum_cell = self._minimum_cell if len(self._outcome) else 0
        return cube.hide(questions, levels, intersections, minimum_cell)

    def _everybody(self) -> Flags:
        return np.ones(len(self._outcome), np.bool_)

    def _tally(self, rows: Flags, group: Group, hidden: cube.Hidden) -> Tally:
        found: Tally = self._kind.tally(
            self._federated[rows],
            self._outcome[rows],
            self._study,
            hidden.facets[group],
            self._minimum_cell,
        )
        if group in hidden.unchecked:
            return found.model_copy(update={"reason": hidden.unchecked[group]})
        return found

    def _beside(
        self,
        name: str,
        tables: Mapping[str, Levels],
        hidden: Mapping[Group, frozenset[str]],
        overall: Tally,
    ) -> Beside:
        assert isinstance(overall, BinaryTally)

        def compare(rows: Flags, group: Group, whole: BinaryTally | None) -> Comparison:
            return comparison.compare(
                name,
                self._federated[rows],
                self._others[name][rows],
                self._outcome[rows],
                self._study,
                hidden[group],
                self._minimum_cell,
                whole,
            )

        return Beside(
            overall=compare(self._everybody(), OVERALL, overall),
            groups={
                table: {
                    level: compare(rows, (table, level), None) for level, rows in levels.items()
                }
                for table, levels in tables.items()
            },
        )


def members(study: Study, name: str, found: NDArray[np.int16]) -> dict[str, Flags]:
    """Who is in each declared level, and in `unknown`, which is there only if somebody is."""
    who = {level: found == place for place, level in enumerate(study.attribute_levels(name))}
    if (found < 0).any():
        who[UNKNOWN] = (found < 0) | who.get(UNKNOWN, False)
    return who


def _require_probabilities(scores: Floats) -> None:
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ProtocolError("the model gives scores that are no probabilities: training diverged")
