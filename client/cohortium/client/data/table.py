"""From a hospital's file to a `Table` that obeys its schema, or counts of what does not."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cohortium.client.data.patients import one_row_each, patients_of, second_rows
from cohortium.client.data.problem import Broken, Problem, Reading
from cohortium.client.data.reader import Cells, open_reader
from cohortium.client.data.wide import check_flat, convert, headers
from cohortium.common.document import nearest
from cohortium.common.errors import DataError
from cohortium.common.schema import CategoryColumn, FlagColumn, NarrowColumn, NumberColumn, Schema
from cohortium.common.table import Table
from cohortium.common.wide_columns import NumbersColumn

WHOLE_NUMBER = re.compile(r"[+-]?\d{1,18}(\.0*)?", re.ASCII)

NOT_A_NUMBER = "is not a number"
OUT_OF_BOUNDS = "is outside the schema's bounds (low, high)"
UNKNOWN_CODE = "is none of the schema's codes"
REPEATED = 'says a patient who has a row already, and table.repeated is "refuse"'
NO_KEY = "is missing, but a patient key may not be"


@dataclass(frozen=True)
class TableSummary:
    """Counts only: what `site data add` and `doctor` say about a file."""

    rows: int
    patients: int
    missing: Mapping[str, int]
    problems: tuple[Problem, ...]

    @property
    def size(self) -> str:
        """In words, for the site's own people."""
        patients = f"{self.patients} patients"
        return patients if self.rows == self.patients else f"{patients} in {self.rows} rows"


def read_table(
    path: Path,
    schema: Schema,
    columns: Sequence[str],
    extra: Sequence[str] = (),
    agreeing: Sequence[str] = (),
) -> Table:
    """Read the named columns of the schema, and `extra` ones as plain text; no others are kept.

    One row a patient: the schema's `table.repeated` says what several become.

    Args:
        agreeing: of `columns`, those that no mean may be taken of (see `one_row_each`).

    Raises:
        DataError: the file, a column or a cell breaks a rule (named with its first line and how
            many cells break it), or a patient has several rows and may not.
    """
    reading = _read(path, schema, columns, extra)
    if reading.problems:
        raise DataError(_explain(path, reading.problems))
    text = {name: np.array(reading.cells.columns[name], dtype=np.str_) for name in extra}
    table = _table(reading, schema, text)
    try:
        return one_row_each(table, schema.table.repeated, agreeing)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def check_table(path: Path, schema: Schema) -> TableSummary:
    """Read every column of the schema and count: rows, patients, gaps, broken rules.

    Raises:
        DataError: the file itself cannot be read as the schema says (see `read_columns`).
    """
    reading = _read(path, schema, tuple(schema.columns), ())
    table = _table(reading, schema, {})
    missing = {name: _gaps(reading, table, schema, name) for name in schema.columns}
    problems = (*reading.problems, *_repeats(reading.cells, schema, table.patients))
    return TableSummary(table.rows, table.patient_count, missing, problems)


def _gaps(reading: Reading, table: Table, schema: Schema, name: str) -> int:
    """Rows without a value of a column, but for those whose value breaks a rule."""
    column = schema.columns[name]
    sources = (name, *column.headers) if isinstance(column, NumbersColumn) else (name,)
    wrong = set[int]().union(*(reading.wrong.get(source, ()) for source in sources))
    return len(set(np.flatnonzero(table.missing(name)).tolist()) - wrong)


def _table(reading: Reading, schema: Schema, text: Mapping[str, NDArray[np.str_]]) -> Table:
    patients = patients_of(reading.cells, schema)
    return Table(reading.numbers, reading.codes, patients, text, reading.wide)


