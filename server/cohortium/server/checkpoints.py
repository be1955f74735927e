"""The states that a study can go on from: one after each round, in the coordinator's database.

Several are kept while they are small, so that a study can go on from an earlier round; of large
ones the last two, so that a damaged one costs no more than asking for one round again.
"""

import hashlib
import io
from collections.abc import Collection, Iterator
from typing import Any

from cohortium.common.database import Database
from cohortium.common.errors import ProtocolError
from cohortium.server.aggregation import optimizer
from cohortium.server.aggregation.optimizer import ServerState

PART_BYTES = 64 * 2**20
KEEP_BYTES = 256 * 2**20  # of one study
KEEP_AT_LEAST = 2


class Checkpoints:
    """One study's states by round."""

    def __init__(self, database: Database, study: str) -> None:
        self._database = database
        self._study = study

    def keep(self, round: int, state: ServerState, always: Collection[int] = ()) -> None:
        """Keep the state after a round (inside the caller's transaction); drop what is too old.

        Args:
            always: rounds whose states are never too old.
        """
        self._drop(round)
        parts = _Parts(self._database, self._study, round)
        optimizer.write(state, parts)
        parts.finish()
        held = 0
        for number, (kept, size) in enumerate(self._sizes()):
            held += size
            if number >= KEEP_AT_LEAST and held > KEEP_BYTES and kept not in always:
                self._drop(kept)

    def rounds(self) -> list[int]:
        """The rounds whose states are kept, newest first."""
        return [kept for kept, _ in self._sizes()]

    def load(self, round: int) -> ServerState:
        """The state after a round.

        Raises:
            ProtocolError: there is none, or it is not what was written.
        """
        return optimizer.read(io.BytesIO(b"".join(self._parts(round))))

    def _parts(self, round: int) -> Iterator[bytes]:
        numbers = self._database.execute(
            "SELECT part, sha256 FROM snapshots WHERE study = ? AND round = ? ORDER BY part",
            (self._study, round),
        )
        if not numbers:
            raise ProtocolError(f"no checkpoint of round {round} is kept")
        for row in numbers:
            (found,) = self._database.execute(
                "SELECT bytes FROM snapshots WHERE study = ? AND round = ? AND part = ?",
                (self._study, round, row["part"]),
            )
            expected = row["sha256"]  # none where an earlier version wrote it
            if expected is not None and hashlib.sha256(found["bytes"]).digest() != expected:
                raise ProtocolError(f"the checkpoint of round {round} is damaged")
            yield found["bytes"]

    def _sizes(self) -> list[tuple[int, int]]:
        rows = self._database.execute(
            "SELECT round, sum(length(bytes)) AS size FROM snapshots WHERE study = ? "
            "GROUP BY round ORDER BY round DESC",
            (self._study,),
        )
        return [(row["round"], row["size"]) for row in rows]

    def _drop(self, round: int) -> None:
        self._database.execute(
            "DELETE FROM snapshots WHERE study = ? AND round = ?", (self._study, round)
        )


class _Parts(io.RawIOBase):
    """A file that goes into the database as it is written, a part at a time."""

    def __init__(self, database: Database, study: str, round: int) -> None:
        self._database = database
        self._key = (study, round)
        self._waiting = bytearray()
        self._number = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), PART_BYTES):
            self._waiting += view[start : start + PART_BYTES]
            if len(self._waiting) >= PART_BYTES:
                self._store()
        return len(view)

    def finish(self) -> None:
        self._store()

    def _store(self) -> None:
        content = bytes(self._waiting)
        self._waiting.clear()
        self._database.execute(
            "INSERT INTO snapshots VALUES (?, ?, ?, ?, ?)",
            (*self._key, self._number, hashlib.sha256(content).digest(), content),
        )
        self._number += 1
