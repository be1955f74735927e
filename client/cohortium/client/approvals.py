"""Approvals: no signature by the site's own key, no run.

A person reviews a study and lets the site's key sign a document that holds the study's digest and,
for people, what was agreed. Before every round the signature is verified again.
"""

from typing import Literal

from cohortium.common.database import Database
from cohortium.common.document import Document, canonical, digest, parse_json
from cohortium.common.errors import RefusedError, SignatureError
from cohortium.common.identity import SigningKey, VerifyKey
from cohortium.common.study import Study

CONTEXT = b"cohortium-approval-v1\n"


class Approval(Document):
    """What one person agreed to, for one site."""

    v: Literal[1] = 1
    study: str
    study_name: str
    site: str
    person: str
    meaning: Literal["approval of this study on this site's data"] = (
        "approval of this study on this site's data"
    )
    at: str
    schema_digest: str
    dataset: str
    columns: tuple[str, ...]
    rounds: int
    epsilon: float | None
    delta: float | None
    sites: tuple[str, ...]


def approval_of(study: Study, site: str, person: str, at: str) -> Approval:
    """Spell out what an approval of this study means."""
    return Approval(
        study=study.digest,
        study_name=study.name,
        site=site,
        person=person,
        at=at,
        schema_digest=digest(study.data_model),
        dataset=study.data.dataset,
        columns=study.columns_read,
        rounds=study.training.rounds,
        epsilon=study.privacy.epsilon,
        delta=study.privacy.delta,
        sites=study.sites.names,
    )


class Approvals:
    """The table of signed approvals."""

    def __init__(self, database: Database, key: VerifyKey) -> None:
        self._database = database
        self._key = key

    def add(self, approval: Approval, key: SigningKey) -> None:
        """Sign and store; the same person approving twice changes nothing."""
        document = canonical(approval)
        self._database.execute(
            "INSERT INTO approvals VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (approval.study, approval.person, document, key.sign(CONTEXT + document)),
        )

    def withdraw(self, study: str) -> None:
        self._database.execute("DELETE FROM approvals WHERE digest = ?", (study,))

    def of(self, study: Study, site: str) -> list[Approval]:
        """The approvals whose signature holds and that say exactly what this study says."""
        rows = self._database.execute(
            "SELECT document, signature FROM approvals WHERE digest = ? ORDER BY person",
            (study.digest,),
        )
        found = []
        for row in rows:
            try:
                self._key.verify(row["signature"], CONTEXT + row["document"])
            except SignatureError:
                continue
            approval = parse_json(row["document"], Approval, "stored approval")
            if approval == approval_of(study, site, approval.person, approval.at):
                found.append(approval)
        return found

    def require(self, study: Study, site: str) -> list[Approval]:
        """Raises RefusedError unless somebody approved exactly this study."""
        found = self.of(study, site)
        if not found:
            raise RefusedError(
                "approval.missing",
                f'nobody at this site has approved study "{study.name}" ({study.digest[:12]}); '
                f"the site operator runs `cohortium site approve {study.name} --as PERSON`",
            )
        return found
