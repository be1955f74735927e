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
    NO_PAIRS,
    ImageColumn,
    MoleculeColumn,
    NumbersColumn,
    PairsColumn,
    SequenceColumn,
    SeriesColumn,
    WideColumn,
)

AMBIGUOUS: Final = {"dna": "RYSWKMBDHVN", "rna": "RYSWKMBDHVN", "protein": "BJZXUO"}

TOO_LONG = "is longer than the schema's length"
LETTER = "holds a letter that is not in the schema's alphabet"
NO_PAIR = "is not pairs such as 3-17 4-16, from 1 to the schema's length"
NO_SMILES = "is no SMILES of a molecule"
TOO_LARGE = "is a molecule of more atoms or bonds than the schema allows"
OUT_OF_BOUNDS = "is outside the schema's bounds (low, high)"
NO_NUMBER = "is not a number"
NO_SERIES = "is no series such as 0=1.2,3.4; 1.5=,3.1 with one value for each channel"
NO_TIMES = "has times outside 0 to the schema's `until`, or not rising"
NO_PIXEL = "is an image some of whose pixels are not numbers"
NO_IMAGE = "names no image file beside the table that can be read"
IMAGE_SIZE = "is an image of another size or number of channels than the schema's"

PAIR = re.compile(r"(\d{1,4})-(\d{1,4})", re.ASCII)


def headers(column: WideColumn, name: str, names: Sequence[str], path: Path) -> tuple[str, ...]:
    """Which columns of a source are read for one of the schema's; none for a block it lacks.

    Raises:
        DataError: the source has some columns of a block and lacks others.
    """
    if not isinstance(column, NumbersColumn):
        return (name,)
    there = set(names)
    found = [header for header in column.headers if header in there]
    if not found and name in there:
        return (name,)  # an array of them all
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
    if isinstance(column, SequenceColumn | PairsColumn | MoleculeColumn):
        check_flat(reading, name, path)
    match column:
        case SequenceColumn():
            return reading.texts(name, _sequence(column, missing))
        case PairsColumn():
            return reading.texts(name, _pairs(column, missing))
        case MoleculeColumn():
            return reading.texts(name, _molecule(column, missing))
        case NumbersColumn():
            return _numbers(reading, name, column, missing, path)
        case ImageColumn():
            return _images(reading, name, column, missing, path)
        case SeriesColumn():
            return _series(reading, name, column, missing, path)
    raise TypeError(name)


def check_flat(reading: Reading, name: str, path: Path) -> None:
    """Raise DataError where a source holds arrays, and one cell a row is needed."""
    if name not in reading.cells.columns:
        raise DataError(f'{path}: "{name}" must have one value a row; correct the file')


def _array(reading: Reading, name: str, path: Path) -> NDArray[Any]:
    """An array of a source as float32 or float64, whichever holds its numbers."""
    found = reading.cells.arrays[name]
    if found.dtype.kind not in "biuf":
        raise DataError(f'{path}: array "{name}" holds text, and numbers are needed')
    return found.astype(np.result_type(found.dtype, np.float32), copy=False)


def _sequence(column: SequenceColumn, missing: Sequence[str]) -> Callable[[str], str]:
    allowed = set(column.letters) | set(AMBIGUOUS.get(column.alphabet, ""))
    upper = column.alphabet in ALPHABETS  # people write soft-masked bases in small letters

    def parse(text: str) -> str:
        if text in missing:
            return ""
        text = text.upper() if upper and text.isascii() else text
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
    reading: Reading, name: str, column: NumbersColumn, missing: Sequence[str], path: Path
) -> NDArray[np.float64]:
    """(n, k), NaN for gaps; all NaN where the source lacks the block."""
    if name in reading.cells.arrays:
        values = _array(reading, name, path)
        if values.shape[1:] != (len(column.names),):
            raise DataError(
                f'{path}: array "{name}": {len(column.names)} numbers a row are needed; correct '
                "the file or the schema"
            )
        return _bounded(reading, name, values, column)
    if column.headers[0] in reading.cells.columns:
        values = np.empty((len(reading.cells.lines), len(column.names)))
        for place, header in enumerate(column.headers):
            quick = _at_once(reading.cells.columns[header], column, missing)
            parse = _number(column, missing)
            values[:, place] = reading.convert(header, parse, math.nan) if quick is None else quick
        return values
    if name in reading.cells.columns:
        raise DataError(
            f'{path}: "{name}" has one value a row; its block needs the columns that the '
            "schema's prefix and names say"
        )
    return np.full((len(reading.cells.lines), len(column.names)), np.nan)


def _at_once(
    cells: Sequence[str], column: NumbersColumn, missing: Sequence[str]
) -> NDArray[np.float64] | None:
    """As `_number` of every cell, ten times as fast; None where any breaks a rule."""
    try:
        values = np.array(["nan" if cell in missing else cell for cell in cells]).astype(np.float64)
    except ValueError:
        return None
    known = np.isfinite(values) & ~np.isin(values, column.not_measured)
    inside = (values >= column.low) & (values <= column.high)
    if (known & ~inside).any() or any("_" in cell for cell in cells):
        return None
    return np.where(known, values, np.nan)


