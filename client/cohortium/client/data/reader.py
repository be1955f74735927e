"""What can be read: a source of rows, whatever it is a file of.

A reader knows nothing of studies, models or privacy. It says which columns there are, gives those
that are wanted as text cells or, where the source holds more than one number a row, as arrays, and
names every file that it reads, so that what was approved is what is trained on. Further sources
(SQL, OMOP, FHIR, DICOM, VCF, AnnData) join by one more class with these three methods.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from cohortium.common.errors import DataError
from cohortium.common.schema import Schema


@dataclass(frozen=True)
class Cells:
    """The wanted columns of n rows.

    Attributes:
        columns: stripped text of each cell, by column.
        lines: where each row stands, for messages: a line of a text file, or a row from 1.
        arrays: (n, ...) by column, of columns that the source holds as arrays.
    """

    columns: dict[str, list[str]]
    lines: list[int]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


class Reader(Protocol):
    """One opened source of rows."""

    def names(self) -> Sequence[str]:
        """The columns that the source has, in its order."""

    def read(self, wanted: Sequence[str]) -> Cells:
        """Those columns of every row.

        Raises:
            DataError: one of them is not there, or the source is broken.
        """

    def files(self) -> Sequence[Path]:
        """Every file whose content may be read besides the images that its cells name."""


def open_reader(path: Path, schema: Schema) -> Reader:
    """The reader for a file, by its ending; what has no other is delimited text.

    Raises:
        DataError: the file is not there or cannot be read.
    """
    return _READERS.get(path.suffix.lower(), _delimited)(path, schema)


def _delimited(path: Path, schema: Schema) -> Reader:
    from cohortium.client.data.delimited import DelimitedReader

    return DelimitedReader(path, schema)


def _parquet(path: Path, schema: Schema) -> Reader:
    from cohortium.client.data.parquet import ParquetReader

    return ParquetReader(path)


def _npz(path: Path, schema: Schema) -> Reader:
    from cohortium.client.data.npz import NpzReader

    return NpzReader(path)


_READERS: dict[str, Callable[[Path, Schema], Reader]] = {
    ".parquet": _parquet,
    ".pq": _parquet,
    ".npz": _npz,
}


def absent(path: Path, name: str, names: Sequence[str]) -> DataError:
    """A column that is wanted and not there; other columns' names are not repeated."""
    return DataError(
        f'{path}: has no column "{name}" among its {len(names)}; correct the file or the schema'
    )
