"""Delimited text files (RFC 4180): the named columns as text, with line numbers.

An error names file, line, column and rule, never what a cell holds. A header cell is not quoted
either: where the header line is absent, the first "header" is a patient.
"""

import csv
import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cohortium.client.data.reader import Cells
from cohortium.common.errors import DataError
from cohortium.common.schema import Schema
from cohortium.common.wide_columns import NumbersColumn

Record = tuple[int, list[str]]  # line number from 1, fields


class DelimitedReader:
    """One file, whose header says what it has; without one, the schema's order does."""

    def __init__(self, path: Path, schema: Schema) -> None:
        self._path, self._schema = path, schema

    def names(self) -> Sequence[str]:
        return read_header(self._path, self._schema)

    def read(self, wanted: Sequence[str]) -> Cells:
        return read_columns(self._path, self._schema, wanted)

    def files(self) -> Sequence[Path]:
        return [self._path]


def read_columns(path: Path, schema: Schema, wanted: Sequence[str]) -> Cells:
    """Read only the wanted columns of every row; blank lines are no rows.

    Raises:
        DataError: no such file, unreadable, not UTF-8, broken quoting, no rows, a wanted column is
            not there or there twice, or a line has more or fewer fields than it should.
    """
    with _records(path, schema) as records:
        return _collect(path, schema, wanted, records)


def read_header(path: Path, schema: Schema) -> list[str]:
    """The names of a file's columns; errors as `read_columns`."""
    with _records(path, schema) as records:
        return _header(path, schema, records)


@contextmanager
def _records(path: Path, schema: Schema) -> Iterator[Iterator[Record]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=schema.table.delimiter, strict=True)
            yield ((reader.line_num, fields) for fields in reader if fields)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path it was registered with") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text; save it as UTF-8") from None
    except csv.Error:
        raise DataError(
            f"{path}: line {reader.line_num}: quotes or fields are broken; export the file again"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its rights") from None


def _collect(path: Path, schema: Schema, wanted: Sequence[str], records: Iterator[Record]) -> Cells:
    names = _header(path, schema, records)
    counts, at = Counter(names), {name: place for place, name in enumerate(names)}
    for name in wanted:
        if counts[name] != 1:
            raise _unplaced(path, names, name, schema)
    places = {name: at[name] for name in wanted}
    found = Cells({name: [] for name in places}, [])
    for line, fields in records:
        if len(fields) != len(names):
            raise DataError(_width(path, line, len(fields), len(names), schema))
        found.lines.append(line)
        for name, place in places.items():
            found.columns[name].append(fields[place].strip())
    if not found.lines:
        raise DataError(f"{path}: holds no rows; check that it is the file you meant")
    return found


def _header(path: Path, schema: Schema, records: Iterator[Record]) -> list[str]:
    if not schema.table.header:
        return [name for column in schema.order for name in _written(schema, column)]
    first = next(records, None)
    if first is None:
        raise DataError(f"{path}: the file is empty; check that it is the file you meant")
    return [name.strip() for name in first[1]]


def _written(schema: Schema, name: str) -> tuple[str, ...]:
    """The fields of a file without header that a column of the schema stands for."""
    column = schema.columns[name]
    return column.headers if isinstance(column, NumbersColumn) else (name,)


def _unplaced(path: Path, names: list[str], name: str, schema: Schema) -> DataError:
    """What is wrong where a column is not there exactly once."""
    if name in names:
        return DataError(f'{path}: the header names "{name}" more than once; rename the others')
    if not schema.table.header:
        return DataError(
            f'{path}: has no header line, and schema "{schema.name}" has no column "{name}"'
        )
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f" (field {names.index(close[0]) + 1} has a similar name)" if close else ""
    return DataError(
        f'{path}: the header has no column "{name}"{hint}; correct the header, the schema\'s '
        "table.delimiter, or set table.header = false if the file has no header line"
    )


def _width(path: Path, line: int, found: int, expected: int, schema: Schema) -> str:
    source = "the header" if schema.table.header else f'schema "{schema.name}"'
    return (
        f"{path}: line {line}: {found} fields where {source} has {expected}; "
        "correct the line or the schema's table.delimiter"
    )
