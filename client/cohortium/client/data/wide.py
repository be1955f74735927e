"""Columns that hold more than one number a row: from cells or arrays to what a `Table` keeps.

A cell that breaks a rule counts as a gap and is remembered by the rule, as in `table.py`.
"""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cohortium.client.data.problem import Broken, Reading
from cohortium.common.errors import DataError
from cohortium.common.schema import Schema
from cohortium.common.wide_columns import (
    ALPHABETS,
    ImageColumn,
    MoleculeColumn,
    NumbersColumn,
    PairsColumn,
    SequenceColumn,
    SeriesColumn,
    WideColumn,
)

AMBIGUOUS: Final = {"dna": "RYSWKMBDHVN", "rna": "RYSWKMBDHVN", "protein": "BJZXUO"}
NO_PAIRS: Final = "-"  # a known map without a contact, where "" is a missing one

TOO_LONG = "is longer than the schema's length"
LETTER = "holds a letter that is not in the schema's alphabet"
NO_PAIR = "is not pairs such as 3-17 4-16, from 1 to the schema's length"
NO_SMILES = "is no SMILES of a molecule"
TOO_LARGE = "is a molecule of more atoms or bonds than the schema allows"
OUT_OF_BOUNDS = "is outside the schema's bounds (low, high)"
NO_NUMBER = "is not a number"
NO_SERIES = "is no series such as 0=1.2,3.4; 1.5=,3.1 with one value for each channel"
NO_TIMES = "has times outside 0 to the schema's `until`, or not rising"
NO_IMAGE = "names no image file beside the table that can be read"
IMAGE_SIZE = "is an image of another size or number of channels than the schema's"

PAIR = re.compile(r"(\d{1,4})-(\d{1,4})", re.ASCII)


def headers(column: WideColumn, name: str, names: Sequence[str], path: Path) -> tuple[str, ...]:
    """Which columns of a source are read for one of the schema's; none for a block it lacks.

    Raises:
        DataError: the source has some columns of a block and lacks others.
    """
    if not isinstance(column, NumbersColumn) or name in names:
        return (name,)
    there = set(names)
    found = [header for header in column.headers if header in there]
    if found and len(found) < len(column.headers):
        raise DataError(
            f"{path}: lacks {len(column.headers) - len(found)} of the {len(column.headers)} "
            f'columns of block "{name}"; give all of them, or none where it was not measured'
        )
    return column.headers if found else ()


def convert(reading: Reading, name: str, schema: Schema, path: Path) -> NDArray[Any]:
    """One wide column of all rows, in the form that `Table.wide` has it."""
    column = schema.columns[name]
    missing = schema.table.missing
    match column:
        case SequenceColumn():
            return reading.texts(name, _sequence(column, missing))
        case PairsColumn():
            return reading.texts(name, _pairs(column, missing))
        case MoleculeColumn():
            return reading.texts(name, _molecule(column, missing))
        case NumbersColumn():
            return _numbers(reading, name, column, missing)
        case ImageColumn():
            return _images(reading, name, column, missing, path)
        case SeriesColumn():
            return _series(reading, name, column, missing)
    raise TypeError(name)


def _sequence(column: SequenceColumn, missing: Sequence[str]) -> Callable[[str], str]:
    allowed = set(column.letters) | set(AMBIGUOUS.get(column.alphabet, ""))
    upper = column.alphabet in ALPHABETS  # people write soft-masked bases in small letters

    def parse(text: str) -> str:
        if text in missing:
            return ""
        text = text.upper() if upper else text
        if len(text) > column.length:
            raise Broken(TOO_LONG)
        if not allowed.issuperset(text):
            raise Broken(LETTER)
        return text

    return parse


