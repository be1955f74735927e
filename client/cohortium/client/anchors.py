"""Where the consortium's log names the head of this site's own log, as the witness has kept it.

After a restore from an old backup some that came back (`returned.py`) name heads of a log that is
lost: they anchor nothing that is here.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from cohortium.client.site import Site
from cohortium.common.audit.events import read_event
from cohortium.common.audit.log import EventLog
from cohortium.common.audit.tree import Tree
from cohortium.common.database import Database


@dataclass(frozen=True)
class Anchor:
    """A `log.checkpoint` event of ours that is proven to be in the consortium's log.

    own_size, root: how much of our own log it names, and by what (hex). line, place: the event and
    its place there. size, path: of the checkpoint in which it is included, and the proof (hex).
    note: that checkpoint.
    """

    own_size: int
    root: str
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


def write(site: Site) -> None:
    """Put the head of the whole log beside what is shared of it (inside the caller's transaction).

    Not into the whole log itself: that would grow by it.
    """
    whole = Tree(site.database, "events")
    shared = EventLog(site.database, site.name, site.name, site.clock, table="shared")
    size = whole.size()
    detail = {"size": str(size), "root": whole.root(size).hex()}
    shared.append("log.checkpoint", actor=site.actor, detail=detail)


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
            root = event.detail.get("root", "")
            yield Anchor(int(size), root, *fixed, row["note"], row["cosigned_ms"])


def newest(database: Database, size: int) -> Anchor | None:
    """The one that names the most of the first `size` events of our own log."""
    found = [anchor for anchor in anchors(database) if anchor.own_size <= size]
    found.sort(key=lambda anchor: anchor.own_size, reverse=True)
    return next((anchor for anchor in found if _holds(database, anchor)), None)


def covering(database: Database, size: int) -> Anchor | None:
    """The one that names the fewest events beyond the first `size` of our own log."""
    found = [anchor for anchor in anchors(database) if anchor.own_size >= size]
    found.sort(key=lambda anchor: anchor.own_size)
    return next((anchor for anchor in found if _holds(database, anchor)), None)


def _holds(database: Database, anchor: Anchor) -> bool:
    """Whether our own log is still the one that it names."""
    own = Tree(database, "events")
    return anchor.own_size <= own.size() and own.root(anchor.own_size).hex() == anchor.root
