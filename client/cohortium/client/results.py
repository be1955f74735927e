"""What a site's last evaluation says to the site alone: every model it has, nothing hidden."""

from collections.abc import Mapping
from dataclasses import dataclass

from cohortium.common.database import Database
from cohortium.common.document import Document, canonical, parse_json
from cohortium.common.metrics.tallies import SiteEvaluation


class Fit(Document):
    """How a site's own model was trained: passes over the patients, and at which rate."""

    passes: int
    learning_rate: float


class Recalibration(Document):
    """score -> expit(intercept + slope logit(score)), for the site's own use of the model."""

    intercept: float
    slope: float


class Results(Document):
    """Of one study, at its last evaluation, on this site's held-out patients.

    models: `federated` with the others beside it, then those of `own`, `recalibrated` and
    `personal` that the study asks for, as if they were it; every group, and no cell hidden.
    """

    models: Mapping[str, SiteEvaluation]
    recalibration: Recalibration | None = None
    own: Fit | None = None


@dataclass(frozen=True)
class Evaluation:
    """`leaves` after disclosure control; `stays`, of the last evaluation, is for the site alone."""

    leaves: SiteEvaluation
    stays: Results | None = None


class KeptResults:
    """One study's results each, in the site's database; they leave it through no message."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep(self, study: str, results: Results, now_ms: int) -> None:
        """Inside the caller's transaction; a later evaluation takes the place of an earlier one."""
        self._database.execute(
            "INSERT OR REPLACE INTO results VALUES (?, ?, ?)",
            (study, canonical(results).decode(), now_ms),
        )

    def of(self, study: str) -> Results | None:
        """None before the last evaluation, and after the data were withdrawn."""
        rows = self._database.execute("SELECT document FROM results WHERE study = ?", (study,))
        return parse_json(rows[0]["document"].encode(), Results, "stored results") if rows else None

    def forget(self, study: str) -> None:
        self._database.execute("DELETE FROM results WHERE study = ?", (study,))
