"""From a row of model inputs back to a patient's columns: the inverse of `encode`.

What a model gives back is never quite a row: numbers are clipped to the schema's bounds, of a
category's dummies the highest wins against the reference level, a flag is what its input is nearer
to, and a block is missing where the number that says so is below a half.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cohortium.common.layout import Block
from cohortium.common.preprocessing.encode import HALF
from cohortium.common.schema import CategoryColumn, FlagColumn, NumberColumn
from cohortium.common.study import Study
from cohortium.common.wide_columns import NumbersColumn

Floats = NDArray[np.float32]
Cells = list[str]


def decode(rows: Floats, study: Study) -> dict[str, Cells]:
    """Cells of a table by header, from rows (n, inputs); "" is missing."""
    table = study.layout.by_name.get("table")
    found: dict[str, Cells] = {}
    if table is not None:
        found |= dict(_columns(rows[:, table.first : table.stop], study))
    for block in study.layout.blocks:
        if block.kind == "numbers":
            found |= dict(_block(rows, block, study))
    return found


def _columns(rows: Floats, study: Study) -> Iterator[tuple[str, Cells]]:
    place = 0
    gaps = _gaps(rows, study)
    for name in study.data.features:
        column = study.data_model.columns[name]
        if isinstance(column, NumberColumn):
            cells, place = _number(rows[:, place], column), place + 1
        elif isinstance(column, FlagColumn | CategoryColumn):
            wide = len(column.codes) - 1
            cells, place = _codes(rows[:, place : place + wide], column), place + wide
        else:
            continue
        missing = gaps.get(name)
        yield name, cells if missing is None else _emptied(cells, missing)


def _gaps(rows: Floats, study: Study) -> dict[str, NDArray[np.bool_]]:
    """Where the input that says "missing" says so, by column."""
    names = study.preprocessing.missing_indicators
    first = rows.shape[1] - len(names)
    return {name: rows[:, first + place] > 0 for place, name in enumerate(names)}


def _number(values: Floats, column: NumberColumn | NumbersColumn) -> Cells:
    centre, spread = column.scale
    plain = np.clip(centre + spread * values.astype(np.float64), column.low, column.high)
    digits = max(0, 3 - int(np.floor(np.log10(spread))))
    return [f"{min(max(round(v, digits), column.low), column.high):g}" for v in plain.tolist()]


def _codes(dummies: Floats, column: FlagColumn | CategoryColumn) -> Cells:
    shares = dummies + HALF
    whole = np.column_stack([1 - shares.sum(axis=1), shares])
    return [column.codes[place] for place in whole.argmax(axis=1)]


def _block(rows: Floats, block: Block, study: Study) -> Iterator[tuple[str, Cells]]:
    column = study.data_model.columns[block.name]
    assert isinstance(column, NumbersColumn)
    missing = rows[:, block.start] < HALF
    for place, header in enumerate(column.headers):
        yield header, _emptied(_number(rows[:, block.first + place], column), missing)


def _emptied(cells: Cells, missing: NDArray[np.bool_]) -> Cells:
    return ["" if gone else cell for cell, gone in zip(cells, missing.tolist(), strict=True)]
