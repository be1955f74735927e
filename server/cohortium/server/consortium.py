"""The log that a consortium shares: our own events and those that sites let it know, in one order.

Of our own events the text lies in `events`; each joins the log as it is written, by a trigger.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from cohortium.common.audit import names
from cohortium.common.audit.events import Event, read_event
from cohortium.common.audit.integrity import Anchor, require_whole
from cohortium.common.audit.merkle import Proof
from cohortium.common.audit.notes import (
    Checkpoint,
    Note,
    NoteKey,
    log_key,
    read_note,
    sign_checkpoint,
    witness_key,
)
from cohortium.common.audit.tree import Tree
from cohortium.common.database import Database
from cohortium.common.identity import SigningKey, VerifyKey

_ROWS = 500


class Logged(NamedTuple):
    """One place of the log: whose event, its number there, its text ("" if withheld), its leaf."""

    place: int
    node: str
    seq: int
    line: str
    leaf: bytes


def quorum_of(sites: int) -> int:
    """How many of so many sites have to cosign: more than half."""
    return -(-(sites + 1) // 2)


class Consortium:
    """Reads and extends the log of one coordinator.

    Args:
        coordinator: its name, which is also that of our own events' node.
    """

    def __init__(self, database: Database, key: SigningKey, coordinator: str) -> None:
        self.database = database
        self.tree = Tree(database, "consortium")
        self._key = key
        self.coordinator = coordinator

    @property
    def number(self) -> int:
        """1, or more where the log was begun anew."""
        rows = self.database.execute("SELECT coalesce(max(number), 1) FROM origins")
        return int(rows[0][0])

    @property
    def origin(self) -> str:
        """The log's name: with its number where it was begun anew."""
        return names.consortium_log(self.coordinator, self.number)

    @property
    def log_key(self) -> NoteKey:
        return log_key(self.origin, self._key.public)

    def size(self) -> int:
        return self.tree.size()

    def logged(self, since: int = 0) -> Iterator[Logged]:
        """Yield the log from `since` on, in order."""
        while True:
            rows = self.database.execute(
                "SELECT c.seq, c.node, c.node_seq, coalesce(c.line, e.line, '') AS line, c.leaf "
                "FROM consortium c LEFT JOIN events e ON c.node = '' AND e.seq = c.node_seq "
                "WHERE c.seq >= ? ORDER BY c.seq LIMIT ?",
                (since, _ROWS),
            )
            if not rows:
                return
            for row in rows:
                node = row["node"] or self.coordinator
                yield Logged(row["seq"], node, row["node_seq"], row["line"], row["leaf"])
            since = rows[-1]["seq"] + 1

    def have(self, site: str) -> int:
        """How many of a site's shared events are in the log."""
        rows = self.database.execute(
            "SELECT coalesce(max(node_seq) + 1, 0) FROM consortium WHERE node = ?", (site,)
        )
        return int(rows[0][0])

    def take(self, site: str, lines: Sequence[str]) -> list[Event]:
        """Put a site's events into the log (inside the caller's transaction).

        They were checked: the site's, without a gap from `have` on.
        """
        taken = []
        for line in lines:
            event = read_event(line, f"an event of {site}")
            self.database.execute(
                "INSERT INTO consortium VALUES (?, ?, ?, ?, ?)",
                (self.size(), site, event.src.seq, line, event.leaf),
            )
            taken.append(event)
        return taken

    def checkpoint(self, now_ms: int) -> Note:
        """Our signed statement over all that is logged now; one that was made before where it is.

        Durable when it returns: nobody is shown a checkpoint that we might not know of later.
        """
        with self.database.transaction():
            size = self.size()
            made = self.note(size)
            if made is None:
                made = sign_checkpoint(
                    Checkpoint(self.origin, size, self.tree.root(size)), self._key
                )
                self.database.execute(
                    "INSERT INTO notes VALUES (?, ?, ?)", (size, made.text, now_ms)
                )
        return made

    def note(self, size: int) -> Note | None:
        """The checkpoint of a size with all cosignatures by now; None where none was made."""
        rows = self.database.execute("SELECT note FROM notes WHERE size = ?", (size,))
        if not rows:
            return None
        lines = self.database.execute(
            "SELECT line FROM cosignatures WHERE size = ? ORDER BY site", (size,)
        )
        text = rows[0]["note"] + "".join(row["line"] for row in lines)
        return read_note(text, "stored checkpoint")

    def require_whole(self) -> None:
        """Raise CohortiumError where the database is not what was written and signed."""
        sizes = self.sizes()
        signed = self.note(sizes[0]) if sizes else None
        point = signed.checkpoint if signed is not None else None
        anchor = Anchor(point.size, point.root) if point is not None else None
        require_whole(self.database, {"events": None, "consortium": anchor})

    def sizes(self) -> list[int]:
        """The sizes of which there is a checkpoint, newest first."""
        rows = self.database.execute("SELECT size FROM notes ORDER BY size DESC")
        return [row["size"] for row in rows]

    def consistency(self, old: int, size: int) -> Proof:
        return self.tree.consistency(old, size)

    def site_heads(self) -> dict[str, str]:
        """What each site last signed over its shared log: a note's text, by site."""
        rows = self.database.execute("SELECT site, note FROM site_heads ORDER BY site")
        return {row["site"]: row["note"] for row in rows}

    def policy(
        self, sites: Mapping[str, VerifyKey], former: Sequence[tuple[str, VerifyKey]] = ()
    ) -> str:
        """Whom a stranger has to trust, as C2SP's tlog-policy: this log, and most of its sites.

        A witness's key signs that site's own logs, too: a key stands there once. By former keys,
        of sites that were revoked or came back with new ones, nobody witnesses any longer; what
        they signed before is still theirs.
        """
        lines = [f"log {self.log_key.text}"]
        for site, key in former:
            lines.append(f"log {log_key(names.site_log(self.coordinator, site), key).text}")
        for site, key in sorted(sites.items()):
            name = names.witness(self.coordinator, site)
            lines.append(f"witness {site} {witness_key(name, key).text}")
        if not sites:
            return "\n".join([*lines, "quorum none", ""])
        most = quorum_of(len(sites))
        lines.append(f"group hospitals {most} {' '.join(sorted(sites))}")
        return "\n".join([*lines, "quorum hospitals", ""])
