"""Rows of patients who never were, drawn from a study's public schema alone."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohortium.common.preprocessing.split import TRAIN
from cohortium.common.schema import NarrowColumn, NumberColumn
from cohortium.common.study import Study
from cohortium.common.table import Table
from cohortium.common.wide_columns import (
    NO_PAIRS,
    ImageColumn,
    MoleculeColumn,
    NumbersColumn,
    PairsColumn,
    SequenceColumn,
    SeriesColumn,
    WideColumn,
)

CHAIN = ("C", "C", "C", "N", "O", "S")  # any of them may follow any other
RING = "c1ccccc1"
RING_ATOMS, RING_BONDS = 6, 7  # with the bond to what stands before it
LONGEST_CHAIN = 12


def mock_table(study: Study, count: int, rng: np.random.Generator) -> Table:
    """As many rows as asked for, with every column that the study reads and nothing missing."""
    numbers, codes, wide = {}, {}, {}
    for name in study.columns_read:
        column = study.data_model.columns[name]
        if isinstance(column, NumberColumn):
            numbers[name] = rng.uniform(column.low, column.high, count)
        elif isinstance(column, NarrowColumn):
            codes[name] = rng.integers(0, len(column.codes), count).astype(np.int16)
        else:
            wide[name] = _wide(column, count, rng)
    extra = {study.split.column: np.full(count, TRAIN)} if study.split.column else {}
    return Table(numbers=numbers, codes=codes, patients=np.arange(count), extra=extra, wide=wide)


def _wide(column: WideColumn, count: int, rng: np.random.Generator) -> NDArray[Any]:
    match column:
        case SequenceColumn():
            letters = rng.choice(list(column.letters), (count, column.length))
            return np.array(["".join(row) for row in letters])
        case PairsColumn():
            return np.array([_pair(column.length, rng) for _ in range(count)])
        case MoleculeColumn():
            return np.array([_molecule(column, rng) for _ in range(count)])
        case NumbersColumn():
            return rng.uniform(column.low, column.high, (count, len(column.names)))
        case ImageColumn():
            shape = (count, column.channels, column.height, column.width)
            return rng.uniform(column.low, column.high, shape).astype(np.float32)
        case SeriesColumn():
            return _series(column, count, rng)


def _pair(length: int, rng: np.random.Generator) -> str:
    places = rng.integers(1, length + 1, (rng.integers(0, 4), 2))
    return " ".join(f"{first}-{second}" for first, second in places) or NO_PAIRS


def _molecule(column: MoleculeColumn, rng: np.random.Generator) -> str:
    """A chain of atoms, with a ring at its end where one fits."""
    ring = column.atoms > RING_ATOMS and column.bonds >= RING_BONDS and bool(rng.integers(0, 2))
    room = min(
        column.atoms - RING_ATOMS * ring, column.bonds - RING_BONDS * ring + 1, LONGEST_CHAIN
    )
    atoms = rng.choice(CHAIN, int(rng.integers(1, room + 1)))
    return "".join(atoms) + RING * ring


def _series(column: SeriesColumn, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Evenly spread times from 0, each moved a little, and every channel at each of them."""
    steps = np.arange(column.length) + rng.uniform(0, 0.5, (count, column.length))
    times = steps / column.length * column.until
    values = rng.uniform(column.low, column.high, (count, column.length, len(column.channels)))
    return np.concatenate([times[:, :, None], values], axis=2).astype(np.float32)
