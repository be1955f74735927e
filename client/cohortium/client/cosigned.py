"""What this site has cosigned of the consortium's log, and which of its own events it saw in it."""

import json
from collections.abc import Sequence

from cohortium.common.audit import merkle
from cohortium.common.audit.merkle import Proof
from cohortium.common.audit.notes import MAX_NOTE, Checkpoint, Note, read_note
from cohortium.common.database import Database
from cohortium.common.errors import RefusedError
from cohortium.common.messages import Proven


class Cosigned:
    """The tables `cosigned` and `included`; rows are never smaller than what was cosigned before.

    After a log was begun anew those are gone that it does not begin with (`forget`).
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def last(self) -> Note | None:
        """The largest checkpoint that was cosigned, with all that is known to have cosigned it."""
        return self.up_to(2**62)

    def up_to(self, size: int) -> Note | None:
        """The largest that is no larger than `size`."""
        return self._one("WHERE size <= ? ORDER BY size DESC LIMIT 1", size)

    def at(self, size: int) -> Note | None:
        return self._one("WHERE size = ?", size)

    def _one(self, where: str, size: int) -> Note | None:
        rows = self._database.execute(f"SELECT note FROM cosigned {where}", (size,))
        return read_note(rows[0]["note"], "a cosigned checkpoint") if rows else None

    def keep(self, note: Note, now_ms: int) -> None:
        """Remember that it was cosigned (inside the caller's transaction)."""
        self._database.execute(
            "INSERT INTO cosigned VALUES (?, ?, ?)", (note.checkpoint.size, note.text, now_ms)
        )

    def add(self, more: Note) -> None:
        """Keep others' cosignatures of a checkpoint that this site cosigned too, unchecked."""
        kept = self.at(more.checkpoint.size)
        if kept is None or kept.body != more.body:
            return
        text = kept.with_(more.signatures).text
        if text != kept.text and len(text.encode()) <= MAX_NOTE:
            self._database.execute(
                "UPDATE cosigned SET note = ? WHERE size = ?", (text, more.checkpoint.size)
            )

    def cosigned_ms(self) -> int | None:
        """When a checkpoint was first cosigned that is the last now, in Unix milliseconds."""
        rows = self._database.execute("SELECT cosigned_ms FROM cosigned ORDER BY size DESC LIMIT 1")
        return rows[0][0] if rows else None

    def forget(self, size: int) -> None:
        """Let go of what is beyond `size`: the log was begun anew, and begins only so far alike."""
        self._database.execute("DELETE FROM cosigned WHERE size > ?", (size,))
        self._database.execute("DELETE FROM included WHERE size > ?", (size,))

    def proven(self) -> int:
        """How many of the site's shared events, from the first on, were seen in the log."""
        rows = self._database.execute("SELECT coalesce(max(seq) + 1, 0) FROM included")
        return int(rows[0][0])

    def include(self, proofs: Sequence[Proven], seen: Checkpoint, now_ms: int) -> None:
        """Remember the site's events that a checkpoint was shown to hold, each after the last.

        Raises:
            RefusedError: a proof does not hold, leaves an event out, or turns the order round.
        """
        for proof in proofs:
            done = self.proven()
            if proof.seq > done:
                raise RefusedError(
                    "witness.inclusion", f"event {done} of this site is passed over in the log"
                )
            if not self._holds(proof, seen):
                raise RefusedError(
                    "witness.inclusion", f"no proof that event {proof.seq} of this site is logged"
                )
            if proof.seq == done:
                self._after_the_last(proof)
                self._database.execute(
                    "INSERT INTO included VALUES (?, ?, ?, ?, ?)",
                    (proof.seq, proof.index, seen.size, json.dumps(proof.path), now_ms),
                )

    def _holds(self, proof: Proven, seen: Checkpoint) -> bool:
        rows = self._database.execute("SELECT leaf FROM shared WHERE seq = ?", (proof.seq,))
        path: Proof = tuple(bytes.fromhex(step) for step in proof.path)
        return bool(rows) and merkle.includes(
            rows[0]["leaf"], proof.index, seen.size, path, seen.root
        )

    def _after_the_last(self, proof: Proven) -> None:
        rows = self._database.execute("SELECT max(position) FROM included")
        if rows[0][0] is not None and proof.index <= rows[0][0]:
            raise RefusedError(
                "witness.inclusion", f"event {proof.seq} of this site is out of its order"
            )
