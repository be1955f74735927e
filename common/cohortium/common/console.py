"""What every command prints, and how it ends: text for people, one JSON document for machines."""

import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from rich.console import Console

from cohortium.common.document import one_line
from cohortium.common.errors import CohortiumError, UsageError

HOME_VARIABLE = "COHORTIUM_HOME"
MAX_ERROR = 4000

JsonFlag = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")
]
StateDir = Annotated[
    Path,
    typer.Option(
        "--dir",
        envvar=HOME_VARIABLE,
        help="The state directory of this role.",
        file_okay=False,
    ),
]

StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="Name, or digits of the digest.")]

people = Console(stderr=True, highlight=False)


def emit(document: Mapping[str, Any], text: str, as_json: bool) -> None:
    """The result of a command: a document, or the same said to a person."""
    if as_json:
        print(json.dumps(document, ensure_ascii=False, allow_nan=False), flush=True)
    else:
        Console(highlight=False).print(text, markup=False, soft_wrap=True)


def note(text: str) -> None:
    """Something on the way, for people: always on stderr."""
    people.print(text, markup=False, soft_wrap=True)


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]], empty: str) -> str:
    """Columns that line up, for people; `empty` where there is no row."""
    if not rows:
        return empty
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]
    return "\n".join(lines)


def misused(error: click.ClickException, *, as_json: bool) -> int:
    """Say how a command was called wrongly; returns its exit code."""
    if as_json:
        _emit_error(error.format_message(), error.exit_code)
    error.show()
    return error.exit_code


def fail(error: BaseException, *, debug: bool, as_json: bool) -> int:
    """Say why a command failed, in one line; returns its exit code.

    An unexpected error shows its class only: its text may hold anything.
    """
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, CohortiumError):
        message, code = one_line(str(error), MAX_ERROR), error.exit_code
    elif isinstance(error, ModuleNotFoundError):
        message, code = _missing(error), UsageError.exit_code
    elif isinstance(error, OSError) and error.filename and error.strerror:
        message, code = _unusable(error), 1
    else:
        hint = "" if debug else "; run it again as `cohortium --debug ...` and report what it shows"
        message, code = f"unexpected {type(error).__name__}{hint}", 1
    if as_json:
        _emit_error(message, code)
    people.print(f"error: {message}", markup=False, soft_wrap=True)
    return code


def _emit_error(message: str, code: int) -> None:
    print(json.dumps({"error": message, "exit_code": code}, ensure_ascii=False), flush=True)


def _unusable(error: OSError) -> str:
    return (
        f"{error.filename}: {error.strerror}; check the path, who owns it, and the free space "
        "of its disk"
    )


def _missing(error: ModuleNotFoundError) -> str:
    return (
        f"the Python package {error.name} is not installed here; install the role that this "
        "machine plays: pip install 'cohortium[site]' or 'cohortium[coordinator]'"
    )
