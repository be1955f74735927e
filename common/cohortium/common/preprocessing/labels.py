"""The outcome of each patient: as it was observed, and as a model learns it.

| kind | observed, float64 | learnt, float32 |
| --- | --- | --- |
| binary | (n,) 1 with and 0 without the outcome | the same |
| multiclass | (n,) place of the class among the schema's codes | the same |
| multilabel | (n, labels) 1 or 0 | the same |
| regression | (n,) in the column's units | (value - centre) / spread, both public |
| survival | (n, 2) time in the column's units; event 1 or 0 | (n, 2) intervals survived, event |
| survival, cox | the same | the same |
| labelling | (n, length) place of the state among the letters, -1 none | the same |
| contacts | (n, length^2) 1, 0, or -1 where nothing is asked | the same |
| reconstruction, generation | (n, inputs) the features | the same |
"""

import numpy as np
from numpy.typing import NDArray

from cohortium.common import bands
from cohortium.common.errors import DataError
from cohortium.common.study import Study
from cohortium.common.table import Mask, Table
from cohortium.common.task import (
    BinaryTask,
    ContactsTask,
    GenerationTask,
    LabellingTask,
    MulticlassTask,
    MultilabelTask,
    ReconstructionTask,
    RegressionTask,
    SurvivalTask,
)
from cohortium.common.wide_columns import NO_PAIRS, PairsColumn, SequenceColumn

Learnt = NDArray[np.float32]
Observed = NDArray[np.float64]

NO_FEATURES = np.empty((0, 0), np.float32)


def known(table: Table, study: Study) -> Mask:
    """bool (n,): where no part of the outcome is missing, nor a sequence that it runs along."""
    there = np.ones(table.rows, np.bool_)
    along = [study.task.of] if isinstance(study.task, LabellingTask | ContactsTask) else []
    for name in (*study.task.columns, *along):
        there &= ~table.missing(name)
    return there


def observed(table: Table, study: Study, features: Learnt = NO_FEATURES) -> Observed:
    """The outcome of n patients of whom it is known, in its own units.

    Args:
        features: (n, inputs), which are the outcome where they are to be given back.

    Raises:
        DataError: an outcome of places does not fit the sequence that it runs along.
    """
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
        case LabellingTask():
            return _states(table, study, task)
        case ContactsTask():
            return _contacts(table, study, task)
        case ReconstructionTask() | GenerationTask():
            return features.astype(np.float64)


def learnt(outcomes: Observed, study: Study) -> Learnt:
    """What the loss compares a model's outputs with."""
    task = study.task
    if isinstance(task, RegressionTask):
        centre, spread = task.scale(study.data_model)
        outcomes = (outcomes - centre) / spread
    elif isinstance(task, SurvivalTask) and task.likelihood == "discrete":
        outcomes = _intervals(outcomes, np.array(task.horizons))
    return outcomes.astype(np.float32)


def _states(table: Table, study: Study, task: LabellingTask) -> Observed:
    """(n, length): number of the state from 0, -1 where there is none or it is unknown."""
    column = study.data_model.columns[task.label]
    assert isinstance(column, SequenceColumn)
    texts, along = table.wide[task.label], table.wide[task.of]
    _check_fit(np.char.str_len(texts) != np.char.str_len(along), task, "one state for each place")
    made = np.full((table.rows, column.length), -1.0)
    for row, text in enumerate(texts.tolist()):
        made[row, : len(text)] = [column.letters.find(letter) for letter in text]
    return made


def _check_fit(wrong: Mask, task: LabellingTask | ContactsTask, rule: str) -> None:
    if wrong.any():
        raise DataError(
            f'column "{task.label}": {bands.text(int(wrong.sum()))} rows do not fit their '
            f'"{task.of}"; rule: {rule} of the sequence; correct the registered file'
        )


def _contacts(table: Table, study: Study, task: ContactsTask) -> Observed:
    """(n, length^2): 1 for pairs that touch, else 0; -1 too near, or beyond the sequence's end."""
    column = study.data_model.columns[task.label]
    assert isinstance(column, PairsColumn)
    place = np.arange(column.length)
    near = np.abs(place[:, None] - place) < task.apart
    made = np.zeros((table.rows, column.length, column.length))
    lengths = np.char.str_len(table.wide[task.of])
    wrong = np.zeros(table.rows, np.bool_)
    for row, text in enumerate(table.wide[task.label].tolist()):
        for word in text.split() if text != NO_PAIRS else ():
            first, second = (int(number) - 1 for number in word.split("-"))
            made[row, first, second] = made[row, second, first] = 1.0
            wrong[row] |= max(first, second) >= lengths[row]
        end = place >= lengths[row]
        made[row][near | end[:, None] | end] = -1.0
    _check_fit(wrong, task, "pairs of places")
    return made.reshape(table.rows, -1)


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
