"""Apache Parquet files, by pyarrow: every cell becomes the text that a CSV file would hold."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cohortium.client.data.reader import Cells, absent
from cohortium.common.errors import DataError


class ParquetReader:
    """One file; nested columns are not read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            from pyarrow import parquet
        except ImportError:
            raise DataError(
                f'{path}: reading Parquet needs a package: pip install "cohortium[parquet]"'
            ) from None
        try:
            self._file: Any = parquet.ParquetFile(path)
        except FileNotFoundError:
            raise DataError(
                f"{path}: no such file; check the path it was registered with"
            ) from None
        except (OSError, ValueError) as error:  # pyarrow's own errors are either
            reason = getattr(error, "strerror", None) or "it is no Parquet file"
            raise DataError(f"{path}: cannot be read ({reason})") from None

    def names(self) -> Sequence[str]:
        return list(self._file.schema_arrow.names)

    def read(self, wanted: Sequence[str]) -> Cells:
        names = self.names()
        for name in wanted:
            if names.count(name) != 1:
                raise absent(self._path, name, names)
        try:
            found = self._file.read(columns=list(wanted))
        except (OSError, ValueError):
            raise DataError(f"{self._path}: is damaged; export the file again") from None
        if not found.num_rows:
            raise DataError(f"{self._path}: holds no rows; check that it is the file you meant")
        columns = {name: [_text(cell) for cell in found[name].to_pylist()] for name in wanted}
        return Cells(columns, list(range(1, found.num_rows + 1)))

    def files(self) -> Sequence[Path]:
        return [self._path]


def _text(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(int(cell))
    return str(cell).strip()
