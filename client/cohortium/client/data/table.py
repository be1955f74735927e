"""From a hospital's file to a `Table` that obeys its schema, or counts of what does not."""

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cohortium.client.data.delimited import TextColumns, read_columns
from cohortium.common import bands
from cohortium.common.document import nearest
from cohortium.common.errors import DataError
from cohortium.common.schema import CategoryColumn, FlagColumn, NumberColumn, Schema
from cohortium.common.table import Table

WHOLE_NUMBER = re.compile(r"[+-]?\d{1,18}(\.0*)?", re.ASCII)

NOT_A_NUMBER = "is not a number"
OUT_OF_BOUNDS = "is outside the schema's bounds (low, high)"
UNKNOWN_CODE = "is none of the schema's codes"
NO_KEY = "is missing, but a patient key may not be"


class Broken(Exception):
    """A cell breaks a rule; the rule is the only argument."""


@dataclass(frozen=True)
class Problem:
    """One rule that some cells of a column break: how many, and the first one's line."""

    column: str
    rule: str
    count: int
    first_line: int


@dataclass(frozen=True)
class TableSummary:
    """Counts only: what `site data add` and `doctor` say about a file."""

    rows: int
    patients: int
    missing: Mapping[str, int]
    problems: tuple[Problem, ...]


@dataclass
class Reading:
    """Columns converted so far, and every broken rule found on the way."""

    text: TextColumns
    numbers: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    codes: dict[str, NDArray[np.int16]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def convert(self, column: str, parse: Callable[[str], float], gap: float) -> list[float]:
        """Parse each cell; a broken one counts as a gap and is remembered by its rule."""
        lines: dict[str, list[int]] = {}
        values = []
        for text, line in zip(self.text.columns[column], self.text.lines, strict=True):
            try:
                values.append(parse(text))
            except Broken as broken:
                values.append(gap)
                lines.setdefault(broken.args[0], []).append(line)
        self.problems += [Problem(column, rule, len(at), at[0]) for rule, at in lines.items()]
        return values


def read_table(
    path: Path, schema: Schema, columns: Sequence[str], extra: Sequence[str] = ()
) -> Table:
    """Read the named columns of the schema, and `extra` ones as plain text; no others are kept.

    Raises:
        DataError: the file, a column or a cell breaks a rule (named with its first line and how
            many cells break it), or a patient has several rows.
    """
    reading = _read(path, schema, columns, extra)
    if reading.problems:
        raise DataError(_explain(path, reading.problems))
    patients = _patients(reading.text, schema)
    _refuse_repeats(path, schema, patients)
    text = {name: np.array(reading.text.columns[name], dtype=np.str_) for name in extra}
    return Table(reading.numbers, reading.codes, patients, text)


def check_table(path: Path, schema: Schema) -> TableSummary:
    """Read every column of the schema and count: rows, patients, gaps, broken rules.

    Raises:
        DataError: the file itself cannot be read as the schema says (see `read_columns`).
    """
    reading = _read(path, schema, tuple(schema.columns), ())
    patients = _patients(reading.text, schema)
    table = Table(reading.numbers, reading.codes, patients, {})
    broken = dict.fromkeys(schema.columns, 0)
    for problem in reading.problems:
        broken[problem.column] = broken.get(problem.column, 0) + problem.count
    missing = {name: int(table.missing(name).sum()) - broken[name] for name in schema.columns}
    return TableSummary(table.rows, table.patient_count, missing, tuple(reading.problems))


def _read(path: Path, schema: Schema, columns: Sequence[str], extra: Sequence[str]) -> Reading:
    for name in columns:
        if name not in schema.columns:
            hint = nearest(name, list(schema.columns))
            raise DataError(f'{path}: schema "{schema.name}" has no column "{name}"{hint}')
    key = schema.table.patient_key
    wanted = dict.fromkeys([*columns, *extra, *([key] if key else [])])
    reading = Reading(read_columns(path, schema, list(wanted)))
    for name in columns:
        _convert(reading, name, schema)
    if key:
        reading.convert(key, _key_parser(schema), math.nan)
    return reading


def _convert(reading: Reading, name: str, schema: Schema) -> None:
    column = schema.columns[name]
    if isinstance(column, NumberColumn):
        values = reading.convert(name, _number_parser(column, schema), math.nan)
        reading.numbers[name] = np.array(values, dtype=np.float64)
    else:
        places = reading.convert(name, _code_parser(column, schema), -1)
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


def _patients(text: TextColumns, schema: Schema) -> NDArray[np.int64]:
    """The row number, or 63 bits of the key's SHA-256: the same whatever the row order."""
    key = schema.table.patient_key
    if key is None:
        return np.arange(len(text.lines), dtype=np.int64)
    hashes = (hashlib.sha256(value.encode()).digest() for value in text.columns[key])
    return np.array([int.from_bytes(found[:8], "big") >> 1 for found in hashes], dtype=np.int64)


def _refuse_repeats(path: Path, schema: Schema, patients: NDArray[np.int64]) -> None:
    _, counts = np.unique(patients, return_counts=True)
    repeated = int((counts > 1).sum())
    if repeated:
        raise DataError(
            f'{path}: column "{schema.table.patient_key}": {bands.text(repeated)} patients have '
            "more than one row; rule: one row per patient; reduce the file to one row each"
        )


def _explain(path: Path, problems: Sequence[Problem]) -> str:
    first, *others = problems
    cells = "1 value" if first.count == 1 else f"{first.count} values, each of which"
    more = f" (and {len(others)} more broken rules)" if others else ""
    return (
        f'{path}: line {first.first_line}: column "{first.column}": {cells} {first.rule}{more}; '
        "correct the file or the schema"
    )
