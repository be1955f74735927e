"""An event as it was read back from the log, in a fifth of the memory that an `Event` takes.

An export holds all events at once; here they are tuples whose fields are named as an `Event`'s.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from cohortium.common.audit.events import Event


class Place(NamedTuple):
    """As `events.Source`."""

    org: str
    node: str
    seq: int


class Who(NamedTuple):
    """As `events.Actor`."""

    type: str
    id: str
    auth: str


class What(NamedTuple):
    """As `events.Thing`."""

    t: str
    id: str | None
    h: str
    bytes: int | None


class Rules(NamedTuple):
    """As `events.PolicyVersion`."""

    id: str
    h: str


class Recorded(NamedTuple):
    """As `events.Event`, without the salt, and with the leaf instead of the line."""

    id: str
    ts: str
    src: Place
    actor: Who
    action: str
    outcome: str
    study: str | None
    run: str | None
    round: int | None
    obj: tuple[What, ...]
    policy: Rules | None
    reason: str | None
    detail: Mapping[str, str]
    leaf: bytes


AnyEvent = Event | Recorded
_NONE: Mapping[str, str] = {}
_who = lru_cache(maxsize=1024)(Who)  # few act, and each of them often
_rules = lru_cache(maxsize=1024)(Rules)


def recorded(event: Event, leaf: bytes) -> Recorded:
    """An event that was checked, and its leaf."""
    source, actor, policy = event.src, event.actor, event.policy
    return Recorded(
        id=event.id,
        ts=event.ts,
        src=Place(source.org, source.node, source.seq),
        actor=_who(actor.type, actor.id, actor.auth),
        action=event.action,
        outcome=event.outcome,
        study=event.study,
        run=event.run,
        round=event.round,
        obj=tuple(What(thing.t, thing.id, thing.h, thing.bytes) for thing in event.obj),
        policy=_rules(policy.id, policy.h) if policy is not None else None,
        reason=event.reason,
        detail=event.detail or _NONE,
        leaf=leaf,
    )
