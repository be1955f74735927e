"""What each action is called in other people's systems, and how loud an event is there."""

from collections.abc import Mapping
from enum import IntEnum

from cohortium.common.audit.recorded import AnyEvent

TITLES: Mapping[str, str] = {
    "auth.ok": "Authentication accepted",
    "auth.fail": "Authentication refused",
    "user.role.changed": "User's role changed",
    "node.invited": "Site invited",
    "node.enrolled": "Site enrolled",
    "node.revoked": "Site shut out",
    "key.rotated": "Key replaced",
    "study.created": "Study submitted",
    "protocol.changed": "Study protocol changed",
    "study.approved": "Study approved",
    "study.rejected": "Study rejected",
    "approval.withdrawn": "Approval withdrawn",
    "policy.changed": "Policy changed",
    "dataset.registered": "Dataset registered",
    "dataset.snapshot": "Dataset read for a study",
    "dataset.retired": "Dataset withdrawn",
    "cohort.queried": "Cohort queried",
    "run.started": "Study started",
    "run.paused": "Studies paused",
    "run.resumed": "Studies resumed",
    "run.completed": "Study completed",
    "run.stopped": "Study stopped",
    "run.failed": "Study failed",
    "round.task.received": "Training task received",
    "round.update.sent": "Model update left the site",
    "round.refused": "Request refused",
    "round.aggregated": "Model updates aggregated",
    "node.dropped": "Site missing from a round",
    "privacy.reserved": "Privacy budget reserved",
    "privacy.spent": "Privacy budget spent",
    "privacy.released": "Privacy budget given back",
    "privacy.cap.hit": "Privacy cap reached",
    "privacy.selftest": "Privacy self-test run",
    "evaluation.completed": "Evaluation left the site",
    "evaluation.calibrated": "Calibration sums left the site",
    "evaluation.validated": "Validation loss left the site",
    "fairness.audit.completed": "Fairness audit completed",
    "flag.raised": "Release gate raised a flag",
    "flag.dispositioned": "Flag decided by a person",
    "model.released": "Model released",
    "model.downloaded": "Model exported",
    "model.withdrawn": "Model withdrawn",
    "pccp.modification.executed": "Predetermined change carried out",
    "log.started": "Audit recording started",
    "log.checkpoint": "Log checkpoint signed",
    "log.review": "Log reviewed",
    "export.sealed": "Evidence exported",
    "retention.redacted": "Events erased by retention",
    "clock.skew": "Clocks differ",
    "log.equivocation": "Log shown in two versions",
    "log.behind": "Log shorter than witnessed",
    "log.recovered": "Log begun anew after a loss",
    "incident.declared": "Incident declared",
}


class Severity(IntEnum):
    """As syslog counts: the smaller, the louder (RFC 5424, table 2)."""

    ALERT = 1
    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFORMATIONAL = 6


_ROUTINE = frozenset(
    {
        "auth.ok",
        "dataset.snapshot",
        "cohort.queried",
        "run.started",
        "run.completed",
        "round.task.received",
        "round.update.sent",
        "round.aggregated",
        "privacy.reserved",
        "privacy.spent",
        "privacy.released",
        "privacy.selftest",
        "evaluation.completed",
        "evaluation.calibrated",
        "evaluation.validated",
        "fairness.audit.completed",
        "log.started",
        "log.checkpoint",
    }
)
_UNUSUAL = frozenset(
    {
        "node.revoked",
        "node.dropped",
        "approval.withdrawn",
        "dataset.retired",
        "run.stopped",
        "privacy.cap.hit",
        "flag.raised",
        "model.withdrawn",
        "retention.redacted",
        "clock.skew",
        "log.recovered",
    }
)
_ALARMING = frozenset({"log.equivocation", "log.behind", "incident.declared"})


def severity(event: AnyEvent) -> Severity:
    """By what was done, and louder where it failed; what persons decide is at least a notice."""
    if event.action in _ALARMING:
        return Severity.ALERT
    if event.outcome == "failure":
        return Severity.ERROR
    if event.outcome == "denied" or event.action in _UNUSUAL:
        return Severity.WARNING
    return Severity.INFORMATIONAL if event.action in _ROUTINE else Severity.NOTICE
