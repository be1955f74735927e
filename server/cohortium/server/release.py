"""Releasing a model: its gates, who answered for their flags, and whether a release still holds.

A signature is about one state of a study: its model, its evidence and the audit of it. Where any of
them changes, or a new flag is raised, what was signed before no longer opens anything.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cohortium.common.audit.events import Actor, Thing, timestamp
from cohortium.common.audit.log import EventLog
from cohortium.common.audit.noticing import Noticing
from cohortium.common.document import nearest, one_line
from cohortium.common.errors import RefusedError, SignatureError, UsageError
from cohortium.common.fairness.audit import audit
from cohortium.common.fairness.verdicts import FairnessAudit
from cohortium.common.study import Study
from cohortium.server.gates import Findings, Flag, final_evaluations, flags
from cohortium.server.model_file import describe
from cohortium.server.reports.report_data import ModelReport
from cohortium.server.selftests import selftests, training_codes
from cohortium.server.signed import (
    Decision,
    Disposition,
    Kept,
    Released,
    Signatures,
    Signer,
    Subject,
    sha256,
)
from cohortium.server.store import Store, StudyRow

LISTED = 20  # flags in one line of error
REASON = 200  # of an event


@dataclass(frozen=True, eq=False)
class Dossier:
    """A completed study as it stands now: its model's file, the audit, the flags."""

    row: StudyRow
    subject: Subject
    model: ModelReport
    audit: FairnessAudit
    flags: tuple[Flag, ...]


@dataclass(frozen=True)
class Judged:
    """A flag and the last word about it; problem: why what is stored does not count."""

    flag: Flag
    disposition: Kept[Disposition] | None
    problem: str = ""

    @property
    def open(self) -> bool:
        said = self.disposition
        return bool(self.problem) or said is None or said.document.decision == "reopen"


@dataclass(frozen=True)
class Standing:
    """A study's last release that verifies, if any, and why it does not hold, if it does not."""

    release: Kept[Released] | None
    problem: str = ""

    @property
    def holds(self) -> bool:
        return self.release is not None and not self.problem


def examine(row: StudyRow, store: Store, log: EventLog) -> Dossier:
    """Work out everything that a release rests on.

    Raises:
        RefusedError: the study is not completed, so that there is no final model.
    """
    study = row.study
    if row.state != "completed":
        said = f" ({row.cause})" if row.cause else ""
        raise RefusedError(
            "release.completed", f"{study.name} is {row.state}{said}: it has no final model"
        )
    rounds = store.rounds(row.digest)
    found = audit(study, final_evaluations(study, rounds))
    model = describe(row, store)
    findings = Findings(
        rounds,
        found,
        _forged(row, log),
        _withdrawn(row, log),
        selftests(store.database),
        training_codes(store.database, row.digest),
    )
    return Dossier(
        row=row,
        subject=Subject(
            study=row.digest,
            model=model.sha256,
            evidence=store.evidence(row.digest),
            audit=sha256(found),
        ),
        model=model,
        audit=found,
        flags=flags(study, findings),
    )


def raise_flags(dossier: Dossier, store: Store, log: EventLog, actor: Actor) -> dict[str, str]:
    """Record each flag the first time that it is seen; the event of each, by its id."""
    events = {}
    with store.database.transaction():
        _record_audit(dossier, store, log, actor)
        for flag in dossier.flags:
            event = store.flag_event(flag.study, flag.digest)
            if not event:
                event = log.append(
                    "flag.raised",
                    actor=actor,
                    study=flag.study,
                    reason=one_line(flag.text, REASON),
                    detail={"flag": flag.id, "gate": flag.gate},
                ).id
                store.keep_flag(flag.study, flag.digest, event)
            events[flag.id] = event
    return events


def _record_audit(dossier: Dossier, store: Store, log: EventLog, actor: Actor) -> None:
    """The fairness audit, when there is a new one: of which attributes, and its hash."""
    study, found = dossier.row.study, dossier.subject.audit
    if not Noticing(store.database, log).is_new(f"audit {dossier.row.digest}", found):
        return
    measured = {contrast.attribute for contrast in dossier.audit.contrasts}
    log.append(
        "fairness.audit.completed",
        actor=actor,
        study=dossier.row.digest,
        obj=(Thing(t="fairness.audit", h=f"sha256:{found}"),),
        detail={
            "attributes": one_line(", ".join(study.fairness.attributes) or "none", REASON),
            "measured": one_line(", ".join(sorted(measured)) or "none", REASON),
        },
    )


