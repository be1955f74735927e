"""Inviting sites to a study, until every one of them has decided."""

import time

from cohortium.common import timeouts
from cohortium.common.messages import Consent, Invite, Refusal
from cohortium.common.study import Study
from cohortium.server.desk import Desk, StudyFailed, for_good
from cohortium.server.ending import resume_it


def invite(study: Study, desk: Desk) -> tuple[str, ...]:
    """Ask until every site has decided, or the deadline; returns who approved, in their order."""
    decided = desk.store.consents(study.digest)
    undecided = [n for n in study.sites.names if n not in decided or _open(decided[n])]
    deadline = time.monotonic() + study.sites.approval_deadline
    pause = timeouts.DECISION_AGAIN_S[0]
    while undecided and time.monotonic() < deadline:
        desk.store.say(study.digest, f"waiting for approval: {', '.join(undecided)}")
        for said in desk.talk.ask(
            tuple(undecided),
            Invite(study=study),
            Consent,
            round=0,
            deadline_s=timeouts.INVITATION_S,
        ):
            if isinstance(said.message, Refusal) and not for_good(said.message.rule):
                continue  # a full disk or a pause passes; the site is asked again
            consent = _consent(said.message)
            if not _open(consent):
                undecided.remove(said.site)
                decided[said.site] = consent
            _note_decision(study, desk, said.site, consent)
        if undecided:
            desk.talk.sleep(pause)
            pause = min(pause * 1.5, timeouts.DECISION_AGAIN_S[1])
    return _quorum(study, decided)


def _quorum(study: Study, decided: dict[str, Consent]) -> tuple[str, ...]:
    approved = tuple(
        name
        for name in study.sites.names
        if name in decided and decided[name].decision == "approved"
    )
    training = [name for name in approved if name in study.sites.training]
    if len(training) >= study.sites.min_sites:
        return approved
    reasons = [
        f"{name}: {consent.rule} ({consent.explanation})"
        for name, consent in decided.items()
        if consent.decision == "refused"
    ]
    silent = [n for n in study.sites.names if n not in decided or _open(decided[n])]
    if silent:
        reasons.append(f"no decision in time: {', '.join(silent)}")
    raise StudyFailed(
        f"{len(training)} of the {study.sites.min_sites} sites that the study needs approved it; "
        + "; ".join(reasons),
        f"talk to them, {resume_it(study)}",
    )


def _open(consent: Consent) -> bool:
    return consent.decision == "waiting"


def _consent(message: Consent | Refusal) -> Consent:
    if isinstance(message, Consent):
        return message
    return Consent(decision="refused", rule=message.rule, explanation=message.explanation)


def _note_decision(study: Study, desk: Desk, site: str, consent: Consent) -> None:
    if _open(consent):
        desk.store.decide(study.digest, site, consent, desk.now_ms())
        return
    with desk.store.database.transaction():
        desk.store.decide(study.digest, site, consent, desk.now_ms())
        if consent.decision == "approved":
            persons = ", ".join(consent.approvers)[:180]
            detail = {"site": site, "person": persons}
            desk.log.append("study.approved", actor=desk.actor, study=study.digest, detail=detail)
        else:
            desk.log.append(
                "study.rejected",
                actor=desk.actor,
                outcome="denied",
                study=study.digest,
                reason=consent.rule,
                detail={"site": site},
            )