def _read(path: Path, schema: Schema, columns: Sequence[str], extra: Sequence[str]) -> Reading:
    for name in columns:
        if name not in schema.columns:
            hint = nearest(name, list(schema.columns))
            raise DataError(f'{path}: schema "{schema.name}" has no column "{name}"{hint}')
    key = schema.table.patient_key
    reader = open_reader(path, schema)
    names = reader.names() if schema.wide(columns) else ()
    sources = [h for name in columns for h in _sources(schema, name, names, path)]
    wanted = dict.fromkeys([*sources, *extra, *([key] if key else [])])
    reading = Reading(reader.read(list(wanted)))
    for name in (*extra, *([key] if key else [])):
        check_flat(reading, name, path)
    for name in columns:
        _convert(reading, name, schema, path)
    if key:
        reading.convert(key, _key_parser(schema), math.nan)
    return reading


def _sources(schema: Schema, name: str, names: Sequence[str], path: Path) -> tuple[str, ...]:
    """The source's columns that one of the schema's is read from."""
    column = schema.columns[name]
    return (name,) if isinstance(column, NarrowColumn) else headers(column, name, names, path)


def _convert(reading: Reading, name: str, schema: Schema, path: Path) -> None:
    column = schema.columns[name]
    if not isinstance(column, NarrowColumn):
        reading.wide[name] = convert(reading, name, schema, path)
        return
    check_flat(reading, name, path)
    if isinstance(column, NumberColumn):
        values = reading.convert(name, _number_parser(column, schema), math.nan)
        reading.numbers[name] = np.array(values, dtype=np.float64)
    else:
        places = reading.convert(name, _code_parser(column, schema), -1.0)
        reading.codes[name] = np.array(places, dtype=np.int16)


def _number_parser(column: NumberColumn, schema: Schema) -> Callable[[str], float]:
    """Text to a number within bounds; a missing mark, NaN, infinity or `not_measured` to NaN."""

    def parse(text: str) -> float:
        if text in schema.table.missing:
            return math.nan
        value = _float(text)
        if not math.isfinite(value) or value in column.not_measured:
            return math.nan
        if not column.low <= value <= column.high:
            raise Broken(OUT_OF_BOUNDS)
        return value

    return parse


def _float(text: str) -> float:
    try:
        if "_" in text:  # Python reads "1_000" as a thousand; a hospital does not write it
            raise ValueError
        return float(text)
    except ValueError:
        raise Broken(NOT_A_NUMBER) from None


def _code_parser(column: FlagColumn | CategoryColumn, schema: Schema) -> Callable[[str], float]:
    """Text to its place among the codes: as written, or as the whole number it writes."""
    exact = {code: place for place, code in enumerate(column.codes)}
    whole = {normal: place for code, place in exact.items() if (normal := _whole(code))}

    def parse(text: str) -> float:
        if text in exact:
            return exact[text]
        if text in schema.table.missing:
            return -1
        place = whole.get(_whole(text))
        if place is None:
            raise Broken(UNKNOWN_CODE)
        return place

    return parse


def _whole(text: str) -> str:
    """`1`, `1.0` and `+1.` become `1`; what is no whole number becomes empty."""
    text = text.strip()
    return str(int(text.split(".")[0])) if WHOLE_NUMBER.fullmatch(text) else ""


def _key_parser(schema: Schema) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if text in schema.table.missing:
            raise Broken(NO_KEY)
        return 0.0

    return parse


def _repeats(text: Cells, schema: Schema, patients: NDArray[np.int64]) -> Iterator[Problem]:
    again = second_rows(patients)
    key = schema.table.patient_key
    if key is not None and schema.table.repeated == "refuse" and again.size:
        yield Problem(key, REPEATED, len(again), text.lines[int(again[0])])


def _explain(path: Path, problems: Sequence[Problem]) -> str:
    first, *others = problems
    cells = "1 value" if first.count == 1 else f"{first.count} values, each of which"
    more = f" (and {len(others)} more broken rules)" if others else ""
    return (
        f'{path}: line {first.first_line}: column "{first.column}": {cells} {first.rule}{more}; '
        "correct the file or the schema"
    )
