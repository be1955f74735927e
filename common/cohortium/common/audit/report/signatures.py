"""Who decided and signed what: approvals, refusals, dispositions, releases, in order of time."""

from collections.abc import Iterator
from dataclasses import dataclass

from cohortium.common.audit.evidence import ESignature, Evidence, StudyFacts, once
from cohortium.common.audit.recorded import AnyEvent
from cohortium.common.audit.report.table import Table
from cohortium.common.audit.report.words import day

APPROVAL = "approval of this study on this site's data"
REPLY = "said in the site's reply, which its key signed"


@dataclass(frozen=True)
class Decision:
    """One decision of a person, or of a rule that one wrote.

    what: `study`, `flag` or `model`; said: such as approved. signature: where it is at hand; else
    `known` says how it is known.
    """

    what: str
    study: str
    site: str
    item: str
    said: str
    person: str
    at: str
    meaning: str
    reason: str = ""
    known: str = ""
    event: str = ""
    signature: ESignature | None = None


@once
def decisions(evidence: Evidence) -> tuple[Decision, ...]:
    """All of them, by study, then in the order of time."""
    found = list[Decision]()
    for study in evidence.studies:
        own = [*_consents(study, evidence), *_answers(study, evidence), *_release(study, evidence)]
        found += sorted(own, key=lambda one: (one.at, one.what, one.site, one.item))
    return tuple(found)


def approvals(found: tuple[Decision, ...]) -> Table:
    """For `approvals.csv` and the page: names, times and meanings beside what was signed."""
    return Table(
        name="approvals",
        file="report/approvals.csv",
        title="Who approved what",
        header=(
            "study", "what", "site", "decision", "by", "at", "meaning", "reason", "known by",
            "event",
        ),
        rows=tuple(
            (
                one.study,
                f"{one.what} {one.item}".strip(),
                one.site,
                one.said,
                one.person,
                one.at,
                one.meaning,
                one.reason,
                one.known,
                one.event,
            )
            for one in found
        ),
        empty="Nobody has decided anything yet.",
        wide=frozenset(("event",)),
    )  # fmt: skip


def in_short(found: tuple[Decision, ...]) -> Table:
    """The same in few rows: those who decided the same on the same thing stand together."""
    together = dict[tuple[str, ...], list[Decision]]()
    for one in found:
        key = (one.study, f"{one.what} {one.item}".strip(), one.said, one.meaning)
        together.setdefault(key, []).append(one)
    return Table(
        name="approvals-in-short",
        title="Who approved what",
        header=("study", "what", "decision", "by (site, time)", "meaning"),
        rows=tuple(
            (study, what, said, "; ".join(map(_who, same)), meaning)
            for (study, what, said, meaning), same in together.items()
        ),
        empty="Nobody has decided anything yet.",
    )


def _who(one: Decision) -> str:
    """`Dr. Weiss (northgate, 2026-11-22 14:03 UTC)`."""
    where = ", ".join(filter(None, (one.site if one.what == "study" else "", day(one.at))))
    if not one.person:
        return where
    return f"{one.person} ({where})" if where else one.person


def signatures(found: tuple[Decision, ...]) -> Table:
    """Every electronic signature with its parts (21 CFR 11.50), for `signatures.csv`.

    The verifier reads columns by their place, and that what a site signed is an `approval`.
    """
    rows = [
        (
            one.study,
            "approval" if one.what == "study" else f"{one.what} {one.item}",
            s.name,
            s.role,
            s.meaning,
            s.at,
            s.user,
            s.auth,
            s.signed,
            s.algorithm,
            s.key,
            s.signature,
        )
        for one in found
        if (s := one.signature) is not None
    ]
    return Table(
        name="signatures",
        file="report/signatures.csv",
        title="Electronic signatures",
        header=(
            "study", "item", "printed name", "role", "meaning", "signed at", "user",
            "authentication", "sha256 of what was signed", "algorithm", "key", "signature",
        ),
        rows=tuple(rows),
        empty="No electronic signature is at hand.",
        note="The signature under this export is in log/seal.json: it came after this page.",
        wide=frozenset(("algorithm", "key", "signature", "authentication")),
    )  # fmt: skip


def _consents(study: StudyFacts, evidence: Evidence) -> Iterator[Decision]:
    events = _events_by_site(study, evidence)
    signed = {one.name: one for one in study.approvals}
    for site, consent in study.consents.items():
        event = events.get(site)
        for person in consent.approvers:
            signature = signed.get(person)
            yield Decision(
                what="study",
                study=study.study.name,
                site=site,
                item="",
                said="approved",
                person=person,
                at=signature.at if signature else consent.approved_at,
                meaning=signature.meaning if signature else APPROVAL,
                known="signed by the site's key" if signature else REPLY,
                event=event.id if event else "",
                signature=signature,
            )
        if consent.decision != "approved":
            yield Decision(
                what="study",
                study=study.study.name,
                site=site,
                item="",
                said=consent.decision,
                person="",
                at=event.ts if event else "",
                meaning="",
                reason=": ".join(filter(None, (consent.rule, consent.explanation))),
                known=REPLY if evidence.role == "coordinator" else "",
                event=event.id if event else "",
            )


def _events_by_site(study: StudyFacts, evidence: Evidence) -> dict[str, AnyEvent]:
    """The last decision on the study that the log shows of each site."""
    return {
        event.detail.get("site", event.src.node): event
        for event in evidence.events
        if event.study == study.digest and event.action in ("study.approved", "study.rejected")
    }


def _answers(study: StudyFacts, evidence: Evidence) -> Iterator[Decision]:
    events = {
        event.detail["flag"]: event.id
        for event in evidence.events
        if event.study == study.digest and event.action == "flag.dispositioned"
    }
    for flag in study.flags:
        if not flag.decision:
            continue
        signed = flag.signature
        yield Decision(
            what="flag",
            study=study.study.name,
            site=flag.site or "",
            item=flag.id,
            said=flag.decision,
            person=signed.name if signed else "",
            at=signed.at if signed else "",
            meaning=signed.meaning if signed else "",
            reason=flag.reason,
            known="signed by the coordinator's key" if signed else "not shown: blinded study",
            event=events.get(flag.id, ""),
            signature=signed,
        )


def _release(study: StudyFacts, evidence: Evidence) -> Iterator[Decision]:
    signed = study.model.release if study.model else None
    if study.model is None or signed is None:
        return
    events = [e.id for e in evidence.events
              if e.study == study.digest and e.action == "model.released"]  # fmt: skip
    over = study.model.overridden
    yield Decision(
        what="model",
        study=study.study.name,
        site="",
        item=study.model.sha256[:12],
        said=f"released over {over} open flags" if over else "released",
        person=signed.name,
        at=signed.at,
        meaning=signed.meaning,
        reason=study.model.reason,
        known="signed by the coordinator's key",
        event=events[-1] if events else "",
        signature=signed,
    )
