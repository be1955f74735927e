"""Apache Parquet files, by pyarrow: every cell becomes the text that a CSV file would hold."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cohortium.client.data.reader import Cells, absent
from cohortium.common.errors import DataError


class ParquetReader:
    """One file; what is nested in a column is not read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            from pyarrow import ArrowException, parquet
        except ImportError:
            raise DataError(
                f'{path}: reading Parquet needs a package: pip install "cohortium[parquet]"'
            ) from None
        self._broken = (ArrowException, OSError, ValueError)  # what pyarrow raises, and not alike
        try:
            self._file: Any = parquet.ParquetFile(path)
        except FileNotFoundError:
            raise DataError(
                f"{path}: no such file; check the path it was registered with"
            ) from None
        except self._broken as error:
            reason = getattr(error, "strerror", None) or "it is no Parquet file"
            raise DataError(f"{path}: cannot be read ({reason})") from None

    def names(self) -> Sequence[str]:
        return list(self._file.schema_arrow.names)

    def read(self, wanted: Sequence[str]) -> Cells:
        self._check(wanted)
        try:
            found = self._file.read(columns=list(wanted))
        except self._broken:
            raise DataError(f"{self._path}: is damaged; export the file again") from None
        if not found.num_rows:
            raise DataError(f"{self._path}: holds no rows; check that it is the file you meant")
        columns = dict(zip(found.column_names, found.columns, strict=True))
        cells = {name: [_text(cell) for cell in columns[name].to_pylist()] for name in wanted}
        return Cells(cells, list(range(1, found.num_rows + 1)))

    def _check(self, wanted: Sequence[str]) -> None:
        """Each is there, once and flat."""
        from pyarrow import types

        names, kinds = self.names(), self._file.schema_arrow.types
        counts, nested = (
            Counter(names),
            {name for name, kind in zip(names, kinds, strict=True) if types.is_nested(kind)},
        )
        for name in wanted:
            if counts[name] != 1:
                raise absent(self._path, name, names)
            if name in nested:
                raise DataError(
                    f'{self._path}: column "{name}" holds lists; give one column for each number, '
                    "or an NPZ archive"
                )

    def files(self) -> Sequence[Path]:
        return [self._path]


def _text(cell: object) -> str:
    if cell is None or cell != cell:  # not a number
        return ""
    if isinstance(cell, bool):
        return str(int(cell))
    if isinstance(cell, bytes):
        return cell.decode("utf-8", errors="replace").strip()
    return str(cell).strip()
