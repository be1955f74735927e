"""What of a site's event the consortium may know: never a person's name, never free text.

Each event of a site's own log that has an action listed here leaves a counterpart in the site's
`shared` log, which the coordinator puts into the consortium's log. The counterpart has the same id
and time, a place and salt of its own, the site as its actor, and only the details listed. What is
no word of ours, number, name or digest stays at home, and the coordinator takes no event with it.
"""

import re
from collections.abc import Mapping

from cohortium.common.audit.events import Actor, Event, PolicyVersion, Thing
from cohortium.common.errors import ProtocolError

_ALL_PRIVACY = """dataset kind correlation ledger row epsilon epsilon_before epsilon_after cap delta
    sampler sample_rate noise_multiplier clip_norm steps unit adjacency accountant rng
    cross_check"""

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
        "evaluation.validated": "",
        "privacy.reserved": _ALL_PRIVACY,
        "privacy.spent": _ALL_PRIVACY,
        "privacy.released": _ALL_PRIVACY,
        "privacy.cap.hit": _ALL_PRIVACY,
        "privacy.selftest": "level verdict claim estimate control canaries guesses right code",
        "log.checkpoint": "size root",
        "log.equivocation": "size",
        "log.recovered": "size root origin first",
        "export.sealed": "audience",
        "retention.redacted": "events class",
        "incident.declared": "studies",
    }.items()
}
MAX_LINE = 4096  # characters of one event
MAX_THINGS = 8
OWN_EVENT = "own.event"  # an event without a counterpart: of what stays at home not even the id
APPROVAL = "approval"  # its hash lets who knows all of a table but one row test a guess of that
_RULE = re.compile(r"[a-z][a-z0-9_.]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_WORD = re.compile(r"[A-Za-z0-9+-][A-Za-z0-9._:+/@=-]{0,99}")
_WORDS = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,:+/'_-]{0,99}")  # said by our own programs
_IN_WORDS = frozenset(("accountant", "cross_check", "meaning", "rng", "setting", "studies"))


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
        "study": event.study if _digest(event.study) else None,
        "run": event.run if _word(event.run) else None,
        "round": event.round,
        "obj": tuple(thing for thing in event.obj if _shareable(thing))[:MAX_THINGS],
        "policy": event.policy if _policy(event.policy) else None,
        "reason": _rule(event),
        "detail": {
            key: value for key, value in event.detail.items() if key in keys and _detail(key, value)
        },
    }


def check(event: Event, site: Actor) -> None:
    """Raise ProtocolError, naming the field, unless an event may be in a site's `shared` log."""
    keys = SHARED.get(event.action)
    if keys is None:
        raise ProtocolError("its action is none that sites share")
    if event.actor != site:
        raise ProtocolError("its actor is not the site itself")
    fields = {
        "length": len(event.line) <= MAX_LINE,
        "study": event.study is None or _digest(event.study),
        "run": event.run is None or _word(event.run),
        "obj": len(event.obj) <= MAX_THINGS and all(_thing(thing) for thing in event.obj),
        "policy": event.policy is None or _policy(event.policy),
        "reason": event.reason is None or bool(_RULE.fullmatch(event.reason)),
        "detail": all(key in keys and _detail(key, text) for key, text in event.detail.items()),
    }
    for name, allowed in fields.items():
        if not allowed:
            raise ProtocolError(f"its {name} holds what sites do not share")


def _rule(event: Event) -> str | None:
    """The rule that a no begins with; a text of a person's or a program's stays at home."""
    if event.reason is None or event.outcome == "success":
        return None  # whoever does something says why in words of their own, perhaps in one
    rule = event.reason.split(":")[0]
    return rule if _RULE.fullmatch(rule) else "unspecified"


def _digest(text: str | None) -> bool:
    return text is not None and bool(_DIGEST.fullmatch(text))


def _word(text: str | None) -> bool:
    return text is not None and bool(_WORD.fullmatch(text))


def _thing(thing: Thing) -> bool:
    return _word(thing.t) and (thing.id is None or _word(thing.id))


def _shareable(thing: Thing) -> bool:
    return _thing(thing) and thing.t not in (OWN_EVENT, APPROVAL)


def _policy(policy: PolicyVersion | None) -> bool:
    return policy is not None and _word(policy.id)


def _detail(key: str, text: str) -> bool:
    return bool((_WORDS if key in _IN_WORDS else _WORD).fullmatch(text))
