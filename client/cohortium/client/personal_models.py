"""Personal models (Ditto): one for each study, in the site's database, and in no message."""

import numpy as np

from cohortium.common.database import Database
from cohortium.common.messages import EMPTY, Vector

PART_BYTES = 16 * 2**20  # SQLite copies each value that it is given several times over


class PersonalModels:
    """float32 vectors (d,), each with the round after which it was kept."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep(self, study: str, round: int, model: Vector) -> None:
        """Replace a study's model.

        Inside the transaction that stores the round's reply: a round is trained once or not at all.
        """
        self.forget(study)
        raw = np.ascontiguousarray(model, dtype="<f4").tobytes()
        for part, start in enumerate(range(0, len(raw), PART_BYTES)):
            self._database.execute(
                "INSERT INTO personal_models VALUES (?, ?, ?, ?)",
                (study, part, round, raw[start : start + PART_BYTES]),
            )

    def of(self, study: str) -> Vector:
        """A study's model; empty where there is none."""
        rows = self._database.execute(
            "SELECT bytes FROM personal_models WHERE study = ? ORDER BY part", (study,)
        )
        raw = b"".join(row["bytes"] for row in rows)
        return np.frombuffer(raw, dtype="<f4").astype(np.float32) if raw else EMPTY

    def round_of(self, study: str) -> int:
        """After which round a study's model was kept; 0 for none."""
        rows = self._database.execute(
            "SELECT coalesce(max(round), 0) AS last FROM personal_models WHERE study = ?", (study,)
        )
        return int(rows[0]["last"])

    def forget(self, study: str) -> None:
        self._database.execute("DELETE FROM personal_models WHERE study = ?", (study,))
