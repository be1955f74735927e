"""Where the consortium's log names the head of this site's own log, as the witness has kept it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from cohortium.common.audit.events import read_event
from cohortium.common.database import Database


@dataclass(frozen=True)
class Anchor:
    """A `log.checkpoint` event of ours that is proven to be in the consortium's log.

    own_size: how much of our own log it names. line, place: the event and its place there. size,
    path: of the checkpoint in which it is included, and the proof (hex). note: that checkpoint.
    """

    own_size: int
    line: str
    place: int
    size: int
    path: tuple[str, ...]
    note: str
    cosigned_ms: int

    @property
    def json(self) -> bytes:
        """`log/anchor.json` of an export."""
        values = {"line": self.line, "place": self.place, "size": self.size, "path": self.path}
        return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def anchors(database: Database) -> Iterator[Anchor]:
    """All of them, newest first, each in the smallest checkpoint that we hold for its proof."""
    rows = database.execute(
        "SELECT s.line, i.position, i.size, i.path, c.note, c.cosigned_ms FROM included i "
        "JOIN shared s ON s.seq = i.seq JOIN cosigned c ON c.size = i.size "
        'WHERE instr(s.line, \'"action":"log.checkpoint"\') ORDER BY i.seq DESC'
    )
    for row in rows:
        event = read_event(row["line"], f"{database.path}: shared event")
        size = event.detail.get("size", "")
        if size.isdigit():
            path = tuple(json.loads(row["path"]))
            fixed = (row["line"], row["position"], row["size"], path)
            yield Anchor(int(size), *fixed, row["note"], row["cosigned_ms"])


def newest(database: Database, size: int) -> Anchor | None:
    """The one that names the most of the first `size` events of our own log."""
    found = [anchor for anchor in anchors(database) if anchor.own_size <= size]
    return max(found, key=lambda anchor: anchor.own_size, default=None)


def covering(database: Database, size: int) -> Anchor | None:
    """The one that names the fewest events beyond the first `size` of our own log."""
    found = [anchor for anchor in anchors(database) if anchor.own_size >= size]
    return min(found, key=lambda anchor: anchor.own_size, default=None)
