"""The coordinator's durable record: studies, consents, rounds and the checkpoint to go on from."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from cohortium.common.database import Database
from cohortium.common.document import Document, canonical, parse_json
from cohortium.common.errors import UsageError
from cohortium.common.messages import Consent, Spent, Validated
from cohortium.common.metrics.calibration import PooledCalibration
from cohortium.common.metrics.summary import Summary
from cohortium.common.metrics.tallies import SiteEvaluation
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.study import Study

State = Literal["submitted", "running", "completed", "failed", "stopped"]


class RoundRecord(Document):
    """What happened in a round, as far as the coordinator may know it.

    `received`: bytes by site and kind of message; `refused`: "rule: explanation" by site.
    `left_out`: the site that the round's track trains without; empty for the main model.
    `calibration` is of the final model: in the last round's record alone.
    `validation`: the loss on each site's validation patients. Of the last round alone `best`, the
    round whose model is the final one by it, 0 where nobody could tell; and `stopped`, why training
    stopped before, so that nobody trained in this round.
    """

    round: int
    seconds: float
    received: Mapping[str, Mapping[str, int]]
    replied: tuple[str, ...]
    missing: tuple[str, ...]
    refused: Mapping[str, str]
    spent: Mapping[str, Spent]
    evaluations: Mapping[str, SiteEvaluation]
    summary: Summary | None
    left_out: str = ""
    calibration: PooledCalibration | None = None
    validation: Mapping[str, Validated] = {}
    best: int = 0
    stopped: str = ""


def of_main_model(records: Iterable[RoundRecord]) -> list[RoundRecord]:
    """The rounds of the model over all sites, the one that is reported and released."""
    return [record for record in records if not record.left_out]


@dataclass(frozen=True)
class StudyRow:
    """A study with its state.

    cause: why it failed or was stopped, and `next_step` what helps; progress: what it does now.
    resumed_after: the round after which somebody last resumed it; 0 if nobody did.
    """

    study: Study
    digest: str
    state: State
    cause: str
    progress: str
    next_step: str
    stop_by: str
    resumed_after: int
    submitted_ms: int
    ended_ms: int | None

    @property
    def ended(self) -> bool:
        return self.state in ("completed", "failed", "stopped")


class Store:
    """Every change is durable when the method returns, or when the caller's transaction ends."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def submit(self, study: Study, now_ms: int) -> StudyRow:
        """Queue a study; submitting the same one again changes nothing.

        Raises:
            UsageError: another study has that name.
        """
        rows = self.database.execute("SELECT digest FROM studies WHERE name = ?", (study.name,))
        if rows and rows[0]["digest"] != study.digest:
            raise UsageError(
                f'another study is named "{study.name}" ({rows[0]["digest"][:12]}); '
                "give this one another name"
            )
        if not rows:
            self.database.execute(
                "INSERT INTO studies (digest, name, canonical, state, cause, progress, stop_by, "
                "submitted_ms) VALUES (?, ?, ?, 'submitted', '', 'queued', '', ?)",
                (study.digest, study.name, canonical(study), now_ms),
            )
        return self.study(study.name)

    def study(self, name: str) -> StudyRow:
        """A study by name, or by 8 or more digits of its digest."""
        rows = self.database.execute(
            "SELECT * FROM studies WHERE name = ? OR (length(?) >= 8 "
            "AND substr(digest, 1, length(?)) = ?) ORDER BY name <> ?",
            (name, name, name, name, name),
        )
        if not rows:
            known = ", ".join(row.study.name for row in self.studies()) or "none yet"
            raise UsageError(f'no study "{name}" was submitted here; known: {known}')
        row = rows[0]
        return StudyRow(
            study=parse_json(row["canonical"], Study, "stored study"),
            digest=row["digest"],
            state=row["state"],
            cause=row["cause"],
            progress=row["progress"],
            next_step=row["next_step"],
            stop_by=row["stop_by"],
            resumed_after=row["resumed_after"],
            submitted_ms=row["submitted_ms"],
            ended_ms=row["ended_ms"],
        )

    def studies(self) -> list[StudyRow]:
        """All studies in the order of submission."""
        rows = self.database.execute("SELECT name FROM studies ORDER BY submitted_ms, name")
        return [self.study(row["name"]) for row in rows]

    def begin(self, digest: str) -> None:
        self.database.execute("UPDATE studies SET state = 'running' WHERE digest = ?", (digest,))

    def end(self, digest: str, state: State, cause: str, next_step: str, now_ms: int) -> None:
        """Put a study into a terminal state, with its cause and what helps."""
        self.database.execute(
            "UPDATE studies SET state = ?, cause = ?, next_step = ?, progress = '', ended_ms = ? "
            "WHERE digest = ?",
            (state, cause, next_step, now_ms, digest),
        )

    def resume(self, digest: str) -> None:
        """Queue an ended study again: its sites are asked anew, its rounds go on."""
        with self.database.transaction():
            self.database.execute(
                "UPDATE studies SET state = 'submitted', cause = '', next_step = '', stop_by = '', "
                "progress = 'queued', ended_ms = NULL, resumed_after = "
                "(SELECT coalesce(max(round), 0) FROM rounds WHERE study = digest) "
                "WHERE digest = ?",
                (digest,),
            )
            for table in ("consents", "farewells"):
                self.database.execute(f"DELETE FROM {table} WHERE study = ?", (digest,))

    def told(self, digest: str, site: str, now_ms: int) -> None:
        """A site has confirmed that it knows of a study's end."""
        self.database.execute(
            "INSERT INTO farewells VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (digest, site, now_ms)
        )

    def untold(self, digest: str) -> tuple[str, ...]:
        """The sites that have decided about a study and have not confirmed that they know its end.

        A site that was never reached is not among them.
        """
        rows = self.database.execute(
            "SELECT site FROM consents WHERE study = ? AND site NOT IN "
            "(SELECT site FROM farewells WHERE study = ?) ORDER BY site",
            (digest, digest),
        )
        return tuple(row["site"] for row in rows)

    def say(self, digest: str, progress: str) -> None:
        """What the study is doing, for those who watch."""
        self.database.execute(
            "UPDATE studies SET progress = ? WHERE digest = ? AND progress <> ?",
            (progress, digest, progress),
        )

    def ask_to_stop(self, digest: str, by: str) -> None:
        self.database.execute(
            "UPDATE studies SET stop_by = ? WHERE digest = ? AND stop_by = ''", (by, digest)
        )

    def stop_requested(self, digest: str) -> str:
        """Who asked the study to stop, or nothing."""
        rows = self.database.execute("SELECT stop_by FROM studies WHERE digest = ?", (digest,))
        return str(rows[0]["stop_by"]) if rows else ""

    def keep_statistics(self, digest: str, statistics: Statistics) -> None:
        """What all sites scale by, once for the whole study."""
        self.database.execute(
            "UPDATE studies SET statistics = ? WHERE digest = ?",
            (canonical(statistics).decode(), digest),
        )

    def statistics(self, digest: str) -> Statistics | None:
        rows = self.database.execute("SELECT statistics FROM studies WHERE digest = ?", (digest,))
        text = rows[0]["statistics"] if rows else None
        return parse_json(text.encode(), Statistics, "stored statistics") if text else None

    def decide(self, digest: str, site: str, consent: Consent, now_ms: int) -> None:
        """Keep a site's last word."""
        self.database.execute(
            "INSERT INTO consents VALUES (?, ?, ?, ?, ?) ON CONFLICT (study, site) DO UPDATE "
            "SET decision = excluded.decision, body = excluded.body, at_ms = excluded.at_ms",
            (digest, site, consent.decision, canonical(consent), now_ms),
        )

    def consents(self, digest: str) -> dict[str, Consent]:
        rows = self.database.execute(
            "SELECT site, body FROM consents WHERE study = ? ORDER BY site", (digest,)
        )
        return {row["site"]: parse_json(row["body"], Consent, "stored consent") for row in rows}

    def record(self, digest: str, record: RoundRecord) -> None:
        """Keep a finished round; one that is run again takes the place of the first."""
        self.database.execute(
            "INSERT OR REPLACE INTO rounds VALUES (?, ?, ?)",
            (digest, record.round, canonical(record).decode()),
        )

    def flag_event(self, digest: str, flag: str) -> str:
        """The event that raised a flag of a study, by the flag's digest; nothing if none has."""
        rows = self.database.execute(
            "SELECT event FROM flags WHERE study = ? AND digest = ?", (digest, flag)
        )
        return str(rows[0]["event"]) if rows else ""

    def keep_flag(self, digest: str, flag: str, event: str) -> None:
        """A flag is raised once."""
        self.database.execute("INSERT INTO flags VALUES (?, ?, ?)", (digest, flag, event))

    def evidence(self, digest: str) -> str:
        """SHA-256 over all rounds as they are stored, hex: what report and audit are made from."""
        rows = self.database.execute(
            "SELECT record FROM rounds WHERE study = ? ORDER BY round", (digest,)
        )
        total = hashlib.sha256()
        for row in rows:
            total.update(hashlib.sha256(row["record"].encode()).digest())
        return total.hexdigest()

    def rounds(self, digest: str, after: int = 0) -> list[RoundRecord]:
        rows = self.database.execute(
            "SELECT record FROM rounds WHERE study = ? AND round > ? ORDER BY round",
            (digest, after),
        )
        return [parse_json(row["record"].encode(), RoundRecord, "stored round") for row in rows]