def _pairs(column: PairsColumn, missing: Sequence[str]) -> Callable[[str], str]:
    """As written; places from 1. No contact at all is written `-`."""

    def parse(text: str) -> str:
        if text in missing or text == NO_PAIRS:
            return "" if text in missing else NO_PAIRS
        for word in text.split():
            found = PAIR.fullmatch(word)
            if found is None:
                raise Broken(NO_PAIR)
            first, second = map(int, found.groups())
            if not (1 <= first <= column.length and 1 <= second <= column.length):
                raise Broken(NO_PAIR)
        return text

    return parse


def _molecule(column: MoleculeColumn, missing: Sequence[str]) -> Callable[[str], str]:
    from cohortium.common.preprocessing.wide.molecule import TooLargeError, read_smiles

    def parse(text: str) -> str:
        if text in missing:
            return ""
        try:
            read_smiles(text, column)
        except TooLargeError:
            raise Broken(TOO_LARGE) from None
        except ValueError:
            raise Broken(NO_SMILES) from None
        return text

    return parse


def _numbers(
    reading: Reading, name: str, column: NumbersColumn, missing: Sequence[str]
) -> NDArray[np.float64]:
    """(n, k), NaN for gaps; all NaN where the source lacks the block."""
    if name in reading.cells.arrays:
        values = reading.cells.arrays[name]
        if values.shape[1:] != (len(column.names),) or values.dtype.kind not in "iuf":
            raise DataError(
                f'array "{name}": {len(column.names)} numbers a row are needed; correct the file '
                "or the schema"
            )
        return _bounded(reading, name, values.astype(np.float64), column)
    if column.headers[0] not in reading.cells.columns:
        return np.full((len(reading.cells.lines), len(column.names)), np.nan)
    parse = _number(column, missing)
    found = [reading.convert(header, parse, math.nan) for header in column.headers]
    return np.array(found, dtype=np.float64).T


