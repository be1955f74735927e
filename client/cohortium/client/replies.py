"""Stored replies: a round asked for twice gets the same bytes and spends nothing."""

import hashlib
from dataclasses import dataclass

from cohortium.common.database import Database
from cohortium.common.envelope import Header
from cohortium.common.errors import RefusedError


@dataclass(frozen=True)
class Reply:
    """What was, or is about to be, answered: the message's kind and its packed body."""

    kind: str
    body: bytes


class Replies:
    """The last replies to each kind of request in each study; earlier rounds are closed for good.

    Two rounds are kept: a coordinator whose last checkpoint is damaged asks for one of them again.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, header: Header, body: bytes | memoryview) -> Reply | None:
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
        if row["request_sha256"] != hashlib.sha256(body).digest():
            raise RefusedError(
                "round.changed", f"round {header.round} was answered for another request"
            )
        return Reply(row["reply_kind"], row["body"])

    def store(self, header: Header, body: bytes | memoryview, reply: Reply) -> None:
        """Keep a reply (inside the caller's transaction) and drop those that nobody needs now."""
        self._database.execute(
            "DELETE FROM replies WHERE study = ? AND kind = ? AND round < ?",
            (header.study, header.kind, header.round - 1),
        )
        self._database.execute(
            "INSERT INTO replies VALUES (?, ?, ?, ?, ?, ?)",
            (
                header.study,
                header.round,
                header.kind,
                hashlib.sha256(body).digest(),
                reply.kind,
                reply.body,
            ),
        )
