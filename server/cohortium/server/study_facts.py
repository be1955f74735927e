"""A study as evidence shows it: from the store and from what persons signed."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from cohortium.common.audit.audience import View
from cohortium.common.audit.events import timestamp
from cohortium.common.audit.evidence import (
    ESignature,
    FlagFacts,
    ModelFacts,
    RoundFacts,
    StudyFacts,
)
from cohortium.common.identity import VerifyKey
from cohortium.common.messages import Consent
from cohortium.common.metrics.performance import of_study
from cohortium.server.export import model_card
from cohortium.server.gates import final_evaluations
from cohortium.server.opened import Opened
from cohortium.server.release import (
    Dossier,
    Judged,
    examine,
    judge,
    no_whole_model,
    raise_flags,
    standing,
)
from cohortium.server.reports.blinding import audit_over_all_sites, over_all_sites
from cohortium.server.signed import Disposition, Kept, Released
from cohortium.server.store import RoundRecord, StudyRow


def study_facts(row: StudyRow, opened: Opened, view: View) -> StudyFacts:
    """Everything of one study that the view's audience may see."""
    study, rounds = row.study, opened.store.rounds(row.digest)
    hidden = row.digest in view.blinded
    evaluations = final_evaluations(study, rounds)
    measured = of_study(evaluations, study) if evaluations else ()
    facts = StudyFacts(
        study=study,
        digest=row.digest,
        state=row.state,
        cause=view.said(row.cause),
        submitted_at=moment(row.submitted_ms),
        ended_at=moment(row.ended_ms),
        consents={
            site: _consent(consent, view)
            for site, consent in opened.store.consents(row.digest).items()
        },
        rounds=tuple(_round(record, view) for record in rounds),
        evaluations={} if hidden else evaluations,
        performance=tuple(map(over_all_sites, measured)) if hidden else measured,
        blinded=hidden,
        secure_aggregation=False,  # this version has none
    )
    return _completed(facts, row, opened) if row.state == "completed" else facts


def moment(ms: int | None) -> str:
    """RFC 3339 in UTC of Unix milliseconds; "" for none."""
    return "" if ms is None else timestamp(datetime.fromtimestamp(ms / 1000, UTC))


def _completed(facts: StudyFacts, row: StudyRow, opened: Opened) -> StudyFacts:
    """With the audit, the flags and the model."""
    dossier = examine(row, opened.store, opened.log)
    judged = judge(dossier, opened.signatures)
    key = opened.signatures.public
    audit = dossier.audit
    if facts.blinded:
        audit = audit_over_all_sites(audit, len(row.study.sites.names))
    return replace(
        facts,
        audit=audit,
        flags=tuple(_flag(one, key, facts.blinded) for one in judged),
        model=_model(dossier, judged, opened, key),
    )


def _model(
    dossier: Dossier, judged: Sequence[Judged], opened: Opened, key: VerifyKey
) -> ModelFacts:
    found = standing(dossier, judged, opened.signatures)
    kept = found.release if found.holds else None
    return ModelFacts(
        sha256=dossier.model.sha256,
        bytes=dossier.model.bytes or 0,
        parameters=dossier.model.parameters,
        card=model_card(dossier, judged, kept, opened) if kept else "",
        release=_esignature(kept, key) if kept else None,
        overridden=len(kept.document.overridden) if kept else 0,
        reason=kept.document.reason if kept else found.problem or no_whole_model(dossier.row.study),
    )


def _flag(judged: Judged, key: VerifyKey, blinded: bool) -> FlagFacts:
    """A flag with its answer; of a blinded study without the site and what was measured there.

    Its id and the signed document are hashes and signatures that with few sites could be tried out.
    """
    flag, kept = judged.flag, judged.disposition
    hidden = blinded and flag.site is not None
    return FlagFacts(
        id="" if hidden else flag.id,
        gate=flag.gate,
        site=None if hidden else flag.site,
        text=f"one site: {flag.subject}" if hidden else flag.text,
        open=judged.open,
        decision=kept.document.decision if kept else "",
        reason=_reason(judged, hidden),
        signature=_esignature(kept, key) if kept and not hidden else None,
    )


def _reason(judged: Judged, hidden: bool) -> str:
    if judged.disposition is None:
        return judged.problem
    return "" if hidden else judged.problem or judged.disposition.document.reason


def _esignature(kept: Kept[Disposition] | Kept[Released], key: VerifyKey) -> ESignature:
    said = kept.document
    return ESignature(
        name=said.signer.name,
        user=said.signer.user,
        auth=said.signer.auth,
        role=said.signer.role,
        meaning=said.meaning,
        at=said.at,
        signed=hashlib.sha256(kept.raw).hexdigest(),
        key=key.text,
        signature=kept.signature.hex(),
    )


def _consent(consent: Consent, view: View) -> Consent:
    """A refusal's explanation may say who it was."""
    shown = "" if view.audience == "consortium" else consent.explanation
    return consent.model_copy(update={"explanation": shown})


def _round(record: RoundRecord, view: View) -> RoundFacts:
    return RoundFacts(
        round=record.round,
        seconds=record.seconds,
        replied=record.replied,
        missing=record.missing,
        refused={site: view.said(why) for site, why in record.refused.items()},
        received=record.received,
        spent=record.spent,
        left_out=record.left_out,
    )


def raise_all_flags(opened: Opened) -> None:
    """Record every flag of every completed study that nobody has looked at yet."""
    for row in opened.store.studies():
        if row.state == "completed":
            dossier = examine(row, opened.store, opened.log)
            raise_flags(dossier, opened.store, opened.log, opened.itself)
