"""Whose row is whose, and one row for each patient: the unit that privacy is counted in."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohortium.client.data.reader import Cells
from cohortium.common import bands
from cohortium.common.errors import DataError
from cohortium.common.schema import Repeated, Schema
from cohortium.common.table import Mask, Places, Table


def patients_of(text: Cells, schema: Schema) -> NDArray[np.int64]:
    """The row number, or 63 bits of the key's SHA-256: the same whatever the row order."""
    key = schema.table.patient_key
    if key is None:
        return np.arange(len(text.lines), dtype=np.int64)
    hashes = (hashlib.sha256(value.encode()).digest() for value in text.columns[key])
    return np.array([int.from_bytes(found[:8], "big") >> 1 for found in hashes], dtype=np.int64)


def second_rows(patients: NDArray[np.int64]) -> Places:
    """Places of the rows whose patient has a row above, in order."""
    _, first = np.unique(patients, return_index=True)
    return np.setdiff1d(np.arange(len(patients)), first)


def one_row_each(table: Table, repeated: Repeated, agreeing: Sequence[str] = ()) -> Table:
    """Reduce a table to one row a patient, in the order of their first rows.

    `first` and `last` keep that row as it is. `mean` takes the mean of a patient's measured
    numbers, of flags, categories and text the last that is there, and refuses what has no mean.

    Args:
        agreeing: columns that no mean may be taken of (the label). There and in columns of text,
            sequences and molecules too, all values of a patient must then be equal.

    Raises:
        DataError: a patient has several rows and may not, or they do not agree; never says whose.
    """
    again = second_rows(table.patients)
    if not again.size:
        return table
    if repeated == "refuse":
        people = len(np.unique(table.patients[again]))
        raise DataError(
            f"{bands.text(people)} patients have more than one row; rule: one row per patient; "
            'reduce the file to one row each, or say how with [table] repeated = "first", "last" '
            'or "mean" in the schema'
        )
    groups = _groups(table.patients)
    if repeated == "first":
        return table.select(_firsts(groups))
    if repeated == "last":
        return table.select(_lasts(groups, np.ones(table.rows, np.bool_)))
    return _means(table, groups, agreeing)


def _groups(patients: NDArray[np.int64]) -> Places:
    """Each row's patient, counted from 0 in the order in which patients first appear."""
    _, first, inverse = np.unique(patients, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _firsts(groups: Places) -> Places:
    return np.unique(groups, return_index=True)[1]


def _lasts(groups: Places, there: Mask) -> Places:
    """Place of each patient's last row where `there` holds, or of the first row for want of one."""
    found = _firsts(groups)
    np.maximum.at(found, groups[there], np.flatnonzero(there))
    return found


def _means(table: Table, groups: Places, agreeing: Sequence[str]) -> Table:
    _check_means(table)
    for name in agreeing:
        if name in table.numbers:
            _check_agreement(name, table.numbers[name], groups, ~table.missing(name))
        elif name in table.codes:
            _check_agreement(name, table.codes[name], groups, ~table.missing(name))
    for name, wide in table.wide.items():
        if wide.dtype.kind == "U":
            _check_agreement(name, wide, groups, ~table.missing(name))
    for name, text in table.extra.items():
        _check_agreement(name, text, groups, np.ones(table.rows, np.bool_))
    measured = {name: ~table.missing(name) for name in (*table.numbers, *table.codes)}
    last = {name: _lasts(groups, there) for name, there in measured.items()}
    return Table(
        numbers={
            name: values[last[name]] if name in agreeing else _mean(values, groups, measured[name])
            for name, values in table.numbers.items()
        },
        codes={name: values[last[name]] for name, values in table.codes.items()},
        patients=table.patients[_firsts(groups)],
        extra={name: text[_firsts(groups)] for name, text in table.extra.items()},
        wide={name: _wide(table, name, groups) for name in table.wide},
    )


def _check_means(table: Table) -> None:
    for name, values in table.wide.items():
        if values.ndim > 2:
            raise DataError(
                f'column "{name}": an image or a series has no mean of several rows; reduce the '
                'file to one row each, or set [table] repeated = "first" or "last" in the schema'
            )


def _wide(table: Table, name: str, groups: Places) -> NDArray[Any]:
    """Of a block the mean of each number; of text, on which a patient's rows agree, the last."""
    values = table.wide[name]
    if values.dtype.kind == "U":
        return values[_lasts(groups, ~table.missing(name))]
    return np.stack([_mean(one, groups, ~np.isnan(one)) for one in values.T], axis=1)


def _mean(values: NDArray[np.float64], groups: Places, measured: Mask) -> NDArray[np.float64]:
    total = np.bincount(groups, np.where(measured, values, 0.0))
    counts = np.bincount(groups, measured)
    means = np.full(len(total), np.nan)
    np.divide(total, counts, out=means, where=counts > 0)
    return means


def _check_agreement(name: str, values: NDArray[np.generic], groups: Places, there: Mask) -> None:
    same = values == values[_lasts(groups, there)][groups]
    torn = len(np.unique(groups[there & ~same]))
    if torn:
        raise DataError(
            f'column "{name}": {bands.text(torn)} patients have rows that do not agree; rule: with '
            '[table] repeated = "mean" all rows of a patient have one label, one split, and one '
            'sequence or molecule; correct the file, or use "first" or "last"'
        )
