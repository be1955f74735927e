"""Where a party's events go as they happen: the hospital's or consortium's SIEM."""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cohortium.common import daemon
from cohortium.common.database import Database
from cohortium.common.document import Document

logger = logging.getLogger("cohortium.siem")

STATE_FILE = "siem.json"  # in a state directory: what the stream last said of itself


class SiemConfig(Document):
    """`[siem]` in site.toml or coordinator.toml: syslog over TLS (RFC 5425).

    ca: PEM file of the authority that signed the receiver's certificate; the system's without it.
    certificate, key: PEM files of our own, where the receiver asks for a client's certificate.
    Files are found from the state directory.
    """

    host: Annotated[str, Field(min_length=1, max_length=253)]
    port: Annotated[int, Field(ge=1, le=65_535)] = 6514
    format: Literal["ecs", "cef"] = "ecs"
    ca: Annotated[Path, Field(strict=False)] | None = None
    certificate: Annotated[Path, Field(strict=False)] | None = None
    key: Annotated[Path, Field(strict=False)] | None = None

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both or neither")
        return self

    @property
    def target(self) -> str:
        """Who receives: what a cursor is kept for, and what people are told."""
        return f"{self.host}:{self.port}"


class Cursor:
    """Up to where a receiver is known to have read a log; kept in the table `streams`."""

    def __init__(self, database: Database, target: str) -> None:
        self._database = database
        self._target = target

    def next(self) -> int:
        """The first event that may still have to be sent."""
        rows = self._database.execute("SELECT next FROM streams WHERE target = ?", (self._target,))
        return int(rows[0]["next"]) if rows else 0

    def advance(self, seq: int) -> None:
        """All before `seq` has been read; durable when it returns."""
        self._database.execute(
            "INSERT INTO streams VALUES (?, ?) ON CONFLICT (target) "
            "DO UPDATE SET next = max(next, excluded.next)",
            (self._target, seq),
        )


@dataclass(frozen=True)
class Standing:
    """How a stream is: events that the receiver has not confirmed, since when, and why.

    `since` is the time of the oldest of them, RFC 3339, "" where there is none.
    """

    target: str
    behind: int
    since: str
    trouble: str

    @property
    def text(self) -> str:
        """For people, in one line."""
        if not self.behind:
            also = f" ({self.trouble})" if self.trouble else ""
            return f"SIEM {self.target}: has every event{also}"
        events = f"{self.behind} event{'s' if self.behind > 1 else ''}"
        if not self.trouble:
            return f"SIEM {self.target}: {events} on the way since {self.since}"
        return f"SIEM {self.target}: {events} behind since {self.since}: {self.trouble}"


def standing(config: SiemConfig, database: Database, state: Path, running: bool) -> Standing:
    """How the stream of a directory is, as anybody beside the daemon can see it.

    Args:
        state: the file that `say` wrote.
        running: whether the daemon does.
    """
    rows = database.execute(
        "SELECT count(*) AS behind, min(seq) AS first FROM events WHERE seq >= ? AND line <> ''",
        (Cursor(database, config.target).next(),),
    )
    behind, first = int(rows[0]["behind"]), rows[0]["first"]
    since = ""
    if behind:
        (row,) = database.execute("SELECT line FROM events WHERE seq = ?", (first,))
        since = str(json.loads(row["line"])["ts"])
    trouble = said(state, config.target) if running else "the daemon does not run"
    return Standing(config.target, behind, since, trouble)


def say(state: Path, target: str, trouble: str) -> None:
    """What keeps the stream from going on; "" where nothing does. For `standing` elsewhere."""
    try:
        daemon.say(state, pid=os.getpid(), target=target, trouble=trouble)
    except OSError as error:
        logger.error("%s: cannot be written (%s)", state, error.strerror)


def said(state: Path, target: str) -> str:
    """What the running daemon's stream to a target last said."""
    facts = daemon.said(state)
    if facts.get("target") != target:
        return "the daemon does not know of it: restart the daemon"
    return str(facts.get("trouble", ""))
