"""One table of the report, which is shown on the page and written as CSV from the same values."""

import csv
import io
import re
from dataclasses import dataclass

from cohortium.common.audit.report.markup import Html, element, join
from cohortium.common.audit.report.words import short

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what a spreadsheet takes for a formula
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?")
HASH_DIGITS = 64


@dataclass(frozen=True)
class Table:
    """name: of the CSV file and the anchor. numeric: the columns that are aligned as numbers.

    wide: columns that are only in the CSV file. empty: what is said where there is no row.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    empty: str
    note: str = ""
    numeric: frozenset[str] = frozenset()
    wide: frozenset[str] = frozenset()


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


def html_table(table: Table, most: int = 200) -> Html:
    """The table with its caption; at most so many rows, for all of them are in the CSV file."""
    shown = [place for place, name in enumerate(table.header) if name not in table.wide]
    if not table.rows:
        return element("p", table.empty, class_="soft")
    head = element(
        "tr",
        *(element("th", table.header[i], scope="col", class_=_kind(table, i)) for i in shown),
    )
    rows = [_row(table, row, shown) for row in table.rows[:most]]
    left = len(table.rows) - most
    caption = join(
        table.title,
        element("span", table.note, class_="note") if table.note else "",
        element("span", f"{left} further rows are in {table.name}.csv.", class_="note")
        if left > 0
        else "",
        by=" ",
    )
    body = element(
        "table",
        element("caption", caption),
        element("thead", head),
        element("tbody", *rows),
        id=f"table-{table.name}",
    )
    return element(
        "div", body, class_="scroll", tabindex="0", role="region", aria_label=table.title
    )


def _row(table: Table, row: tuple[str, ...], shown: list[int]) -> Html:
    first, *rest = shown
    return element(
        "tr",
        element("th", _cell(row[first]), scope="row", class_=_kind(table, first)),
        *(element("td", _cell(row[i]), class_=_kind(table, i)) for i in rest),
    )


def _kind(table: Table, place: int) -> str:
    return "number" if table.header[place] in table.numeric else ""


def _cell(cell: str) -> str:
    """Text; of a hash its first digits, with the whole as its title."""
    bare = cell.removeprefix("sha256:")
    if len(bare) == HASH_DIGITS and set(bare) <= set("0123456789abcdef"):
        return element("code", short(bare), title=bare)
    return cell
