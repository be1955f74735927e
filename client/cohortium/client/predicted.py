"""What a model says of patients, as the cells of a table that people and programs read."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cohortium.common.study import Study
from cohortium.common.table import Table
from cohortium.common.task import ContactsTask, LabellingTask, ReconstructionTask
from cohortium.common.using.described import Described
from cohortium.common.using.loader import given_back
from cohortium.common.wide_columns import NO_PAIRS

DIGITS = 6  # of a prediction, as many as float32 is good for
LIKELY = 0.5  # a contact that is more likely than not is named

Wide = NDArray[np.float64]


def cells(
    found: Described, table: Table, features: NDArray[np.float32], values: Wide
) -> Iterator[list[str]]:
    """For each patient of a table a cell for each of `prediction_names`.

    Args:
        features: of these patients, (n, inputs).
        values: as `predict.predictions` gives them for these patients.
    """
    study = found.study
    match study.task:
        case LabellingTask() as task:
            yield from _states(task, study, table, values)
        case ContactsTask() as task:
            yield from _contacts(task, table, values)
        case ReconstructionTask():
            columns = study.data_model.model_dump(mode="json")["columns"]
            yield from given_back(found.recipe, columns, features, values)
        case _:
            for row in values.reshape(table.rows, -1).tolist():
                yield [f"{value:.{DIGITS}g}" for value in row]


def _states(task: LabellingTask, study: Study, table: Table, values: Wide) -> Iterator[list[str]]:
    """The most likely state at each place, as the schema writes a sequence of them."""
    letters = np.array(list(task.states(study.data_model)))
    for text, likely in zip(table.wide[task.of].tolist(), values.argmax(axis=2), strict=True):
        yield ["".join(letters[likely[: len(text)]])]


def _contacts(task: ContactsTask, table: Table, values: Wide) -> Iterator[list[str]]:
    """Pairs of places that probably touch, as the schema writes them; empty without a sequence."""
    length = round(values.shape[1] ** 0.5)
    for text, row in zip(table.wide[task.of].tolist(), values, strict=True):
        likely = np.triu(row.reshape(length, length) > LIKELY, task.apart)[: len(text), : len(text)]
        pairs = " ".join(f"{first + 1}-{second + 1}" for first, second in np.argwhere(likely))
        yield [(pairs or NO_PAIRS) if text else ""]
