"""Examining the record (45 CFR 164.308(a)(1)(ii)(D), 164.312(b)), and the proof that somebody did.

A review is of a run of one log without a gap; the next begins where the last ended. What it says is
signed: the head of the log that was looked at, who looked, and what was found.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal

from cohortium.common.audit.documents import thing_of
from cohortium.common.audit.events import Actor, Event, Text, timestamp
from cohortium.common.audit.log import EventLog
from cohortium.common.audit.records import Record, records, records_of
from cohortium.common.audit.tree import Tree
from cohortium.common.database import Database
from cohortium.common.document import Document, canonical
from cohortium.common.errors import SignatureError, UsageError
from cohortium.common.identity import SigningKey, VerifyKey

CONTEXT = b"cohortium-log-review-v1\n"
# What a reviewer must see, besides everything that was denied or failed.
SECURITY = frozenset(
    {
        "approval.withdrawn",
        "auth.fail",
        "clock.skew",
        "dataset.retired",
        "export.sealed",
        "incident.declared",
        "key.rotated",
        "log.behind",
        "log.equivocation",
        "log.recovered",
        "model.downloaded",
        "model.withdrawn",
        "node.enrolled",
        "node.invited",
        "node.revoked",
        "policy.changed",
        "privacy.cap.hit",
        "retention.redacted",
        "run.failed",
        "run.paused",
        "run.stopped",
        "user.role.changed",
    }
)


class Review(Document):
    """What is signed; `first` and `last` are places in the node's log, `root` its head (hex)."""

    v: Literal[1] = 1
    meaning: Literal["review of the events of this range"] = "review of the events of this range"
    node: str
    reviewer: Text
    first: int
    last: int
    root: str
    events: int
    findings: Text
    at: str


def relevant(event: Event) -> bool:
    """Whether a reviewer must see it; a release counts where gates were overridden."""
    overridden = event.action == "model.released" and "overridden" in event.detail
    return event.outcome != "success" or event.action in SECURITY or overridden


def span(database: Database, since: datetime | None, until: datetime) -> tuple[int, int]:
    """The first and last place of our log that a review is of; withheld events are within.

    Args:
        since: None for where the last review ended.

    Raises:
        UsageError: nothing was logged then.
    """
    first, last = None, -1
    for record in records_of(database, "events"):
        event = record.event
        if since is None and event.action == "log.review" and "last" in event.detail:
            first = int(event.detail["last"]) + 1
        if since is not None and first is None and _at(event) >= since:
            first = record.seq
        if _at(event) < until:
            last = record.seq
    first = 0 if first is None and since is None else first
    if first is None or first > last:
        raise UsageError("nothing was logged in that range")
    return first, last


def shown(database: Database, first: int, last: int) -> Iterator[Record]:
    """Yield what a reviewer must see: our events of the range, and sites' of the same time."""
    times: list[datetime] = []
    for record in records(database):
        if record.table == "events":
            if not first <= record.seq <= last:
                continue
            times.append(_at(record.event))
        elif not times or not min(times) <= _at(record.event) <= max(times):
            continue
        if relevant(record.event):
            yield record


def sign(
    database: Database,
    log: EventLog,
    node: str,
    places: tuple[int, int],
    events: int,
    reviewer: str,
    findings: str,
    key: SigningKey,
    actor: Actor,
    now: datetime,
) -> Event:
    """Record a review, signed."""
    first, last = places
    review = Review(
        node=node,
        reviewer=reviewer,
        first=first,
        last=last,
        root=Tree(database, "events").root(last + 1).hex(),
        events=events,
        findings=findings,
        at=timestamp(now),
    )
    text = canonical(review)
    return log.append(
        "log.review",
        actor=actor,
        obj=(thing_of("log.review", text),),
        detail={
            **{k: str(v) for k, v in review.model_dump(exclude={"v", "node", "at"}).items()},
            "at": review.at,
            "key": key.public.text,
            "signature": key.sign(CONTEXT + text).hex(),
        },
    )


def verify(event: Event) -> VerifyKey:
    """Whose key signed a review as its event says it; whether to trust that key is the caller's.

    Raises:
        SignatureError: it is not signed by the key that it names, or is another than was signed.
    """
    said = event.detail
    try:
        review = Review(
            node=event.src.node,
            reviewer=said["reviewer"],
            first=int(said["first"]),
            last=int(said["last"]),
            root=said["root"],
            events=int(said["events"]),
            findings=said["findings"],
            at=said["at"],
        )
        key, signature = VerifyKey.from_text(said["key"]), bytes.fromhex(said["signature"])
    except (KeyError, ValueError):
        raise SignatureError(f"event {event.id} is no signed review") from None
    text = canonical(review)
    if event.obj != (thing_of("log.review", text),):
        raise SignatureError(f"event {event.id} names another review than it says")
    key.verify(signature, CONTEXT + text)
    return key


def _at(event: Event) -> datetime:
    return datetime.fromisoformat(event.ts).astimezone(UTC)
