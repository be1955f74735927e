"""How papers are written: the same bytes for the same evidence, and text that stays text."""

import csv
import io
import json
import re
import string
from collections.abc import Iterable, Sequence
from typing import Any

from cohortium.common.document import one_line

PROVIDER = "PROVIDER TO COMPLETE"
CONTROLLER = "CONTROLLER TO COMPLETE"
ENTITY = "COVERED ENTITY TO COMPLETE"

MAX_CELL = 2000
_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # full-width forms are formulas, too
_UNRESERVED = frozenset(f"{string.ascii_letters}{string.digits}-._~/".encode())
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~$&])")


def json_file(values: Any) -> bytes:
    """Indented JSON with sorted keys."""
    text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def csv_file(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """RFC 4180, UTF-8; no cell is a formula to a spreadsheet."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows([cell(value) for value in row] for row in rows)
    return out.getvalue().encode()


def cell(value: object) -> str:
    """One line; what a spreadsheet would compute gets an apostrophe before it (OWASP)."""
    text = one_line("" if value is None else str(value), MAX_CELL)
    if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text):
        return "'" + text
    return text


def quoted(path: str) -> str:
    """A path as it stands in a URI (RFC 3986, section 2): what is not unreserved, by its bytes."""
    return "".join(chr(b) if b in _UNRESERVED else f"%{b:02X}" for b in path.encode())


def markdown(text: str) -> str:
    """A text that somebody wrote, on one line, without any meaning in Markdown or HTML."""
    return _MARKDOWN.sub(r"\\\1", one_line(text, len(text)))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; cells are already escaped."""
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def paragraphs(*parts: str) -> bytes:
    """A Markdown file of its parts; empty ones are left out."""
    return ("\n\n".join(part for part in parts if part) + "\n").encode()


def decimal(value: float | None) -> str:
    """Up to six digits, "" for unknown."""
    return "" if value is None else f"{value:.6g}"


def percent(value: float) -> str:
    """A share for people: `4.2 %`."""
    return f"{100 * value:.3g} %"


def count(number: int, noun: str) -> str:
    """`1 site`, `2 sites`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listed(items: Iterable[str], nothing: str = "none") -> str:
    """`a, b`, or a word for none."""
    return ", ".join(items) or nothing
