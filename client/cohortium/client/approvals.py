"""Approvals: no signature by the site's own key, no run.

A person reviews a study and lets the site's key sign a document that holds the study's digest and,
for people, what was agreed: on which data, by which code, until when. Before every round signature
and facts are verified again; what has changed since is no longer approved.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from cohortium.common.audit.documents import thing_of
from cohortium.common.audit.events import Thing
from cohortium.common.database import Database
from cohortium.common.document import Document, canonical, digest, parse_json
from cohortium.common.errors import RefusedError, SignatureError
from cohortium.common.evaluating import other_models
from cohortium.common.identity import SigningKey, VerifyKey
from cohortium.common.study import Study

CONTEXT = b"cohortium-approval-v1\n"


@dataclass(frozen=True)
class Facts:
    """What an approval relies on besides the study: the installed code and the table's content."""

    code: str
    data: str


class Approval(Document):
    """What one person agreed to, for one site. Times are RFC 3339 in UTC."""

    v: Literal[1] = 1
    study: str
    study_name: str
    site: str
    person: str
    meaning: Literal["approval of this study on this site's data"] = (
        "approval of this study on this site's data"
    )
    at: str
    expires: str
    code: str
    data: str
    schema_digest: str
    dataset: str
    purpose: str
    columns: tuple[str, ...]
    leaves: tuple[str, ...]
    rounds: int
    epsilon: float | None
    delta: float | None
    sites: tuple[str, ...]

    @property
    def thing(self) -> Thing:
        """How the event of an approval names it."""
        return thing_of("approval", canonical(self))


def leaves(study: Study, site: str = "") -> tuple[str, ...]:
    """The kinds of message with something of the patients in them that a study asks a site for.

    Args:
        site: if it only evaluates, it is asked for less.
    """
    if site in study.sites.evaluate_only:
        return ("evaluated",)
    extra = ("measured",) if study.measures_first else ()
    return ("update", "evaluated", *extra)


def compared(study: Study, site: str = "") -> tuple[str, ...]:
    """The models without noise beside which a study wants the results of a site's patients."""
    if site in study.sites.evaluate_only:
        return ()  # nobody there to train them on
    return other_models(study.evaluation, study.mitigation)


def approval_of(
    study: Study, site: str, person: str, at: str, expires: str, facts: Facts
) -> Approval:
    """Spell out what an approval of this study means here and now."""
    return Approval(
        study=study.digest,
        study_name=study.name,
        site=site,
        person=person,
        at=at,
        expires=expires,
        code=facts.code,
        data=facts.data,
        schema_digest=digest(study.data_model),
        dataset=study.data.dataset,
        purpose=study.purpose.duo,
        columns=study.columns_read,
        leaves=(
            *leaves(study, site),
            *(f"evaluated beside {name}" for name in compared(study, site)),
        ),
        rounds=study.rounds_at_a_site,
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
        """Sign and store; a later approval by the same person replaces the earlier one."""
        document = canonical(approval)
        self._database.execute(
            "INSERT INTO approvals VALUES (?, ?, ?, ?) ON CONFLICT (digest, person) DO UPDATE "
            "SET document = excluded.document, signature = excluded.signature",
            (approval.study, approval.person, document, key.sign(CONTEXT + document)),
        )

    def withdraw(self, study: str) -> list[str]:
        """Delete a study's approvals; whose they were."""
        rows = self._database.execute(
            "DELETE FROM approvals WHERE digest = ? RETURNING person", (study,)
        )
        return sorted(row["person"] for row in rows)

    def of(
        self, study: Study, site: str, facts: Callable[[], Facts], now: datetime
    ) -> list[Approval]:
        """The approvals that hold: signed by our key, of exactly this study, code and data.

        Args:
            facts: asked only where something is signed: before, nothing looks at the data.
        """
        signed = self._signed(study)
        found = facts() if signed else None
        return [a for a in signed if found and _problem(a, study, site, found, now) is None]

    def require(
        self, study: Study, site: str, facts: Callable[[], Facts], now: datetime, needed: int
    ) -> list[Approval]:
        """The approvals that hold.

        Raises:
            RefusedError: fewer than `needed` persons; says why an approval no longer holds.
        """
        found = self.of(study, site, facts, now)
        if len(found) >= needed:
            return found
        signed = self._signed(study)
        problems = [_problem(a, study, site, facts(), now) for a in signed]
        raise next((p for p in problems if p is not None), None) or RefusedError(
            "approval.missing" if not found else "approval.second",
            f'study "{study.name}" ({study.digest[:12]}) has {len(found)} of {needed} approvals at '
            f"this site; the site operator runs `cohortium site approve {study.name} --as PERSON`",
        )

    def _signed(self, study: Study) -> list[Approval]:
        rows = self._database.execute(
            "SELECT document, signature FROM approvals WHERE digest = ? ORDER BY person",
            (study.digest,),
        )
        return [
            parse_json(row["document"], Approval, "stored approval")
            for row in rows
            if self._is_ours(row["document"], row["signature"])
        ]

    def _is_ours(self, document: bytes, signature: bytes) -> bool:
        try:
            self._key.verify(signature, CONTEXT + document)
        except SignatureError:
            return False
        return True


def _problem(
    approval: Approval, study: Study, site: str, facts: Facts, now: datetime
) -> RefusedError | None:
    """Why an approval does not hold at this moment, if so."""
    again = f"the site operator reviews and approves {study.name} again"
    if datetime.fromisoformat(approval.expires) <= now.astimezone(UTC):
        return RefusedError("approval.expired", f"{approval.person}'s approval expired; {again}")
    if approval.code != facts.code:
        return RefusedError("approval.code", f"the installed code changed since; {again}")
    if approval.data != facts.data:
        return RefusedError("approval.data", f"the table changed since; {again}")
    now_says = approval_of(study, site, approval.person, approval.at, approval.expires, facts)
    if approval != now_says:
        return RefusedError("approval.study", f"it is of another study; {again}")
    return None
