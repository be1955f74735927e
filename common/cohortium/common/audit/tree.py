"""The Merkle tree over a table of leaves, kept in the same database: O(log n) roots and proofs."""

from collections.abc import Iterator, Sequence
from typing import Literal

from cohortium.common.audit import merkle
from cohortium.common.audit.merkle import Proof
from cohortium.common.database import Database
from cohortium.common.errors import CohortiumError

Leaves = Literal["events", "shared", "consortium"]  # tables with `seq` from 0 on and `leaf`

_ROWS = 8192


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
                for first, hashes in self._above(level, self._kept(level), size >> level):
                    self._database.execute_many(
                        "INSERT INTO tree VALUES (?, ?, ?, ?)",
                        (
                            (self._leaves, level, position, found)
                            for position, found in enumerate(hashes, start=first)
                        ),
                    )
                level += 1

    def check(self) -> None:
        """Compute every subtree that is kept again.

        Raises:
            CohortiumError: one is missing, or not what lies below it.
        """
        level = 1
        while kept := self._kept(level):
            for first, hashes in self._above(level, 0, kept):
                if self._hashes(level, first, first + len(hashes)) != hashes:
                    raise CohortiumError(
                        f"{self._database.path}: the tree over {self._leaves} does not match its "
                        "events; restore it from a backup"
                    )
            level += 1

    def _above(self, level: int, first: int, end: int) -> Iterator[tuple[int, list[bytes]]]:
        """The subtrees [first, end) of a level, made of those below, some at a time."""
        while first < end:
            last = min(end, first + _ROWS // 2)
            below = self._hashes(level - 1, 2 * first, 2 * last)
            pairs = zip(below[::2], below[1::2], strict=True)
            yield first, [merkle.node_hash(left, right) for left, right in pairs]
            first = last

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
