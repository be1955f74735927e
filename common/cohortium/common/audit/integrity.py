"""Whether a database still holds what was written: asked when a daemon starts, before it adds more.

SQLite finds a page that makes no sense, not one that makes another sense. So every line is hashed
again, every subtree is made again, and the root is compared with the last one that was signed. For
a log of a million events that takes about ten seconds.
"""

from collections.abc import Mapping
from typing import NamedTuple

from cohortium.common.audit import merkle
from cohortium.common.audit.events import leaf_hash
from cohortium.common.audit.tree import Leaves, Tree
from cohortium.common.database import Database
from cohortium.common.errors import CohortiumError

_ROWS = 5000


class Anchor(NamedTuple):
    """What somebody has signed of a log: its size then, and its root."""

    size: int
    root: bytes


def require_whole(database: Database, logs: Mapping[Leaves, Anchor | None]) -> None:
    """Raise CohortiumError where a database, or a log in it, is not what was written.

    Args:
        logs: the tables of leaves, each with the last checkpoint over it if there is one.
    """
    _require_sound(database)
    for leaves, anchor in logs.items():
        size = _require_lines(database, leaves)
        tree = Tree(database, leaves)
        tree.check()
        if anchor is None:
            continue
        if anchor.size > size:
            raise CohortiumError(
                f"{database.path}: holds {size} events of {leaves}, and {anchor.size} were signed; "
                "it is older than what others have seen: put the newer one back"
            )
        if tree.root(anchor.size) != anchor.root:
            raise CohortiumError(
                f"{database.path}: {leaves} are not those that were signed at size {anchor.size}; "
                "restore it from a backup"
            )


def _require_sound(database: Database) -> None:
    """What SQLite can find: torn pages, rows out of order, values of a wrong type."""
    found = [str(row[0]) for row in database.execute("PRAGMA quick_check(1)")]
    if found != ["ok"]:
        raise CohortiumError(f"{database.path}: is damaged; restore it from a backup")


def _require_lines(database: Database, leaves: Leaves) -> int:
    """Hash every line again; a line that was withheld, or is kept elsewhere, is not here."""
    seq = 0
    while rows := database.execute(
        f"SELECT seq, line, leaf FROM {leaves} WHERE seq >= ? ORDER BY seq LIMIT ?", (seq, _ROWS)
    ):
        for row in rows:
            where = f"{database.path}: line {seq} of {leaves}"
            if row["seq"] != seq:
                raise CohortiumError(f"{where} is missing; restore it from a backup")
            if len(row["leaf"]) != merkle.HASH_BYTES:
                raise CohortiumError(f"{where} has no hash; restore it from a backup")
            if row["line"] and leaf_hash(row["line"]) != row["leaf"]:
                raise CohortiumError(f"{where} does not match its hash; the log was changed")
            seq += 1
    return seq
