"""The event log of one party: append-only, gap-free, in the party's own database.

Appending joins the caller's transaction, so that what happened and the record of it become durable
together or not at all.
"""

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

from cohortium.common.audit import shared
from cohortium.common.audit.events import (
    SALT_BYTES,
    UUID7_RANDOM_BYTES,
    Action,
    Actor,
    Event,
    PolicyVersion,
    Thing,
    leaf_hash,
    read_event,
    timestamp,
    uuid7,
)
from cohortium.common.database import Database
from cohortium.common.document import parse
from cohortium.common.errors import CohortiumError

# The triggers guard against our own mistakes; whoever owns the file can drop them.
LOG_MIGRATION = """
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    line TEXT NOT NULL,
    leaf BLOB NOT NULL CHECK (length(leaf) = 32)
) STRICT;
CREATE TRIGGER events_have_no_gap BEFORE INSERT ON events
WHEN NEW.seq <> (SELECT coalesce(max(seq) + 1, 0) FROM events)
BEGIN SELECT raise(ABORT, 'the next event must follow the last'); END;
CREATE TRIGGER events_are_never_changed BEFORE UPDATE ON events
BEGIN SELECT raise(ABORT, 'an event is never changed'); END;
CREATE TRIGGER events_are_never_deleted BEFORE DELETE ON events
BEGIN SELECT raise(ABORT, 'an event is never deleted'); END;
"""

# What of a site's events the consortium may know (`shared.py`), until the coordinator has it.
SHARED_MIGRATION = LOG_MIGRATION.replace("events", "shared")

_PAGE_ROWS = 500


class Head(NamedTuple):
    """What a log amounts to: how many events, and one hash (hex) over all of their leaves."""

    size: int
    digest: str


