"""A coordinator.db from an old backup: found out by what sites cosigned, mended by a person.

A site that cosigned more of the log than there is here sends the note, which our own key signed:
from then on nothing is appended, and so nothing is done that would have to be recorded. A person
puts the newer database back, or lets the log begin anew: under the next name, with what is here,
and an event first that names what is known to be lost.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Literal, NamedTuple

from cohortium.common.audit import names
from cohortium.common.audit.events import Actor, Event, Thing
from cohortium.common.audit.log import EventLog
from cohortium.common.audit.notes import Note, read_note
from cohortium.common.database import Database
from cohortium.common.errors import StorageError, UsageError
from cohortium.common.messages import Recovery
from cohortium.server.consortium import Consortium

RULE = "log.behind"


class LogBehind(StorageError):
    """Witnesses have seen more of the log than there is here: nothing more is appended."""


class Origin(NamedTuple):
    """A log that was begun anew: its number, first place, and by site the notes of the old one."""

    number: int
    first: int
    notes: Mapping[str, Note]

    @property
    def head(self) -> Note:
        """The old log's largest checkpoint that a site is known to have cosigned."""
        return max(self.notes.values(), key=_rank)


def check_whole(database: Database) -> None:
    """Raise LogBehind where a witness has seen more of the log; cheap enough for every event."""
    seen = behind(database)
    if not seen:
        return
    site, note = max(seen.items(), key=lambda item: _rank(item[1]))
    raise LogBehind(
        f"{RULE}: {database.path} is an old backup: {site} has cosigned "
        f"{note.checkpoint.size} events of its log, not all of which are here; put the newer "
        "file back, or run `cohortium coordinator recover-log --as PERSON`"
    )


def behind(database: Database) -> dict[str, Note]:
    """What sites have cosigned of our log that is not here, by site."""
    rows = database.execute("SELECT site, note FROM behind ORDER BY site")
    return {row["site"]: read_note(row["note"], "a note that we lack") for row in rows}


def compare(consortium: Consortium, note: Note) -> Literal["here", "lost", "behind"]:
    """Whether what a site cosigned of our log is here, is known to be lost, or is news.

    Args:
        note: signed by our own key.
    """
    seen, own = note.checkpoint, consortium.number
    number = names.log_number(consortium.coordinator, seen.origin) or 0
    here = seen.size <= consortium.size() and consortium.tree.root(seen.size) == seen.root
    if here and number <= own:
        return "here"
    later = [origin for origin in origins(consortium.database) if origin.number > number]
    known = any(_rank(origin.head) >= (number, seen.size) for origin in later)
    return "lost" if known else "behind"


def note_behind(consortium: Consortium, site: str, note: Note, now_ms: int) -> None:
    """Remember what a site has seen more of our log; the largest of each site."""
    known = behind(consortium.database).get(site)
    if known is None or _rank(known) <= _rank(note):
        consortium.database.execute(
            "INSERT INTO behind VALUES (?, ?, ?) "
            "ON CONFLICT (site) DO UPDATE SET note = excluded.note, at_ms = excluded.at_ms",
            (site, note.text, now_ms),
        )


def origins(database: Database) -> list[Origin]:
    """The logs that were begun anew, oldest first; the first log of all is none of them."""
    rows = database.execute("SELECT * FROM origins ORDER BY number")
    return [
        Origin(
            row["number"],
            row["first"],
            {
                site: read_note(text, "a note of the old log")
                for site, text in json.loads(row["head"]).items()
            },
        )
        for row in rows
    ]


def recover(consortium: Consortium, log: EventLog, actor: Actor, person: str, now_ms: int) -> Event:
    """Let the log begin anew with what is here; its first event names what sites had seen.

    Raises:
        UsageError: no site has seen more than there is.
    """
    database = consortium.database
    with database.transaction():
        seen = behind(database)
        if not seen:
            raise UsageError("no site has seen more of the log than is here: nothing to recover")
        numbers = [consortium.number, *(_number(note) for note in seen.values())]
        notes = {site: note.text for site, note in seen.items()}
        common = _common(database, seen)
        made = Origin(max(numbers) + 1, consortium.size(), seen)
        database.execute(
            "INSERT INTO origins VALUES (?, ?, ?, ?)",
            (made.number, made.first, json.dumps(notes, sort_keys=True), now_ms),
        )
        database.execute("DELETE FROM behind")
        head = made.head.checkpoint
        return log.append(
            "log.recovered",
            actor=actor,
            obj=tuple(_thing(site, note) for site, note in sorted(seen.items())),
            detail={
                "origin": consortium.origin,
                "size": str(head.size),
                "root": head.root.hex(),
                "first": str(common),
                "by": person,
            },
        )


def _common(database: Database, seen: Mapping[str, Note]) -> int:
    """How much of the lost log is here for certain: what those who saw more had cosigned here.

    What was logged since the backup is not: the old log may have gone on otherwise from there.
    """
    sizes = [
        database.execute("SELECT coalesce(max(size), 0) FROM cosignatures WHERE site = ?", (site,))
        for site in seen
    ]
    return min(int(rows[0][0]) for rows in sizes)


def _number(note: Note) -> int:
    coordinator, _, _ = note.checkpoint.origin.rpartition(".cohortium/")
    return names.log_number(coordinator, note.checkpoint.origin) or 1


def _rank(note: Note) -> tuple[int, int]:
    """A later log's head comes after an earlier one's, however large."""
    return _number(note), note.checkpoint.size


def _thing(site: str, note: Note) -> Thing:
    text = note.body.encode()
    return Thing(t="checkpoint", id=site, h=f"sha256:{hashlib.sha256(text).hexdigest()}")


def recovery(consortium: Consortium, size: int) -> Recovery | None:
    """What shows in a checkpoint of so many events why the log has its name; None for the first."""
    begun = origins(consortium.database)
    if not begun:
        return None
    last = begun[-1]
    logged = next(consortium.logged(last.first))
    path = consortium.tree.inclusion(last.first, size)
    return Recovery(
        line=logged.line,
        index=last.first,
        path=tuple(step.hex() for step in path),
        head=last.head.text,
    )
