"""Saying no: recorded here with its reason, and told with as much as a stranger may know."""

from collections.abc import Mapping

from cohortium.client import egress
from cohortium.client.replies import Reply
from cohortium.client.site import Site
from cohortium.client.watermark import LostRecords
from cohortium.common.audit.events import Action
from cohortium.common.document import one_line
from cohortium.common.envelope import Header
from cohortium.common.errors import (
    CohortiumError,
    DataError,
    ProtocolError,
    RefusedError,
    SignatureError,
)
from cohortium.common.messages import EMPTY, MAX_LINE, Refusal


def refuse(site: Site, header: Header, error: Exception) -> Reply:
    """Write the reason to the site's own log, an event to its record, and a refusal to send."""
    correlation_id = site.correlate(error, header.study)
    rule, explanation = _public(error)
    try:
        site.log.append(
            _action(rule, error),
            actor=site.actor,
            outcome="denied" if isinstance(error, CohortiumError) else "failure",
            study=header.study or None,
            round=header.round,
            reason=rule,
            detail={**_detail(error), "kind": header.kind, "correlation": correlation_id},
        )
    except CohortiumError as disk:
        site.correlate(disk)
    refusal = Refusal(
        rule=rule, explanation=one_line(explanation, MAX_LINE), correlation_id=correlation_id
    )
    return Reply("refusal", egress.release(refusal, EMPTY, None, 0))


def _detail(error: Exception) -> Mapping[str, str]:
    return error.detail if isinstance(error, RefusedError) else {}


def _action(rule: str, error: Exception) -> Action:
    if isinstance(error, SignatureError):
        return "auth.fail"
    return "privacy.cap.hit" if rule == "privacy.cap" else "round.refused"


def _public(error: Exception) -> tuple[str, str]:
    if isinstance(error, RefusedError):
        return error.rule, error.explanation
    if isinstance(error, DataError):
        return (
            "data.unfit",
            "the site's data does not fit the study; its operator finds the reason in its log",
        )
    if isinstance(error, ProtocolError):
        return "protocol", str(error)
    if isinstance(error, LostRecords):
        return (
            "site.database",
            "the site's records are not complete; its operator finds the reason in its log",
        )
    if isinstance(error, CohortiumError):
        return (
            "site.cannot",
            "the site cannot do this now; its operator finds the reason in its log",
        )
    return "site.error", "an unexpected error at the site; its operator finds it in the log"