class EventLog:
    """Writes and reads the events of one node.

    Args:
        database: opened with `LOG_MIGRATION` among its migrations; holds one node's log.
        node: the node's name, `org` its organisation's.
        clock: gives an aware time.
        random: gives so many random bytes.
        table: where the events are: a log of its own for each table.
        shares_as: who a site's events come from in its `shared` log; None for a party without one.
        whole: called before each event; raises where the log lacks some, and none may follow.
    """

    def __init__(
        self,
        database: Database,
        node: str,
        org: str,
        clock: Callable[[], datetime],
        random: Callable[[int], bytes] = secrets.token_bytes,
        *,
        table: Literal["events", "shared"] = "events",
        shares_as: Actor | None = None,
        whole: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._node = node
        self._org = org
        self._clock = clock
        self._random = random
        self._table = table
        self._shares_as = shares_as
        self._whole = whole

    def append(
        self,
        action: Action,
        *,
        actor: Actor,
        outcome: Literal["success", "failure", "denied"] = "success",
        study: str | None = None,
        run: str | None = None,
        round: int | None = None,
        obj: tuple[Thing, ...] = (),
        policy: PolicyVersion | None = None,
        reason: str | None = None,
        detail: Mapping[str, str] | None = None,
    ) -> Event:
        """Write one event, inside the caller's transaction where there is one.

        Args:
            detail: only keys that `events.DETAIL_KEYS` allows for the action.

        Raises:
            DocumentError: not in the vocabulary, or a text that is too long or not one line.
            CohortiumError: the database cannot be written, or lacks events.
        """
        now = self._clock()
        values = {
            "id": uuid7(int(now.timestamp() * 1000), self._random(UUID7_RANDOM_BYTES)),
            "ts": timestamp(now),
            "actor": actor,
            "action": action,
            "outcome": outcome,
            "study": study,
            "run": run,
            "round": round,
            "obj": obj,
            "policy": policy,
            "reason": reason,
            "detail": detail or {},
            "salt": self._random(SALT_BYTES).hex(),
        }
        with self._database.transaction():
            self._whole()
            event = self._insert(values, self._table)
            if self._shares_as is not None:
                counterpart = shared.shared(event, self._shares_as)
                if counterpart is not None:
                    salt = self._random(SALT_BYTES).hex()
                    self._insert({**counterpart, "salt": salt}, "shared")
        return event

    def _insert(self, values: Mapping[str, object], table: str) -> Event:
        source = {"org": self._org, "node": self._node, "seq": self._size(table)}
        event = parse({**values, "src": source}, Event, "event")
        line = event.line
        self._database.execute(
            f"INSERT INTO {table} (seq, line, leaf) VALUES (?, ?, ?)",
            (event.src.seq, line, leaf_hash(line)),
        )
        return event

    def events(self, since: int = 0) -> Iterator[Event]:
        """Yield the events from `since` on, in order; those appended meanwhile too.

        Of a withheld event only the leaf is left: it is passed over.
        """
        for seq, line, _ in self._rows(since):
            if line:
                yield read_event(line, f"{self._database.path}: event {seq}")

    def about(self, study: str, action: Action) -> Iterator[Event]:
        """Yield a study's events with one action, in order, found by their canonical text."""
        rows = self._database.execute(
            f"SELECT seq, line FROM {self._table} "
            "WHERE instr(line, ?) AND instr(line, ?) ORDER BY seq",
            (f'"action":"{action}"', f'"study":"{study}"'),
        )
        for row in rows:
            event = read_event(row["line"], f"{self._database.path}: event {row['seq']}")
            if (event.study, event.action) == (study, action):
                yield event

    def head(self) -> Head:
        """The log's size and a digest over all of its leaves, in order."""
        total, size = hashlib.sha256(), 0
        for _, _, leaf in self._rows(0):
            total.update(leaf)
            size += 1
        return Head(size, total.hexdigest())

    def export(self, path: Path) -> int:
        """Write the lines but for withheld ones to a file, whole or not at all; return how many.

        Raises:
            CohortiumError: the file cannot be written.
        """
        draft = path.with_name(f".{path.name}.{self._random(4).hex()}")
        try:
            with draft.open("x", encoding="utf-8", newline="\n") as file:
                lines = (line for _, line, _ in self._rows(0) if line)
                count = sum(1 for line in lines if file.write(line + "\n"))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            raise CohortiumError(
                f"{path}: cannot be written ({error.strerror}); choose another place"
            ) from None
        finally:
            draft.unlink(missing_ok=True)
        return count

    def verify(self) -> Head:
        """Read the whole log and return its head.

        Raises:
            CohortiumError: an event is missing, changed, out of place or another node's.
        """
        total, size = hashlib.sha256(), 0
        for seq, line, leaf in self._rows(0):
            where = f"{self._database.path}: event {size}"
            if seq != size:
                raise CohortiumError(f"{where} is missing; restore the log from a backup")
            if line:
                self._check(line, leaf, seq, where)
            total.update(leaf)
            size += 1
        return Head(size, total.hexdigest())

    def _check(self, line: str, leaf: bytes, seq: int, where: str) -> None:
        if leaf_hash(line) != leaf:
            raise CohortiumError(f"{where} does not match its hash; the log was changed")
        source = read_event(line, where).src
        if (source.seq, source.node, source.org) != (seq, self._node, self._org):
            raise CohortiumError(f"{where} belongs to another place or node")

    def _size(self, table: str) -> int:
        rows = self._database.execute(f"SELECT coalesce(max(seq) + 1, 0) FROM {table}")
        return int(rows[0][0])

    def _rows(self, since: int) -> Iterator[tuple[int, str, bytes]]:
        """Page through the table, so that no reader holds up the writers."""
        while True:
            rows = self._database.execute(
                f"SELECT seq, line, leaf FROM {self._table} WHERE seq >= ? ORDER BY seq LIMIT ?",
                (since, _PAGE_ROWS),
            )
            if not rows:
                return
            for row in rows:
                yield row["seq"], row["line"], row["leaf"]
            since = rows[-1]["seq"] + 1
