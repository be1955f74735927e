"""NumPy archives: one array for each column, rows first; nothing in them is unpickled."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohortium.client.data.reader import Cells, absent
from cohortium.common.errors import DataError


class NpzReader:
    """Arrays (n,) are cells; arrays of more dimensions are images, series or blocks of numbers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._arrays: Any = np.load(path, allow_pickle=False)
        except FileNotFoundError:
            raise DataError(
                f"{path}: no such file; check the path it was registered with"
            ) from None
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            reason = getattr(error, "strerror", None) or "it is no NPZ archive"
            raise DataError(f"{path}: cannot be read ({reason})") from None
        if not hasattr(self._arrays, "files"):
            raise DataError(f"{path}: is one array; save an NPZ archive with a name for each")

    def names(self) -> Sequence[str]:
        return list(self._arrays.files)

    def read(self, wanted: Sequence[str]) -> Cells:
        found = {name: self._array(name) for name in wanted}
        rows = {len(array) for array in found.values()}
        if len(rows) != 1:
            raise DataError(f"{self._path}: its arrays have different numbers of rows")
        (count,) = rows
        if not count:
            raise DataError(f"{self._path}: holds no rows; check that it is the file you meant")
        flat = {name: _texts(array) for name, array in found.items() if array.ndim == 1}
        wide = {name: array for name, array in found.items() if array.ndim > 1}
        return Cells(flat, list(range(1, count + 1)), wide)

    def files(self) -> Sequence[Path]:
        return [self._path]

    def _array(self, name: str) -> NDArray[Any]:
        if name not in self._arrays.files:
            raise absent(self._path, name, self.names())
        try:
            found: NDArray[Any] = self._arrays[name]
        except (ValueError, OSError, zipfile.BadZipFile):
            raise DataError(
                f'{self._path}: array "{name}" is damaged or holds Python objects; save numbers '
                "or text"
            ) from None
        if found.ndim == 0 or found.dtype.kind not in "biufUS":
            raise DataError(f'{self._path}: array "{name}" is no array of numbers or text')
        return found


def _texts(array: NDArray[Any]) -> list[str]:
    if array.dtype.kind == "b":
        array = array.astype(np.int8)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "ascii", errors="replace")
    return [str(value).strip() for value in array.tolist()]
