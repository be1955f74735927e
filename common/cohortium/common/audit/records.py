"""Every event of a party's record whose text is still there, whoever's it is."""

from collections.abc import Iterator
from typing import NamedTuple

from cohortium.common.audit.events import Event, read_event
from cohortium.common.database import Database

_ROWS = 500


class Record(NamedTuple):
    """An event that still has its text, and where it lies: the table and its place there."""

    event: Event
    table: str
    seq: int


def records(database: Database) -> Iterator[Record]:
    """Yield our own events, in order, then (at a coordinator) those that sites have shared."""
    yield from records_of(database, "events")
    if has_table(database, "consortium"):
        yield from records_of(database, "consortium")


def records_of(database: Database, table: str, since: int = 0) -> Iterator[Record]:
    """Yield the events of one table, in order."""
    while True:
        rows = database.execute(
            f"SELECT seq, line FROM {table} WHERE seq >= ? AND line <> '' ORDER BY seq LIMIT ?",
            (since, _ROWS),
        )
        if not rows:
            return
        for row in rows:
            where = f"{database.path}: {table} {row['seq']}"
            yield Record(read_event(row["line"], where), table, row["seq"])
        since = rows[-1]["seq"] + 1


def has_table(database: Database, name: str) -> bool:
    rows = database.execute(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)
    )
    return bool(rows)
