"""Stored replies: a round asked for twice gets the same bytes and spends nothing."""

from dataclasses import dataclass

from cohortium.common.audit.events import Action
from cohortium.common.database import Database
from cohortium.common.envelope import Header
from cohortium.common.errors import RefusedError

PART_BYTES = 16 * 2**20
EVENTS: dict[str, Action] = {
    "update": "round.update.sent",
    "evaluated": "evaluation.completed",
    "calibrated": "evaluation.calibrated",
    "validated": "evaluation.validated",
}


@dataclass(frozen=True)
class Reply:
    """What was, or is about to be, answered: the message's kind and its packed body."""

    kind: str
    body: bytes

    @property
    def event(self) -> Action | None:
        """What the log calls it, if it says anything of patients."""
        return EVENTS.get(self.kind)


class Replies:
    """The last replies to each kind of request in each study; earlier rounds are closed for good.

    Two rounds are kept: a coordinator whose last checkpoint is damaged asks for one of them again.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, header: Header, request_sha256: bytes) -> Reply | None:
        """The stored reply to exactly this request, or None for a new round.

        Raises:
            RefusedError: another request for that round was answered, or the round is past.
        """
        rows = self._database.execute(
            "SELECT * FROM replies WHERE study = ? AND kind = ? AND round >= ? ORDER BY round",
            (header.study, header.kind, header.round),
        )
        if not rows:
            return None
        row = rows[0]
        if row["round"] > header.round:
            raise RefusedError("round.past", f"round {row['round']} has been answered already")
        if row["request_sha256"] != request_sha256:
            raise RefusedError(
                "round.changed", f"round {header.round} was answered for another request"
            )
        return Reply(
            row["reply_kind"], row["body"] + self._rest(header.study, header.kind, header.round)
        )

    def of(self, study: str, kind: str, round: int) -> tuple[bytes, Reply] | None:
        """What a round was answered, and the SHA-256 of the request that it was the answer to."""
        rows = self._database.execute(
            "SELECT * FROM replies WHERE study = ? AND kind = ? AND round = ?", (study, kind, round)
        )
        if not rows:
            return None
        (row,) = rows
        body = row["body"] + self._rest(study, kind, round)
        return row["request_sha256"], Reply(row["reply_kind"], body)

    def store(self, header: Header, request_sha256: bytes, reply: Reply) -> None:
        """Keep a reply (inside the caller's transaction) and drop those that nobody needs now."""
        self._database.execute(
            "DELETE FROM replies WHERE study = ? AND kind = ? AND round < ?",
            (header.study, header.kind, header.round - 1),
        )
        body = memoryview(reply.body)
        key = (header.study, header.round, header.kind)
        self._database.execute(
            "INSERT INTO replies VALUES (?, ?, ?, ?, ?, ?)",
            (*key, request_sha256, reply.kind, bytes(body[:PART_BYTES])),
        )
        for number, start in enumerate(range(PART_BYTES, len(body), PART_BYTES), start=1):
            part = bytes(body[start : start + PART_BYTES])
            insert = "INSERT INTO reply_parts VALUES (?, ?, ?, ?, ?)"
            self._database.execute(insert, (*key, number, part))

    def _rest(self, study: str, kind: str, round: int) -> bytes:
        """What of a large reply follows its first part."""
        rows = self._database.execute(
            "SELECT bytes FROM reply_parts WHERE study = ? AND round = ? AND kind = ? "
            "ORDER BY part",
            (study, round, kind),
        )
        return b"".join(row["bytes"] for row in rows)
