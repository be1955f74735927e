"""Whether a model was released, as its report says it: flags, who answered for them, what holds."""

from cohortium.common.audit.log import EventLog
from cohortium.server.release import Judged, examine, judge, no_whole_model, standing
from cohortium.server.reports.findings import FlagState, ReleaseReport
from cohortium.server.signed import Signatures
from cohortium.server.store import Store, StudyRow


def release_report(
    row: StudyRow, store: Store, log: EventLog, signatures: Signatures
) -> ReleaseReport | None:
    """As of now; None for a study that is not completed, which has no final model."""
    if row.state != "completed":
        return None
    dossier = examine(row, store, log)
    judged = judge(dossier, signatures)
    found = standing(dossier, judged, signatures)
    flags = tuple(map(_flag, judged))
    if found.release is None or not found.holds:
        why = found.problem or no_whole_model(row.study)
        return ReleaseReport(state="not released", problem=why, flags=flags)
    signed = found.release.document
    return ReleaseReport(
        state="released with open flags" if signed.overridden else "released",
        by=signed.signer.name,
        at=signed.at,
        reason=signed.reason,
        flags=flags,
    )


def _flag(one: Judged) -> FlagState:
    said = one.disposition.document if one.disposition else None
    return FlagState(
        id=one.flag.id,
        gate=one.flag.gate,
        site=one.flag.site,
        subject=one.flag.subject,
        numbers=one.flag.numbers,
        open=one.open,
        decision=said.decision if said else None,
        reason=one.problem or (said.reason if said else ""),
        by=said.signer.name if said else None,
        at=said.at if said else None,
    )
