"""What of a site's event the consortium may know: never a person's name, never free text.

Each event of a site's own log that has an action listed here leaves a counterpart in the site's
`shared` log, which the coordinator puts into the consortium's log. The counterpart has the same id
and time, a place and salt of its own, the site as its actor, and only the details listed.
"""

import re
from collections.abc import Mapping

from cohortium.common.audit.events import Actor, Event

_ALL_PRIVACY = """dataset kind correlation ledger row epsilon epsilon_before epsilon_after cap delta
    sampler sample_rate noise_multiplier clip_norm steps unit adjacency accountant rng"""

SHARED: Mapping[str, frozenset[str]] = {
    action: frozenset(keys.split())
    for action, keys in {
        "node.enrolled": "site fingerprint",
        "key.rotated": "key_before key_after",
        "study.approved": "meaning digest",
        "study.rejected": "digest",
        "approval.withdrawn": "digest",
        "policy.changed": "digest before after setting",
        "dataset.registered": "dataset version schema epsilon_cap delta",
        "dataset.snapshot": "dataset version schema",
        "dataset.retired": "dataset version",
        "run.paused": "",
        "run.resumed": "",
        "run.completed": "",
        "run.stopped": "",
        "round.update.sent": "kind",
        "round.refused": "kind rule",
        "evaluation.completed": "",
        "evaluation.calibrated": "",
        "privacy.reserved": _ALL_PRIVACY,
        "privacy.spent": _ALL_PRIVACY,
        "privacy.released": _ALL_PRIVACY,
        "privacy.cap.hit": _ALL_PRIVACY,
        "privacy.selftest": "level verdict claim estimate control canaries guesses right code",
        "log.checkpoint": "size root",
        "log.equivocation": "size",
        "export.sealed": "audience",
        "retention.redacted": "events class",
        "incident.declared": "studies",
    }.items()
}
OWN_EVENT = "own.event"  # an event without a counterpart: of what stays at home not even the id
_RULE = re.compile(r"[a-z][a-z0-9_.]{0,99}")


def shared(event: Event, site: Actor) -> dict[str, object] | None:
    """The values of an event's counterpart but for its place and salt; None where it has none."""
    keys = SHARED.get(event.action)
    if keys is None:
        return None
    return {
        "id": event.id,
        "ts": event.ts,
        "actor": site,
        "action": event.action,
        "outcome": event.outcome,
        "study": event.study,
        "run": event.run,
        "round": event.round,
        "obj": tuple(thing for thing in event.obj if thing.t != OWN_EVENT),
        "policy": event.policy,
        "reason": _rule(event),
        "detail": {key: value for key, value in event.detail.items() if key in keys},
    }


def _rule(event: Event) -> str | None:
    """The rule that a no begins with; a text of a person's or a program's stays at home."""
    if event.reason is None or event.outcome == "success":
        return None  # whoever does something says why in words of their own, perhaps in one
    rule = event.reason.split(":")[0]
    return rule if _RULE.fullmatch(rule) else "unspecified"
