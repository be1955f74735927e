"""The outcome of each patient: as it was observed, and as a model learns it.

| kind | observed, float64 | learnt, float32 |
| --- | --- | --- |
| binary | (n,) 1 with and 0 without the outcome | the same |
| multiclass | (n,) place of the class among the schema's codes | the same |
| multilabel | (n, labels) 1 or 0 | the same |
| regression | (n,) in the column's units | (value - centre) / spread, both public |
| survival | (n, 2) time in the column's units; event 1 or 0 | (n, 2) intervals survived, event |
"""

import numpy as np
from numpy.typing import NDArray

from cohortium.common.errors import ProtocolError
from cohortium.common.study import Study
from cohortium.common.table import Mask, Table
from cohortium.common.task import (
    BinaryTask,
    MulticlassTask,
    MultilabelTask,
    RegressionTask,
    SurvivalTask,
)

Learnt = NDArray[np.float32]
Observed = NDArray[np.float64]


def known(table: Table, study: Study) -> Mask:
    """bool (n,): where no part of the outcome is missing."""
    there = np.ones(table.rows, np.bool_)
    for name in study.task.columns:
        there &= ~table.missing(name)
    return there


def observed(table: Table, study: Study) -> Observed:
    """The outcome of n patients of whom it is known, in its own units."""
    task = study.task
    match task:
        case BinaryTask():
            return _positive(table, study, task).astype(np.float64)
        case MulticlassTask():
            return table.codes[task.label].astype(np.float64)
        case MultilabelTask():
            return np.column_stack([table.codes[name] for name in task.labels]).astype(np.float64)
        case RegressionTask():
            return table.numbers[task.label]
        case SurvivalTask():
            return np.column_stack([table.numbers[task.time], table.codes[task.event]])
        case _:
            raise ProtocolError(f"a {task.kind} outcome is not learnt in this version")


def learnt(outcomes: Observed, study: Study) -> Learnt:
    """What the loss compares a model's outputs with."""
    task = study.task
    if isinstance(task, RegressionTask):
        centre, spread = task.scale(study.data_model)
        outcomes = (outcomes - centre) / spread
    elif isinstance(task, SurvivalTask):
        outcomes = _intervals(outcomes, np.array(task.horizons))
    return outcomes.astype(np.float32)


def _positive(table: Table, study: Study, task: BinaryTask) -> Mask:
    if task.label in table.numbers:
        above = task.positive_above or 0.0  # a study gives one for a number
        return np.asarray(table.numbers[task.label] > above)
    codes = study.data_model.narrow(task.label)
    assert codes.kind != "number"
    places = [codes.codes.index(code) for code in task.positive_codes]
    return np.isin(table.codes[task.label], places)


def _intervals(outcomes: Observed, horizons: Observed) -> Observed:
    """(n, 2): how many intervals a patient survived in full, and 1 if the event fell in the next.

    The intervals are (0, t1], (t1, t2] and so on. An event at a horizon lies before it, in the
    interval that it ends; a patient last seen without event at a horizon survived that interval. An
    interval in which a patient was lost counts for nothing, and an event after the last horizon is
    one that the model does not look for.
    """
    time, event = outcomes.T
    before_event = np.searchsorted(horizons, time, side="left")
    watched = np.searchsorted(horizons, time, side="right")
    survived = np.where(event > 0, before_event, watched)
    return np.column_stack([survived, (event > 0) & (before_event < len(horizons))])
