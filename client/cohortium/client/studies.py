"""The studies that a site has been asked to join, as it received them."""

from dataclasses import dataclass
from typing import Literal

from cohortium.common.database import Database
from cohortium.common.document import canonical, parse_json
from cohortium.common.errors import RefusedError, UsageError
from cohortium.common.study import Study

State = Literal["waiting", "approved", "rejected", "stopped", "ended"]
UNFINISHED = ("failed", "stopped")  # what the coordinator may propose again after ending it so


@dataclass(frozen=True)
class KnownStudy:
    """A study with what this site has made of it; `note` says by whom or why."""

    study: Study
    digest: str
    state: State
    note: str
    received_ms: int

    @property
    def over(self) -> bool:
        """Whether the coordinator has ended it for good."""
        return self.state == "ended" and self.note not in UNFINISHED

    @property
    def closed(self) -> bool:
        """Whether it cannot be proposed again: it is over, or people here said no."""
        return self.over or self.state in ("rejected", "stopped")


class Studies:
    """The table of received studies; a study is never changed, only its state."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def receive(self, study: Study, now_ms: int) -> KnownStudy:
        """Remember a study; asked again, it stays what it was."""
        self._database.execute(
            "INSERT INTO studies VALUES (?, ?, ?, 'waiting', '', ?) ON CONFLICT DO NOTHING",
            (study.digest, study.name, canonical(study), now_ms),
        )
        return self.by_digest(study.digest)

    def by_digest(self, digest: str) -> KnownStudy:
        """The study of a request; RefusedError when it was never proposed here."""
        rows = self._database.execute("SELECT * FROM studies WHERE digest = ?", (digest,))
        if not rows:
            raise RefusedError("study.unknown", "this site was never invited to that study")
        (row,) = rows
        study = parse_json(row["canonical"], Study, "stored study")
        return KnownStudy(study, digest, row["state"], row["note"], row["received_ms"])

    def by_name(self, name: str) -> KnownStudy:
        """What a person means by a name, or by the first 8 or more digits of a digest."""
        rows = self._database.execute(
            "SELECT digest FROM studies WHERE name = ? "
            "OR (length(?) >= 8 AND substr(digest, 1, length(?)) = ?) ORDER BY received_ms DESC",
            (name, name, name, name),
        )
        if not rows:
            known = ", ".join(sorted({item.study.name for item in self.all()})) or "none yet"
            raise UsageError(f'no study "{name}" has reached this site; known: {known}')
        if len(rows) > 1:
            digests = ", ".join(row["digest"][:12] for row in rows)
            raise UsageError(f'"{name}" is the name of several studies: give one of {digests}')
        return self.by_digest(rows[0]["digest"])

    def all(self) -> list[KnownStudy]:
        """Every study, newest first."""
        rows = self._database.execute("SELECT digest FROM studies ORDER BY received_ms DESC")
        return [self.by_digest(row["digest"]) for row in rows]

    def approved_before(self, known: KnownStudy) -> Study | None:
        """The study on the same dataset that a person here approved last, another than `known`."""
        rows = self._database.execute(
            "SELECT digest FROM approvals WHERE digest <> ? "
            "GROUP BY digest ORDER BY max(CAST(document AS TEXT) ->> '$.at') DESC, max(rowid) DESC",
            (known.digest,),
        )
        studies = (self.by_digest(row["digest"]).study for row in rows)
        same = (s for s in studies if s.data.dataset == known.study.data.dataset)
        return next(same, None)

    def mark(self, digest: str, state: State, note: str) -> None:
        self._database.execute(
            "UPDATE studies SET state = ?, note = ? WHERE digest = ?", (state, note, digest)
        )
