"""Withholding the text of events for good: body and salt go, the leaf stays in its place.

So roots, proofs and every checkpoint that was ever signed hold on, and who verifies the log sees
that something is withheld; `retention.redacted` says what, by its leaf, and why. What the database
gave up is overwritten (`PRAGMA secure_delete`), and the file written anew; copies that were handed
out before, backups and the free blocks of the disk are beyond our reach.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from cohortium.common.audit.events import Actor, Event, Thing
from cohortium.common.audit.log import EventLog
from cohortium.common.audit.records import Record, has_table, records, records_of
from cohortium.common.audit.retention import (
    Class,
    Lives,
    Retention,
    at,
    class_of,
    due,
    kept_because,
)
from cohortium.common.audit.shared import OWN_EVENT
from cohortium.common.database import Database
from cohortium.common.errors import RefusedError, UsageError

PER_EVENT = 1000  # withheld events that one event can name (`events.Event.obj`)


class Redaction:
    """Finds and withholds events of one party, own and (at a coordinator) those of its sites."""

    def __init__(self, database: Database, log: EventLog, retention: Retention) -> None:
        self._database = database
        self._log = log
        self.retention = retention

    def records(self) -> Iterator[Record]:
        """Yield every event whose text is here: our own, then what sites have shared."""
        return records(self._database)

    def lives(self) -> Lives:
        rows = self._database.execute(
            "SELECT digest, CAST(canonical AS TEXT) ->> '$.data.dataset' AS dataset FROM studies"
        )
        studies = {row["digest"]: row["dataset"] for row in rows}
        return Lives((record.event for record in self.records()), studies)

    def before(self, end: datetime, kind: Class, now: datetime) -> tuple[list[Record], int]:
        """What of a class was written before a time and may go; and how many others may not yet.

        Raises:
            RefusedError: `end` is later than the class allows.
        """
        least = self.retention.years(kind)
        if self.retention.until(kind, end) > now:
            raise RefusedError(
                "retention.young",
                f"class {kind} is kept for {least:g} years ([retention] {kind}): nothing after "
                f"{_years_before(now, self.retention, kind):%Y-%m-%d} may go",
            )
        lives = self.lives()
        found = [
            r for r in self.records() if class_of(r.event.action) == kind and at(r.event) < end
        ]
        gone = [r for r in found if (day := due(r.event, self.retention, lives)) and day <= now]
        return gone, len(found) - len(gone)

    def named(self, ids: Sequence[str], now: datetime) -> list[Record]:
        """Events by id, for erasure; those that are withheld already are left out.

        Raises:
            UsageError: there is no such event.
            RefusedError: the party's state or the record itself rests on it.
        """
        wanted = set(ids)
        found = [record for record in self.records() if record.event.id in wanted]
        missing = wanted - {r.event.id for r in found} - self._withheld()
        if missing:
            raise UsageError(f"no event {', '.join(sorted(missing))} is in this log")
        lives = self.lives()
        for record in found:
            if why := self._untouchable(record.event, lives, now):
                raise RefusedError("retention.kept", f"{record.event.id} is not withheld: {why}")
        return found

    def withhold(
        self, chosen: Sequence[Record], kind: str, actor: Actor, person: str, reason: str
    ) -> tuple[str, ...]:
        """Withhold texts, record that, and write the file anew; the ids of the recording events."""
        ids = []
        with self._database.transaction():
            copies = self._counterparts()
            for first in range(0, len(chosen), PER_EVENT):
                part = chosen[first : first + PER_EVENT]
                things = tuple(self._withhold(record, copies) for record in part)
                event = self._log.append(
                    "retention.redacted",
                    actor=actor,
                    obj=things,
                    reason=reason,
                    detail={"person": person, "class": kind, "events": str(len(part))},
                )
                ids.append(event.id)
        if ids:
            self._database.execute("VACUUM")  # pages that were split keep no stale copies
        return tuple(ids)

    def asked(self) -> list[str]:
        """Events, by id, that sites have withheld in their own logs while a copy is here."""
        if not has_table(self._database, "consortium"):
            return []
        theirs = [record.event for record in records_of(self._database, "consortium")]
        wanted = {
            thing.id
            for event in theirs
            if event.action == "retention.redacted"
            for thing in event.obj
        }
        return [event.id for event in theirs if event.id in wanted]

    def _withheld(self) -> set[str | None]:
        return {
            thing.id
            for record in self.records()
            if record.event.action == "retention.redacted"
            for thing in record.event.obj
        }

    def _untouchable(self, event: Event, lives: Lives, now: datetime) -> str | None:
        if why := kept_because(event):
            return why
        if class_of(event.action) != "ledger":
            return None
        day = due(event, self.retention, lives)
        if day is not None and day <= now:
            return None
        return "what a dataset was used for is kept while it lives, and years after" + (
            f", until {day:%Y-%m-%d}" if day else ""
        )

    def _withhold(self, record: Record, copies: Mapping[str, int]) -> Thing:
        """The text of an event and of its counterpart go; returns how it is named."""
        self._blank(record.table, record.seq)
        shared = copies.get(record.event.id)
        if shared is not None:
            self._blank("shared", shared)
        known = record.table == "consortium" or shared is not None
        leaf = record.event.leaf.hex()
        return Thing(t="event" if known else OWN_EVENT, id=record.event.id, h=f"sha256:{leaf}")

    def _counterparts(self) -> dict[str, int]:
        """The places in `shared` of what the consortium has got of a site's events, by id.

        What it has not got yet stays: it holds no name and no free text, and must be delivered.
        """
        if not has_table(self._database, "shared"):
            return {}
        got = {row["seq"] for row in self._database.execute("SELECT seq FROM included")}
        kept = records_of(self._database, "shared")
        return {record.event.id: record.seq for record in kept if record.seq in got}

    def _blank(self, table: str, seq: int) -> None:
        self._database.execute(f"UPDATE {table} SET line = '' WHERE seq = ?", (seq,))


def _years_before(now: datetime, retention: Retention, kind: Class) -> datetime:
    return now - (retention.until(kind, now) - now)
