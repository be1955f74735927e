"""What a site counts of patients with several yes or no outcomes, and what of it it may show.

Facets: `n`; `all right` (every label rightly called, or not); and for each label those of a yes or
no outcome, as `<label>: positives`. Log loss, the mean over labels, is shown where each label's is.
"""

from collections.abc import Set
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cohortium.common.metrics import tally as binary
from cohortium.common.metrics.cube import Facet, Question, facets
from cohortium.common.metrics.showing import NO_PATIENTS, first, hidden_reason
from cohortium.common.metrics.tallies import MultilabelTally
from cohortium.common.study import Study
from cohortium.common.task import MultilabelTask

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

SHARED = "n"  # the facet that all questions have
ALL_RIGHT = "all right"


def questions(predicted: Floats, outcome: Floats, study: Study) -> tuple[Question, ...]:
    """Those of every label, then whether all are right; of (n, labels) probabilities and labels."""
    right = _all_right(predicted, outcome, study)
    whole = facets({SHARED: [[0, 1]], ALL_RIGHT: [[0], [1]]})
    return (
        *(
            _of_label(name, question)
            for place, name in enumerate(_labels(study))
            for question in binary.questions(predicted[:, place], outcome[:, place], study)
        ),
        Question(right.astype(np.int64), 2, whole),
    )


def tally(
    predicted: Floats, outcome: Floats, study: Study, hidden: Set[str], minimum_cell: int
) -> MultilabelTally:
    """Counts and scores of a group, without the hidden facets.

    Args:
        predicted: (n, labels) probabilities.
        outcome: (n, labels) 1.0 or 0.0.
    """
    n = len(outcome)
    labels = {
        name: binary.tally(
            predicted[:, place], outcome[:, place], study, _own(name, hidden), minimum_cell
        )
        for place, name in enumerate(_labels(study))
    }
    losses = [one.log_loss for one in labels.values() if one.log_loss is not None]
    return MultilabelTally(
        n=None if SHARED in hidden else n,
        all_right=(
            None if ALL_RIGHT in hidden else int(_all_right(predicted, outcome, study).sum())
        ),
        labels=labels,
        log_loss=sum(losses) / len(losses) if len(losses) == len(labels) else None,
        reason=first(((bool(hidden), hidden_reason(minimum_cell)), (not n, NO_PATIENTS))),
    )


def _of_label(name: str, question: Question) -> Question:
    """With names of its own, but for `n`: labels share their patients and nothing else."""
    return replace(
        question,
        shared=(),
        facets=tuple(
            Facet(_named(name, one.name), one.cells, tuple(_named(name, f) for f in one.hides))
            for one in question.facets
        ),
    )


def _named(label: str, facet: str) -> str:
    return facet if facet == SHARED else f"{label}: {facet}"


def _own(label: str, hidden: Set[str]) -> frozenset[str]:
    """The hidden facets of one label, by the names that they have there."""
    start = f"{label}: "
    own = {facet.removeprefix(start) for facet in hidden if facet.startswith(start)}
    return frozenset(own | ({SHARED} & hidden))


def _all_right(predicted: Floats, outcome: Floats, study: Study) -> Flags:
    called = predicted > study.evaluation.thresholds[0]
    right: Flags = (called == (outcome > 0.5)).all(axis=1)
    return right


def _labels(study: Study) -> tuple[str, ...]:
    assert isinstance(study.task, MultilabelTask)
    return study.task.labels
