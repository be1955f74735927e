"""The Merkle tree over a table of leaves, kept in the same database: O(log n) roots and proofs."""

from collections.abc import Sequence
from typing import Literal

from cohortium.common.audit import merkle
from cohortium.common.audit.merkle import Proof
from cohortium.common.database import Database
from cohortium.common.errors import CohortiumError

Leaves = Literal["events", "shared", "consortium"]  # tables with `seq` from 0 on and `leaf`

_ROWS = 4096


class Tree:
    """Reads and grows the tree of one table of leaves.

    Args:
        database: opened with `tables.TREE` among its migrations.
        leaves: the table.
    """

    def __init__(self, database: Database, leaves: Leaves) -> None:
        self._database = database
        self._leaves = leaves

    def size(self) -> int:
        """How many leaves there are now."""
        rows = self._database.execute(f"SELECT coalesce(max(seq) + 1, 0) FROM {self._leaves}")
        return int(rows[0][0])

    def root(self, size: int) -> bytes:
        """The root over the first `size` leaves."""
        self.grow(size)
        return merkle.root(size, self._node)

    def inclusion(self, index: int, size: int) -> Proof:
        """What proves that leaf `index` is among the first `size`."""
        self.grow(size)
        return merkle.inclusion(index, size, self._node)

    def consistency(self, old: int, size: int) -> Proof:
        """What proves that the first `size` leaves begin with the first `old`."""
        self.grow(size)
        return merkle.consistency(old, size, self._node)

    def grow(self, size: int) -> None:
        """Keep every complete subtree over the first `size` leaves that is not kept yet."""
        with self._database.transaction():
            level = 1
            while size >> level:
                first, end = self._kept(level), size >> level
                while first < end:
                    last = min(end, first + _ROWS // 2)
                    below = self._hashes(level - 1, 2 * first, 2 * last)
                    for position in range(first, last):
                        pair = below[2 * (position - first) :][:2]
                        self._database.execute(
                            "INSERT INTO tree VALUES (?, ?, ?, ?)",
                            (self._leaves, level, position, merkle.node_hash(*pair)),
                        )
                    first = last
                level += 1

    def _kept(self, level: int) -> int:
        rows = self._database.execute(
            "SELECT coalesce(max(position) + 1, 0) FROM tree WHERE log = ? AND level = ?",
            (self._leaves, level),
        )
        return int(rows[0][0])

    def _node(self, level: int, index: int) -> bytes:
        return self._hashes(level, index, index + 1)[0]

    def _hashes(self, level: int, first: int, end: int) -> Sequence[bytes]:
        if level == 0:
            rows = self._database.execute(
                f"SELECT leaf FROM {self._leaves} WHERE seq >= ? AND seq < ? ORDER BY seq",
                (first, end),
            )
        else:
            rows = self._database.execute(
                "SELECT hash FROM tree WHERE log = ? AND level = ? AND position >= ? "
                "AND position < ? ORDER BY position",
                (self._leaves, level, first, end),
            )
        if len(rows) != end - first:
            raise CohortiumError(
                f"{self._database.path}: the log has fewer events than its tree; restore it from a "
                "backup"
            )
        return [row[0] for row in rows]
