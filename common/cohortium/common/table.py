"""A site's table after reading: numbers, codes as positions in the schema, gaps marked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Places = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Table:
    """Checked columns of n rows; arrays are read, never written.

    Attributes:
        numbers: float64 (n,) per number column, NaN where missing, in the schema's units.
        codes: int16 (n,) per flag or category column: position in the schema's codes, -1 missing.
        patients: int64 (n,) opaque numbers, equal exactly where two rows are one patient's.
        extra: text (n,) per column that is read as it is written (the split column).
        wide: (n, ...) per column that holds more than one number. Text (n,) of sequences, molecules
            and pairs: "" missing, "-" pairs without a contact. float32 of images (n, C, H, W) and
            of series (n, T, 1 + C), float64 of blocks of numbers (n, k): missing where a whole row
            is NaN.
    """

    numbers: Mapping[str, NDArray[np.float64]]
    codes: Mapping[str, NDArray[np.int16]]
    patients: NDArray[np.int64]
    extra: Mapping[str, NDArray[np.str_]]
    wide: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return len(self.patients)

    @property
    def patient_count(self) -> int:
        return len(np.unique(self.patients))

    def missing(self, column: str) -> Mask:
        """bool (n,): where a column of the schema has no value."""
        if column in self.numbers:
            return np.isnan(self.numbers[column])
        if column in self.wide:
            return _absent(self.wide[column])
        return self.codes[column] < 0

    def select(self, rows: Mask | Places) -> "Table":
        """The rows where bool (n,) is true, in their order, or those at int (m,) places."""
        return Table(
            numbers=_select(self.numbers, rows),
            codes=_select(self.codes, rows),
            patients=self.patients[rows],
            extra=_select(self.extra, rows),
            wide=_select(self.wide, rows),
        )


def _absent(values: NDArray[Any]) -> Mask:
    if values.dtype.kind == "U":
        return np.asarray(values == "")
    return np.asarray(np.isnan(values).reshape(len(values), -1).all(axis=1))


def _select(columns: Mapping[str, NDArray[Any]], rows: Mask | Places) -> dict[str, NDArray[Any]]:
    return {name: values[rows] for name, values in columns.items()}
