"""Events in the Elastic Common Schema 8: one JSON document a line, in ASCII.

https://www.elastic.co/guide/en/ecs/8.17/ecs-field-reference.html. `event.hash` is the event's leaf
in the Merkle tree (RFC 6962), so that a line can be compared with an exported log.
"""

import json
from collections.abc import Mapping
from typing import Any

from cohortium.common.audit.evidence import Evidence
from cohortium.common.audit.lines import joined
from cohortium.common.audit.recorded import AnyEvent
from cohortium.common.audit.titles import TITLES, Severity, severity

VERSION = "8.17.0"
FILE = "siem/events.ecs.jsonl"

# event.category and event.type of each action: a type is one that ECS expects in the category.
CATEGORIES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "auth.ok": ("authentication", ("start",)),
    "auth.fail": ("authentication", ("start",)),
    "user.role.changed": ("iam", ("user", "change")),
    "node.invited": ("iam", ("user", "info")),
    "node.enrolled": ("iam", ("user", "creation")),
    "node.revoked": ("iam", ("user", "deletion")),
    "key.rotated": ("iam", ("user", "change")),
    "study.created": ("configuration", ("creation",)),
    "protocol.changed": ("configuration", ("change",)),
    "study.approved": ("api", ("admin", "allowed")),
    "study.rejected": ("api", ("admin", "denied")),
    "approval.withdrawn": ("api", ("admin", "change")),
    "policy.changed": ("configuration", ("change",)),
    "dataset.registered": ("configuration", ("creation",)),
    "dataset.snapshot": ("database", ("access",)),
    "dataset.retired": ("configuration", ("deletion",)),
    "cohort.queried": ("database", ("access",)),
    "run.started": ("process", ("start",)),
    "run.paused": ("process", ("change",)),
    "run.resumed": ("process", ("change",)),
    "run.completed": ("process", ("end",)),
    "run.stopped": ("process", ("end",)),
    "run.failed": ("process", ("end",)),
    "round.task.received": ("api", ("start",)),
    "round.update.sent": ("api", ("access", "allowed")),
    "round.refused": ("api", ("access", "denied")),
    "round.aggregated": ("api", ("creation",)),
    "node.dropped": ("api", ("info",)),
    "privacy.reserved": ("api", ("allowed",)),
    "privacy.spent": ("api", ("change",)),
    "privacy.released": ("api", ("change",)),
    "privacy.cap.hit": ("api", ("denied",)),
    "privacy.selftest": ("process", ("info",)),
    "evaluation.completed": ("api", ("access", "allowed")),
    "evaluation.calibrated": ("api", ("access", "allowed")),
    "evaluation.validated": ("api", ("access", "allowed")),
    "fairness.audit.completed": ("process", ("info",)),
    "flag.raised": ("api", ("info",)),
    "flag.dispositioned": ("api", ("admin", "change")),
    "model.released": ("api", ("admin", "allowed")),
    "model.downloaded": ("file", ("access",)),
    "model.withdrawn": ("api", ("admin", "deletion")),
    "pccp.modification.executed": ("configuration", ("change",)),
    "log.started": ("process", ("start",)),
    "log.checkpoint": ("database", ("info",)),
    "log.review": ("database", ("access",)),
    "export.sealed": ("file", ("creation",)),
    "retention.redacted": ("database", ("change",)),
    "clock.skew": ("host", ("info",)),
    "log.equivocation": ("intrusion_detection", ("info",)),
    "log.behind": ("intrusion_detection", ("info",)),
    "log.recovered": ("database", ("change",)),
    "incident.declared": ("intrusion_detection", ("info",)),
}


_ascii = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode


def line(event: AnyEvent) -> str:
    """One event, without a line end."""
    return _ascii(document(event))


def document(event: AnyEvent) -> dict[str, Any]:
    """The fields of one event; `denied` is a failure, as ECS has no third outcome but unknown."""
    category, types = CATEGORIES[event.action]
    loud = severity(event)
    return {
        "@timestamp": event.ts,
        "ecs": {"version": VERSION},
        "message": _message(event),
        "event": {
            "action": event.action,
            "category": [category],
            "dataset": "cohortium.audit",
            "hash": event.leaf.hex(),
            "id": event.id,
            "kind": "alert" if loud == Severity.ALERT else "event",
            "module": "cohortium",
            "outcome": "success" if event.outcome == "success" else "failure",
            "sequence": event.src.seq,
            "severity": loud.value,
            "type": list(types),
            **({"reason": event.reason} if event.reason else {}),
        },
        "labels": _labels(event),
        "log": {"level": loud.name.lower()},
        "organization": {"id": event.src.org},
        "related": _related(event),
        "service": {"name": "cohortium", "node": {"name": event.src.node}, "type": "cohortium"},
        "user": {"id": event.actor.id, "roles": [event.actor.type]},
    }


def files(evidence: Evidence) -> dict[str, bytes]:
    """All events that may be shown."""
    return {FILE: joined(map(line, evidence.events))}


def _message(event: AnyEvent) -> str:
    return f"{TITLES[event.action]}: {event.reason}" if event.reason else TITLES[event.action]


def _labels(event: AnyEvent) -> dict[str, str]:
    """Keywords all: what the event says of its place in a study, and its details."""
    place = {"study": event.study, "run": event.run, "auth": event.actor.auth}
    values = {key: value for key, value in place.items() if value is not None}
    if event.round is not None:
        values["round"] = str(event.round)
    if event.policy is not None:
        values["policy"] = event.policy.id
    return {**event.detail, **values, "outcome": event.outcome}


def _related(event: AnyEvent) -> dict[str, list[str]]:
    """What an analyst pivots on: everything that was acted on or decided by, as bare hex."""
    named = [thing.h for thing in event.obj] + ([event.policy.h] if event.policy else [])
    hashes = {h.removeprefix("sha256:") for h in named}
    return {"user": [event.actor.id], **({"hash": sorted(hashes)} if hashes else {})}
