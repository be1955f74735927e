"""One table of the report, which is shown on the page and written as CSV from the same values."""

import csv
import io
import re
from dataclasses import dataclass

from cohortium.common.audit.report.markup import Html, element, join
from cohortium.common.audit.report.words import second, short

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what a spreadsheet takes for a formula
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
HASH_DIGITS = 64
MOST = 40  # rows on the page, of a table whose file has them all


@dataclass(frozen=True)
class Table:
    """name: of the anchor, and of the file. numeric: the columns that are aligned as numbers.

    wide: columns that are only in the file. empty: what is said where there is no row. file: the
    path of the CSV file that has all rows, "" where there is none.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    empty: str
    note: str = ""
    numeric: frozenset[str] = frozenset()
    wide: frozenset[str] = frozenset()
    file: str = ""


def csv_bytes(table: Table) -> bytes:
    """RFC 4180 in UTF-8; no cell begins as a spreadsheet's formula would (OWASP, CSV injection)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    for row in (table.header, *table.rows):
        writer.writerow([safe(cell) for cell in row])
    return text.getvalue().encode()


def safe(cell: str) -> str:
    """A cell that no spreadsheet computes: an apostrophe stands before what could be a formula."""
    computed = cell.startswith(FORMULA) and not NUMBER.fullmatch(cell)
    return f"'{cell}" if computed else cell


def html_table(table: Table, *, heading: bool = True, stacked: bool = False) -> Html:
    """The table with its caption; of one with a file at most `MOST` rows.

    Args:
        heading: the title is shown above the table; else it is there for screen readers alone.
        stacked: on a narrow screen each row becomes a list of its cells.
    """
    title = element("h3", table.title) if heading else ""
    if not table.rows:
        return join(title, element("p", table.empty, class_="soft"))
    most = MOST if table.file else len(table.rows)
    shown = [place for place, name in enumerate(table.header) if name not in table.wide]
    head = element("tr", *(_head(table, i, stacked) for i in shown), role="row" * stacked)
    body = element(
        "table",
        element("caption", table.title, class_="unseen"),
        element("thead", head, role="rowgroup" * stacked),
        element(
            "tbody",
            *(_row(table, row, shown, stacked) for row in table.rows[:most]),
            role="rowgroup" * stacked,
        ),
        id=f"table-{table.name}",
        class_="stacked" * stacked,
        role="table" * stacked,
    )
    scroll = element(
        "div", body, class_="scroll", tabindex="0", role="region", aria_label=table.title
    )
    left = len(table.rows) - most
    rest = f"{left:,} further rows are in {table.file}." if left > 0 else ""
    note = join(table.note, rest, by=" ")
    return join(title, scroll, element("p", note, class_="note") if note else "")


def shown_cells(table: Table) -> list[tuple[str, ...]]:
    """Header and rows as the page shows them, for paper."""
    shown = [place for place, name in enumerate(table.header) if name not in table.wide]
    rows = table.rows[:MOST] if table.file else table.rows
    return [
        tuple(table.header[i] for i in shown),
        *(tuple(_plain(row[i]) for i in shown) for row in rows),
    ]


def _plain(cell: str) -> str:
    if _is_hash(cell):
        return short(cell)
    return second(cell) if TIME.fullmatch(cell) else cell


def _is_hash(cell: str) -> bool:
    bare = cell.removeprefix("sha256:")
    return len(bare) == HASH_DIGITS and set(bare) <= set("0123456789abcdef")


def _head(table: Table, place: int, stacked: bool) -> Html:
    return element(
        "th",
        table.header[place],
        scope="col",
        class_=_kind(table, place),
        role="columnheader" * stacked,
    )


def _row(table: Table, row: tuple[str, ...], shown: list[int], stacked: bool) -> Html:
    first, *rest = shown
    name = element(
        "th",
        _cell(row[first]),
        scope="row",
        class_=_kind(table, first),
        role="rowheader" * stacked,
    )
    cells = (
        element(
            "td",
            _cell(row[i]),
            class_=_kind(table, i),
            role="cell" * stacked,
            data_label=table.header[i] * stacked,
        )
        for i in rest
    )
    return element("tr", name, *cells, role="row" * stacked)


def _kind(table: Table, place: int) -> str:
    return "number" if table.header[place] in table.numeric else ""


def _cell(cell: str) -> str:
    """Text; a time without its fractions; of a hash its first digits, the whole as its title."""
    if _is_hash(cell):
        return element("code", short(cell), title=cell.removeprefix("sha256:"))
    return _plain(cell)
