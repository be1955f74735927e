"""A table of the report. Page and CSV are made from the same cells, so they cannot disagree."""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Scalar = str | int | float | None
_TO = "\u00a0to\u00a0"
V = TypeVar("V", str, int, float)


@dataclass(frozen=True)
class Column:
    """One column of the page; `keys` name its columns in the CSV."""

    heading: str
    keys: tuple[str, ...]
    number: bool = False


@dataclass(frozen=True)
class Cell:
    """`values` go to the CSV as they are, `text` to the page; `absent` where text says why not."""

    values: tuple[Scalar, ...]
    text: str
    absent: bool = False


@dataclass(frozen=True)
class Table:
    """on_page: False for what is only a file, as it would fill pages."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    on_page: bool = True

    def csv(self) -> str:
        """Header and rows; full precision, an absent value is an empty field."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(key for column in self.columns for key in column.keys)
        for row in self.rows:
            writer.writerow(_spreadsheet_safe(value) for cell in row for value in cell.values)
        return text.getvalue()


def cell(value: V | None, show: Callable[[V], str], absent: str) -> Cell:
    """A value as it is written, or in its place what is absent."""
    return Cell((None,), absent, absent=True) if value is None else Cell((value,), show(value))


def text(value: str) -> Cell:
    return Cell((value,), value)


def blank() -> Cell:
    return Cell((None,), "")


def ranged(
    value: float | None,
    low: float | None,
    high: float | None,
    write: Callable[[float], str],
    absent: str = "not known",
) -> Cell:
    """A value with its interval, a unit said once; without one where there is none."""
    if value is None:
        return Cell((None, None, None), absent, absent=True)
    if low is None or high is None:
        return Cell((value, low, high), write(value))
    start, end = write(low), write(high)
    if start.endswith("\u00a0%"):
        start = start.removesuffix("\u00a0%")
    return Cell((value, low, high), f"{write(value)} ({start} to {end})".replace(" to ", _TO))


def _spreadsheet_safe(value: Scalar) -> Scalar:
    """A text that a spreadsheet would run gets an apostrophe in front (OWASP, CSV injection)."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return value
