"""NumPy archives: one array for each column, rows first; nothing in them is unpickled."""

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohortium.client.data.reader import Cells, absent
from cohortium.common.errors import DataError

KINDS = "biufUS"  # numbers and text, by NumPy's letters

# What NumPy and zipfile raise for an archive that is cut off, encrypted or made up.
BROKEN = (
    ValueError,
    OSError,
    EOFError,
    KeyError,
    SyntaxError,
    RuntimeError,
    MemoryError,
    OverflowError,
    TypeError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


class NpzReader:
    """Arrays (n,) are cells; arrays of more dimensions are images, series or blocks of numbers."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> Sequence[str]:
        with self._opened() as archive:
            return list(archive.files)

    def read(self, wanted: Sequence[str]) -> Cells:
        with self._opened() as archive:
            found = {name: self._array(archive, name) for name in wanted}
        rows = {len(array) for array in found.values()}
        if len(rows) != 1:
            raise DataError(
                f"{self._path}: the arrays that are read must have one number of rows; correct the "
                "file"
            )
        (count,) = rows
        if not count:
            raise DataError(f"{self._path}: holds no rows; check that it is the file you meant")
        flat = {name: _texts(array) for name, array in found.items() if array.ndim == 1}
        wide = {name: array for name, array in found.items() if array.ndim > 1}
        return Cells(flat, list(range(1, count + 1)), wide)

    def files(self) -> Sequence[Path]:
        return [self._path]

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            raise DataError(
                f"{self._path}: no such file; check the path it was registered with"
            ) from None
        except OSError as error:
            raise DataError(
                f"{self._path}: cannot be read ({error.strerror}); check its rights"
            ) from None
        with file:
            try:
                archive = np.load(file, allow_pickle=False)
            except BROKEN:
                raise DataError(f"{self._path}: is no NPZ archive; export the file again") from None
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(
                    f"{self._path}: is one array; save an NPZ archive with a name for each"
                )
            with archive:
                yield archive

    def _array(self, archive: Any, name: str) -> NDArray[Any]:
        if name not in archive.files:
            raise absent(self._path, name, archive.files)
        try:
            found: NDArray[Any] = archive[name]
        except BROKEN:
            raise DataError(
                f'{self._path}: array "{name}" is damaged or holds Python objects; save numbers '
                "or text"
            ) from None
        if not isinstance(found, np.ndarray) or not found.ndim or found.dtype.kind not in KINDS:
            raise DataError(f'{self._path}: array "{name}" is no array of numbers or text')
        return found


def _texts(array: NDArray[Any]) -> list[str]:
    if array.dtype.kind == "b":
        array = array.astype(np.int8)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", errors="replace")
    return ["" if value != value else str(value).strip() for value in array.tolist()]