def no_whole_model(study: Study) -> str:
    """Why no model of a study can be released, where each site has a part of it for itself."""
    if not study.transfer.own:
        return ""
    return (
        f"no whole model of {study.name} is here: {', '.join(study.transfer.own)} are each site's "
        f"own (transfer.own); a site uses its model with cohortium site model {study.name}"
    )


def judge(dossier: Dossier, signatures: Signatures) -> tuple[Judged, ...]:
    """Every flag with what was signed about it."""
    return tuple(_judged(flag, dossier.subject, signatures) for flag in dossier.flags)


def standing(dossier: Dossier, judged: Sequence[Judged], signatures: Signatures) -> Standing:
    """Whether the last release is of exactly what is there now."""
    try:
        kept = signatures.release(dossier.row.digest)
    except SignatureError as error:
        return Standing(None, str(error))
    if kept is None:
        return Standing(None)
    name = dossier.row.study.name
    changed = _changed(kept.document.subject, dossier.subject)
    if changed:
        return Standing(kept, f"the {changed} of {name} is no longer what was released")
    answered = kept.document.overridden
    opened = [one.flag for one in judged if one.open]
    new = [flag.id for flag in opened if signatures.tag(flag) not in answered]
    if new:
        return Standing(kept, f"since {name} was released, flags were opened: {', '.join(new)}")
    return Standing(kept)


def dispose(
    dossier: Dossier,
    chosen: Sequence[str],
    decision: Decision,
    reason: str,
    signer: Signer,
    log: EventLog,
    signatures: Signatures,
    actor: Actor,
    now: datetime,
) -> list[str]:
    """Sign what a person decided about flags, by id; the events, old ones where nothing is new.

    Raises:
        UsageError: no such flag.
    """
    known = {one.flag.id: one for one in judge(dossier, signatures)}
    for name in chosen:
        if name not in known:
            raise UsageError(
                f'{dossier.row.study.name} has no flag "{name}"{nearest(name, list(known))}'
            )
    events = []
    for one in (known[name] for name in dict.fromkeys(chosen)):
        document = Disposition(
            subject=dossier.subject,
            study_name=dossier.row.study.name,
            flag=one.flag,
            decision=decision,
            reason=reason,
            signer=signer,
            at=timestamp(now),
        )
        said = None if one.problem else one.disposition
        if said is not None and said.document.model_copy(update={"at": document.at}) == document:
            events.append(said.event)
            continue
        event = log.append(
            "flag.dispositioned",
            actor=actor,
            study=one.flag.study,
            obj=(Thing(t="disposition", h=f"sha256:{sha256(document)}"),),
            reason=one_line(reason, REASON),
            detail={
                "flag": one.flag.id,
                "gate": one.flag.gate,
                "disposition": decision,
                "person": signer.name,
                "meaning": document.meaning,
            },
        )
        signatures.add(document, event.id)
        events.append(event.id)
    return events


