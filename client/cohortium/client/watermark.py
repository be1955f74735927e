"""The high-water mark beside site.db: a database from an old backup must not forget what was spent.

commit -> mark, fsynced -> the answer leaves. A kill before the mark leaves it behind the database,
which is fine and mended at the next answer: what the mark does not know has not left. A database
behind its mark has lost something that has left, and answers nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cohortium.client.config import write_whole
from cohortium.common.database import Database
from cohortium.common.document import Document, canonical, parse_json
from cohortium.common.errors import CohortiumError, ProtocolError

ACCEPT = (
    "the site operator runs `cohortium site accept-loss --as PERSON`, which counts what is missing "
    "as spent"
)
_ALL = 2**62


class LostRecords(CohortiumError):
    """The database does not hold what this site has already answered."""


class Account(Document):
    """What a study took of a dataset with one noise: `noise` is a mechanism without its steps."""

    dataset: str
    study: str
    noise: str
    steps: int


class Mark(Document):
    """What the database held: rows of the ledger and their sum, events and the last one's leaf."""

    v: Literal[1] = 1
    ledger: int
    events: int
    leaf: str
    spent: tuple[Account, ...]


@dataclass(frozen=True)
class Loss:
    """What is missing: in words for the operator, and what has to be counted as spent."""

    words: str
    accounts: tuple[Account, ...]


class Watermark:
    """Reads and raises the mark of one database."""

    def __init__(self, path: Path, database: Database) -> None:
        self._path = path
        self._database = database
        self._file = _identity(database.path)

    def check(self) -> None:
        """Raise LostRecords where the database is behind its mark, or its file was replaced."""
        if _identity(self._database.path) != self._file:
            raise LostRecords(
                f"{self._database.path}: was replaced or removed while it was open; the site "
                "operator starts `cohortium site up` again"
            )
        loss = self.loss()
        if loss is not None:
            raise LostRecords(loss.words)

    def keep(self) -> None:
        """Raise the mark to what the database holds now; durable when it returns.

        Raises:
            LostRecords: the database is behind it.
            CohortiumError: it cannot be written.
        """
        with self._database.transaction():  # one keeper at a time, here and in other processes
            self.check()
            self._write()

    def renew(self) -> None:
        """Let the mark be what the database holds, whatever it was: a person accepted the loss."""
        with self._database.transaction():
            self._write()

    def loss(self) -> Loss | None:
        """What the database lacks of what the mark knows; None for a whole one."""
        try:
            mark = self._read()
        except ProtocolError:
            words = f"{self._path}: is damaged; restore it, or {ACCEPT}"
            return Loss(words, self._set_aside())
        if mark is None:
            return None
        found = self._state(mark.ledger, mark.events)
        if found == mark:
            return None
        return Loss(self._in_words(mark, found), self._missing(mark))

    def _read(self) -> Mark | None:
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CohortiumError(f"{self._path}: cannot be read ({error.strerror})") from None
        return parse_json(raw, Mark, str(self._path))

    def _write(self) -> None:
        state = canonical(self._state(_ALL, _ALL)).decode()
        if not self._path.exists() or self._path.read_text(encoding="utf-8") != state:
            write_whole(self._path, state)

    def _state(self, ledger: int, events: int) -> Mark:
        """What the first rows of the database amount to: so many of the ledger, so many events."""
        (rows,) = self._database.execute(
            "SELECT coalesce(max(id), 0) AS last FROM ledger WHERE id <= ?", (ledger,)
        )
        last = self._database.execute(
            "SELECT seq, leaf FROM events WHERE seq < ? ORDER BY seq DESC LIMIT 1", (events,)
        )
        return Mark(
            ledger=rows["last"],
            events=last[0]["seq"] + 1 if last else 0,
            leaf=last[0]["leaf"].hex() if last else "",
            spent=self._accounts(ledger),
        )

    def _accounts(self, ledger: int) -> tuple[Account, ...]:
        rows = self._database.execute(
            "SELECT dataset, study, json_remove(mechanism, '$.steps') AS noise, "
            "sum(mechanism ->> '$.steps') AS steps FROM ledger WHERE id <= ? "
            "GROUP BY dataset, study, noise ORDER BY dataset, study, noise",
            (ledger,),
        )
        return tuple(Account(**dict(row)) for row in rows)

    def _missing(self, mark: Mark) -> tuple[Account, ...]:
        have = {(a.dataset, a.study, a.noise): a.steps for a in self._accounts(_ALL)}
        short = [(a, a.steps - have.get((a.dataset, a.study, a.noise), 0)) for a in mark.spent]
        return tuple(a.model_copy(update={"steps": steps}) for a, steps in short if steps > 0)

    def _set_aside(self) -> tuple[Account, ...]:
        """Where the mark says nothing, all that running studies might have spent meanwhile."""
        rows = self._database.execute(
            "SELECT dataset, study, json_remove(mechanism, '$.steps') AS noise, "
            "(mechanism ->> '$.steps') - coalesce((SELECT sum(ledger.mechanism ->> '$.steps') "
            "FROM ledger WHERE ledger.study = reservations.study "
            "AND ledger.purpose = reservations.purpose), 0) AS steps "
            "FROM reservations WHERE released_ms IS NULL"
        )
        return tuple(Account(**dict(row)) for row in rows if row["steps"] > 0)

    def _in_words(self, mark: Mark, found: Mark) -> str:
        path = self._database.path
        rows, events = mark.ledger - found.ledger, mark.events - found.events
        if not rows and not events:
            return (
                f"{path}: is another one than {self._path.name} was written for; put that one "
                f"back, or {ACCEPT}"
            )
        return (
            f"{path}: lacks {rows} of {mark.ledger} rows of the privacy ledger and {events} of "
            f"{mark.events} events that were there when this site last answered; put the newer one "
            f"back, or {ACCEPT}"
        )


def _identity(path: Path) -> tuple[int, int]:
    """Device and inode; of a file that is gone, none."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_dev, found.st_ino)
