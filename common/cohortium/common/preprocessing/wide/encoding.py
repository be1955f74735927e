"""The values of each block (`layout.py`), from a column of a `Table`."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohortium.common.layout import Block
from cohortium.common.preprocessing.wide.molecule import fingerprint, graph
from cohortium.common.study import Study
from cohortium.common.wide_columns import (
    ImageColumn,
    MoleculeColumn,
    SequenceColumn,
    SeriesColumn,
)

Floats = NDArray[np.float32]


def encode_block(values: NDArray[Any], study: Study, block: Block) -> Floats:
    """(n, block.stop - block.first) from a wide column that is no block of numbers; 0 for gaps."""
    column = study.data_model.columns[block.name]
    match column:
        case SequenceColumn():
            return _sequences(values, column)
        case MoleculeColumn():
            return _molecules(values, column, study)
        case ImageColumn():
            return _images(values, column)
        case SeriesColumn():
            return _series(values, column)
    raise TypeError(f"{block.name}: {column.kind}")


def _sequences(values: NDArray[np.str_], column: SequenceColumn) -> Floats:
    """Numbers of letters from 1, one more for what is unknown, 0 behind the end."""
    numbers = np.full(0x110000, column.levels - 1, np.float32)
    numbers[[ord(letter) for letter in column.letters]] = np.arange(1, len(column.letters) + 1)
    made = np.zeros((len(values), column.length), np.float32)
    for row, text in enumerate(values.tolist()):
        made[row, : len(text)] = numbers[[ord(letter) for letter in text]]
    return made


def _molecules(values: NDArray[np.str_], column: MoleculeColumn, study: Study) -> Floats:
    bits = study.preprocessing.fingerprint_bits
    as_graph = study.preprocessing.molecules == "graph"
    of: Callable[[str], Floats] = (
        (lambda text: graph(text, column))
        if as_graph
        else (lambda text: fingerprint(text, column, bits))
    )
    empty = np.zeros_like(of("C"))
    return np.stack([of(text) if text else empty for text in values.tolist()])


def _images(values: NDArray[np.float32], column: ImageColumn) -> Floats:
    """Pixels from -1 to 1."""
    middle, half = (column.low + column.high) / 2, (column.high - column.low) / 2
    scaled: Floats = np.nan_to_num((values - middle) / half).astype(np.float32)
    return scaled.reshape(len(values), -1)


def _series(values: NDArray[np.float32], column: SeriesColumn) -> Floats:
    """Time as a share of `until`, values from -1 to 1, and 1 for each value that is there."""
    low, high = np.array(column.low), np.array(column.high)
    time, seen = values[:, :, :1] / column.until, ~np.isnan(values[:, :, 1:])
    scaled = (values[:, :, 1:] - (low + high) / 2) / ((high - low) / 2)
    whole = np.concatenate([np.nan_to_num(time), np.nan_to_num(scaled), seen], axis=2)
    return whole.reshape(len(values), -1).astype(np.float32)