def _number(column: NumbersColumn, missing: Sequence[str]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if text in missing:
            return math.nan
        try:
            value = float(text.replace("_", "?"))  # "1_000" is a thousand to Python alone
        except ValueError:
            raise Broken(NO_NUMBER) from None
        if not math.isfinite(value) or value in column.not_measured:
            return math.nan
        if not column.low <= value <= column.high:
            raise Broken(OUT_OF_BOUNDS)
        return value

    return parse


def _bounded(
    reading: Reading, name: str, given: NDArray[Any], column: NumbersColumn
) -> NDArray[np.float64]:
    """Bounds are compared as exactly as the numbers were kept: 0.1 in float32 is above 0.1."""
    known = np.isfinite(given) & ~np.isin(given, np.array(column.not_measured, given.dtype))
    outside = known & ((given < column.low) | (given > column.high))
    if outside.any():
        reading.broken(name, OUT_OF_BOUNDS, np.flatnonzero(outside.any(axis=1)).tolist())
    return np.where(known & ~outside, given, np.nan).astype(np.float64)


def _images(
    reading: Reading, name: str, column: ImageColumn, missing: Sequence[str], path: Path
) -> NDArray[np.float32]:
    """(n, C, H, W); NaN where a row has none, or a broken one."""
    if name in reading.cells.arrays:
        given = _channels_first(_array(reading, name, path), name, column, path)
        values = given.astype(np.float32)
    else:
        shape = (column.channels, column.height, column.width)
        values = np.full((len(reading.cells.lines), *shape), np.nan, np.float32)

        def load(text: str, row: int) -> None:
            if text not in missing:
                values[row] = _image(path.parent, text, column)

        reading.each(name, load)
    return _whole(reading, name, values, column)


def _whole(
    reading: Reading, name: str, values: NDArray[np.float32], column: ImageColumn
) -> NDArray[np.float32]:
    """Images with a pixel that is none, or out of bounds, become missing."""
    flat = values.reshape(len(values), -1)
    unknown = np.isnan(flat)
    broken = {
        NO_PIXEL: unknown.any(axis=1) & ~unknown.all(axis=1),
        OUT_OF_BOUNDS: ((flat < column.low) | (flat > column.high)).any(axis=1),
    }
    for rule, rows in broken.items():
        if rows.any():
            reading.broken(name, rule, np.flatnonzero(rows).tolist())
            values[rows] = np.nan
    return values


def _channels_first(
    array: NDArray[Any], name: str, column: ImageColumn, path: Path
) -> NDArray[Any]:
    """(n, C, H, W) from that, from (n, H, W, C), or from (n, H, W) of grey images."""
    size = (column.height, column.width)
    if array.shape[1:] == size and column.channels == 1:
        return array[:, None]
    if array.shape[1:] == (column.channels, *size):
        return array
    if array.shape[1:] == (*size, column.channels):
        return np.moveaxis(array, 3, 1)
    raise DataError(
        f'{path}: array "{name}": images of {column.channels} x {column.height} x {column.width} '
        "are needed; correct the file or the schema"
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
            if image.size != (column.width, column.height):  # known before it is decompressed
                raise Broken(IMAGE_SIZE)
            pixels = np.asarray(image.convert(_mode(column, image.mode)), dtype=np.float32)
    except Broken:
        raise
    except Exception:  # Pillow's plug-ins raise many kinds for a damaged file
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
    reading: Reading, name: str, column: SeriesColumn, missing: Sequence[str], path: Path
) -> NDArray[np.float32]:
    """(n, T, 1 + C): time, then a value of each channel; NaN where absent."""
    shape = (column.length, 1 + len(column.channels))
    values = np.full((len(reading.cells.lines), *shape), np.nan, np.float32)
    if name not in reading.cells.arrays:

        def load(text: str, row: int) -> None:
            if text not in missing:
                _put(values[row], _written(text, column), column)

        reading.each(name, load)
        return values
    given = _array(reading, name, path)
    if given.ndim != 3 or given.shape[2] != shape[1] or given.shape[1] > shape[0]:
        raise DataError(
            f'{path}: array "{name}": up to {shape[0]} times of {shape[1]} numbers a row are '
            "needed (time, then one value for each channel); correct the file or the schema"
        )
    reading.rows(name, lambda row: _put(values[row], given[row], column))
    return values


def _written(text: str, column: SeriesColumn) -> NDArray[np.float64]:
    """(t, 1 + C) of a cell."""
    rows = []
    for part in text.split(";"):
        time, equals, cells = part.partition("=")
        fields = cells.split(",")
        if not equals or len(fields) != len(column.channels) or "_" in part:
            raise Broken(NO_SERIES)
        try:
            rows.append([float(time), *(float(f) if f.strip() else math.nan for f in fields)])
        except ValueError:
            raise Broken(NO_SERIES) from None
    return np.array(rows)


def _put(place: NDArray[np.float32], given: NDArray[Any], column: SeriesColumn) -> None:
    """Fill one patient's (T, 1 + C) from rows (t, 1 + C), those of no time at the end."""
    if len(given) > column.length:
        raise Broken(TOO_LONG)
    times, values = given[:, 0], given[:, 1:]
    count = int((~np.isnan(times)).sum())
    known = times[:count]
    if np.isnan(known).any() or not np.isnan(values[count:]).all():
        raise Broken(NO_TIMES)
    if (known < 0).any() or (known > column.until).any():
        raise Broken(NO_TIMES)
    if (np.diff(known.astype(np.float32)) <= 0).any():  # as a model will see them
        raise Broken(NO_TIMES)
    low, high = np.array([column.low, column.high], given.dtype)
    if (values < low).any() or (values > high).any():
        raise Broken(OUT_OF_BOUNDS)
    place[:count] = given[:count]