def release(
    dossier: Dossier,
    reason: str,
    signer: Signer,
    log: EventLog,
    signatures: Signatures,
    actor: Actor,
    now: datetime,
) -> Kept[Released]:
    """Sign the release of a model; twice is once, as long as the first still holds.

    Args:
        reason: why it is released although gates are open; empty to release only if none is.

    Raises:
        RefusedError: a gate is open, or each site has a part of the model for itself.
        UsageError: a reason to override, but nothing to override.
    """
    if why := no_whole_model(dossier.row.study):
        raise RefusedError("release.own", why)
    judged = judge(dossier, signatures)
    before = standing(dossier, judged, signatures)
    opened = [one for one in judged if one.open]
    if before.release is not None and before.holds and not _overrode(before.release, opened):
        return before.release
    if opened and not reason:
        raise RefusedError("release.gates", _still_open(dossier, opened))
    if reason and not opened:
        raise UsageError(f"no flag of {dossier.row.study.name} is open: release without --override")
    document = Released(
        meaning=(
            "release of this model, overriding the gates that are open"
            if opened
            else "release of this model, every gate being closed"
        ),
        subject=dossier.subject,
        study_name=dossier.row.study.name,
        parameters=dossier.model.parameters,
        closed=tuple(signatures.tag(one.flag) for one in judged if not one.open),
        overridden=tuple(signatures.tag(one.flag) for one in opened),
        reason=reason,
        signer=signer,
        at=timestamp(now),
    )
    event = log.append(
        "model.released",
        actor=actor,
        study=dossier.row.digest,
        obj=(
            Thing(t="release", h=f"sha256:{sha256(document)}"),
            Thing(t="model", h=f"sha256:{dossier.model.sha256}", bytes=dossier.model.bytes),
        ),
        reason=one_line(reason, REASON) or None,
        detail=_detail(document, opened),
    )
    signatures.add(document, event.id)
    kept = signatures.release(dossier.row.digest)
    assert kept is not None
    return kept


def require_released(
    dossier: Dossier, judged: Sequence[Judged], signatures: Signatures
) -> Kept[Released]:
    """The release that holds now.

    Raises:
        RefusedError: there is none, and how to get one.
    """
    found = standing(dossier, judged, signatures)
    if found.release is not None and found.holds:
        return found.release
    name = dossier.row.study.name
    raise RefusedError(
        "release.missing" if not found.problem else "release.changed",
        (found.problem or f"{name} is not released")
        + f"; see cohortium study flags {name}, then cohortium study release {name} --as PERSON",
    )


def _overrode(kept: Kept[Released], opened: Sequence[Judged]) -> bool:
    """Whether a release was an override, and could now be one without."""
    return bool(kept.document.overridden) and not opened


def _judged(flag: Flag, subject: Subject, signatures: Signatures) -> Judged:
    try:
        kept = signatures.disposition(flag)
    except SignatureError as error:
        return Judged(flag, None, str(error))
    if kept is None:
        return Judged(flag, None)
    changed = _changed(kept.document.subject, subject)
    problem = f"the {changed} changed since {kept.document.signer.name} signed" if changed else ""
    return Judged(flag, kept, problem)


def _changed(signed: Subject, now: Subject) -> str:
    """Which of the things that were signed is another one now."""
    parts = [key for key in Subject.model_fields if getattr(signed, key) != getattr(now, key)]
    return " and ".join(parts)


def _forged(row: StudyRow, log: EventLog) -> Counter[str]:
    events = log.about(row.digest, "auth.fail")
    return Counter(event.detail["site"] for event in events if "site" in event.detail)


def _withdrawn(row: StudyRow, log: EventLog) -> dict[str, str]:
    """Sites without which somebody trained again, as `study resume --without` recorded it."""
    events = log.about(row.digest, "model.withdrawn")
    return {e.detail["sites"]: e.detail.get("section", "this study") for e in events}


def _still_open(dossier: Dossier, opened: Sequence[Judged]) -> str:
    """All open flags in one line, and what may be done about them."""
    name = dossier.row.study.name
    listed = [
        f"{one.flag.id} ({one.flag.gate}) {one.flag.text}"
        + (f" [{one.problem}]" * bool(one.problem))
        for one in opened[:LISTED]
    ]
    if len(opened) > LISTED:
        listed.append(f"and {len(opened) - LISTED} more: cohortium study flags {name}")
    return (
        f"{len(opened)} of the flags of {name} are open: {'; '.join(listed)}. Sign a disposition: "
        f"cohortium study disposition {name} FLAG --as PERSON --reason TEXT; or take the "
        f"responsibility: cohortium study release {name} --as PERSON --override --reason TEXT"
    )


def _detail(document: Released, opened: Sequence[Judged]) -> dict[str, str]:
    detail = {
        "person": document.signer.name,
        "meaning": document.meaning,
        "evidence": document.subject.evidence,
        "audit": document.subject.audit,
        "closed": str(len(document.closed)),
    }
    if opened:
        detail["overridden"] = one_line(" ".join(one.flag.id for one in opened), REASON)
    return detail