def _number(column: NumbersColumn, missing: Sequence[str]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if text in missing:
            return math.nan
        try:
            value = float(text.replace("_", "?"))
        except ValueError:
            raise Broken(NO_NUMBER) from None
        if not math.isfinite(value) or value in column.not_measured:
            return math.nan
        if not column.low <= value <= column.high:
            raise Broken(OUT_OF_BOUNDS)
        return value

    return parse


def _bounded(
    reading: Reading, name: str, values: NDArray[np.float64], column: NumbersColumn
) -> NDArray[np.float64]:
    values[~np.isfinite(values) | np.isin(values, column.not_measured)] = np.nan
    outside = (values < column.low) | (values > column.high)
    if outside.any():
        rows = np.flatnonzero(outside.any(axis=1))
        reading.broken(name, OUT_OF_BOUNDS, [reading.cells.lines[row] for row in rows])
        values[outside] = np.nan
    return values


def _images(
    reading: Reading, name: str, column: ImageColumn, missing: Sequence[str], path: Path
) -> NDArray[np.float32]:
    shape = (column.channels, column.height, column.width)
    if name in reading.cells.arrays:
        values = _channels_first(reading.cells.arrays[name], name, column).astype(np.float32)
    else:
        values = np.full((len(reading.cells.lines), *shape), np.nan, np.float32)

        def load(text: str, row: int) -> None:
            if text not in missing:
                values[row] = _image(path.parent, text, column)

        reading.each(name, load)
    outside = ((values < column.low) | (values > column.high)).reshape(len(values), -1).any(axis=1)
    if outside.any():
        lines = [reading.cells.lines[row] for row in np.flatnonzero(outside)]
        reading.broken(name, OUT_OF_BOUNDS, lines)
    return values


def _channels_first(array: NDArray[Any], name: str, column: ImageColumn) -> NDArray[Any]:
    """(n, C, H, W) from that, from (n, H, W, C), or from (n, H, W) of grey images."""
    size = (column.height, column.width)
    if array.shape[1:] == size and column.channels == 1:
        return array[:, None]
    if array.shape[1:] == (column.channels, *size):
        return array
    if array.shape[1:] == (*size, column.channels):
        return np.moveaxis(array, 3, 1)
    raise DataError(
        f'array "{name}": images of {column.channels} x {column.height} x {column.width} are '
        "needed; correct the file or the schema"
    )


def image_file(folder: Path, text: str) -> Path:
    """The file that a cell names, which lies in the table's folder or below.

    Raises:
        Broken: it does not, or is not there.
    """
    try:
        found = (folder / text).resolve()
        there = found.is_relative_to(folder.resolve()) and found.is_file()
    except (OSError, ValueError):
        there = False
    if not there:
        raise Broken(NO_IMAGE)
    return found


def _image(folder: Path, text: str, column: ImageColumn) -> NDArray[np.float32]:
    try:
        from PIL import Image
    except ImportError:
        raise DataError(
            'reading image files needs a package: pip install "cohortium[images]"'
        ) from None
    try:
        with Image.open(image_file(folder, text), formats=("PNG", "JPEG")) as image:
            pixels = np.asarray(image.convert(_mode(column, image.mode)), dtype=np.float32)
    except (OSError, ValueError, Image.DecompressionBombError):
        raise Broken(NO_IMAGE) from None
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if pixels.shape != (column.height, column.width, column.channels):
        raise Broken(IMAGE_SIZE)
    return np.moveaxis(pixels, 2, 0)


def _mode(column: ImageColumn, mode: str) -> str:
    """Pillow's: grey as it is where it has more than 8 bits, else one byte, or RGB for colour."""
    if column.channels == 3:
        return "RGB"
    return mode if mode.startswith("I") else "L"


def _series(
    reading: Reading, name: str, column: SeriesColumn, missing: Sequence[str]
) -> NDArray[np.float32]:
    """(n, T, 1 + C): time, then a value of each channel; NaN where absent."""
    shape = (column.length, 1 + len(column.channels))
    if name in reading.cells.arrays:
        given = reading.cells.arrays[name]
        if given.ndim != 3 or given.shape[2] != shape[1] or given.shape[1] > shape[0]:
            raise DataError(
                f'array "{name}": up to {shape[0]} times of {shape[1]} numbers a row are needed '
                "(time, then one value for each channel); correct the file or the schema"
            )
    values = np.full((len(reading.cells.lines), *shape), np.nan, np.float32)

    def load(text: str, row: int) -> None:
        if text not in missing:
            values[row] = _checked(_written(text, column), column)

    if name in reading.cells.arrays:
        reading.rows(name, lambda row: _put(values, row, _checked(given[row], column)))
    else:
        reading.each(name, load)
    return values


def _put(values: NDArray[np.float32], row: int, found: NDArray[np.float32]) -> None:
    values[row] = found


def _written(text: str, column: SeriesColumn) -> NDArray[np.float64]:
    rows = []
    for part in text.split(";"):
        time, equals, cells = part.partition("=")
        fields = cells.split(",")
        if not equals or len(fields) != len(column.channels):
            raise Broken(NO_SERIES)
        try:
            rows.append([float(time), *(float(f) if f.strip() else math.nan for f in fields)])
        except ValueError:
            raise Broken(NO_SERIES) from None
    return np.array(rows)


def _checked(given: NDArray[Any], column: SeriesColumn) -> NDArray[np.float32]:
    """(T, 1 + C), filled up with NaN behind the last time."""
    if len(given) > column.length:
        raise Broken(TOO_LONG)
    made = np.full((column.length, given.shape[1]), np.nan, np.float32)
    made[: len(given)] = given
    times = made[:, 0]
    known = times[~np.isnan(times)]
    if np.isnan(times[: len(known)]).any() or (np.diff(known) <= 0).any():
        raise Broken(NO_TIMES)
    if len(known) and not (known[0] >= 0 and known[-1] <= column.until):
        raise Broken(NO_TIMES)
    made[len(known) :] = np.nan
    values = made[:, 1:]
    if (values < np.array(column.low)).any() or (values > np.array(column.high)).any():
        raise Broken(OUT_OF_BOUNDS)
    return made
