"""What of a study's model does not travel: it comes once, and is put beside whatever comes then.

What of it is frozen stays as it came; what is this site's own (`transfer.own`) moves with each
round that the site trains, and is in no message.
"""

import hashlib

import numpy as np

from cohortium.client.site import Site
from cohortium.common.database import Database
from cohortium.common.errors import ProtocolError, RefusedError
from cohortium.common.messages import EMPTY, Vector
from cohortium.common.study import Study

PART_BYTES = 16 * 2**20  # SQLite copies each value that it is given several times over


class Held:
    """A float32 vector (held,) for each study, with the SHA-256 of the one that came."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, study: str, came: Vector) -> bool:
        """Keep what came; False where it is here already, which changes nothing.

        Raises:
            RefusedError: other parameters came before.
        """
        digest = _sha256(came)
        before = self._database.execute(
            "SELECT came_sha256 FROM held_parameters WHERE study = ? AND part = 0", (study,)
        )
        if before and before[0]["came_sha256"] != digest:
            raise RefusedError(
                "transfer.held", "other parameters came before; they are the same all study long"
            )
        if not before:
            self._keep(study, digest, came)
        return not before

    def move(self, study: str, by: Vector) -> None:
        """What is this site's own was trained: add the change of all that is held, (held,)."""
        rows = self._database.execute(
            "SELECT came_sha256 FROM held_parameters WHERE study = ? AND part = 0", (study,)
        )
        moved = self.of(study) + by
        self.forget(study)
        self._keep(study, rows[0]["came_sha256"], moved)

    def of(self, study: str) -> Vector:
        """A study's parameters; empty where none have come."""
        rows = self._database.execute(
            "SELECT bytes FROM held_parameters WHERE study = ? ORDER BY part", (study,)
        )
        raw = b"".join(row["bytes"] for row in rows)
        return np.frombuffer(raw, dtype="<f4").astype(np.float32) if raw else EMPTY

    def forget(self, study: str) -> None:
        self._database.execute("DELETE FROM held_parameters WHERE study = ?", (study,))

    def _keep(self, study: str, digest: bytes, vector: Vector) -> None:
        raw = np.ascontiguousarray(vector, dtype="<f4").tobytes()
        for part, start in enumerate(range(0, len(raw), PART_BYTES)):
            self._database.execute(
                "INSERT INTO held_parameters VALUES (?, ?, ?, ?)",
                (study, part, digest, raw[start : start + PART_BYTES]),
            )


def whole(site: Site, study: Study, came: Vector, travelling: int | None) -> Vector:
    """The model of which `came` is what travels: float32 (parameters,).

    Args:
        travelling: how long that is by the study; who asks has no say in what leaves.

    Raises:
        RefusedError: the rest of it has not come.
        ProtocolError: `came` has another length.
    """
    if travelling is None:
        return came
    if len(came) != travelling:
        raise ProtocolError(
            f"parameters: got {len(came)}, and {travelling} of this study's model travel; the "
            "sender must use the study's own model"
        )
    held = Held(site.database).of(study.digest)
    if not len(held):
        raise RefusedError("transfer.held", "the parameters that do not travel have not come")
    return np.concatenate([came, held])


def leaving(study: Study, delta: Vector, travelling: int) -> Vector:
    """What of an update leaves: the change of the parameters that travel, the vector's first."""
    return delta[:travelling].copy() if study.transfer.holds else delta


def _sha256(vector: Vector) -> bytes:
    return hashlib.sha256(vector.astype("<f4", copy=False).data).digest()
