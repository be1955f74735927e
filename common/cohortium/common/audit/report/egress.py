"""The egress register: every message about patients that left a site, with its size and hash."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from cohortium.common.audit.evidence import Evidence, once
from cohortium.common.audit.report.table import Table
from cohortium.common.audit.report.words import MEANS, numbers, size

LEFT = {  # what a site's log calls a message about patients, and what the message is called
    "round.update.sent": "update",
    "evaluation.completed": "evaluated",
    "evaluation.calibrated": "calibrated",
    "evaluation.validated": "validated",
}
Key = tuple[str, str, int, str]  # study's digest, site, round, kind


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `bytes` by the site's own event, `received` by the coordinator's record.

    Either is None where that side's word is not there; at, event, hash: of the site's event.
    """

    study: str
    site: str
    round: int
    kind: str
    bytes: int | None
    received: int | None
    at: str = ""
    event: str = ""
    hash: str = ""


@once
def messages(evidence: Evidence) -> tuple[Message, ...]:
    """Each message once, by study, site, round and kind."""
    received = _received(evidence)
    sent: dict[Key, list[Message]] = {}
    for one in _sent(evidence):
        key = (one.study, one.site, one.round, one.kind)
        sent.setdefault(key, []).append(one)
    found: list[Message] = []
    for key in sorted({*sent, *received}):
        own = sent.get(key)
        if own is None:
            found.append(Message(*key, None, received[key]))
        elif len(own) == 1:
            found.append(Message(*key, own[0].bytes, received.get(key), *_origin(own[0])))
        else:
            found += own
    return tuple(found)


def register(evidence: Evidence, found: tuple[Message, ...]) -> Table:
    """Every message, for `egress.csv`."""
    names = study_names(evidence)
    return Table(
        name="egress",
        file="report/egress.csv",
        title="Every message about patients that left a site",
        header=(
            "site", "study", "round", "kind", "what it is", "bytes", "bytes received", "sent at",
            "sha256", "event",
        ),
        rows=tuple(
            (
                one.site,
                names.get(one.study, one.study[:12]),
                str(one.round),
                one.kind,
                MEANS.get(one.kind, ""),
                _number(one.bytes),
                _number(one.received),
                one.at,
                one.hash,
                one.event,
            )
            for one in found
        ),
        empty="No message about patients is recorded.",
        note=(
            "Bytes and hash are by the site's own signed event, bytes received (with the envelope) "
            "by the coordinator's record. Where one is empty, that side's word is not shown here."
        ),
        numeric=frozenset(("round", "bytes", "bytes received")),
        wide=frozenset(("what it is", "event")),
    )  # fmt: skip


def summary(evidence: Evidence, found: tuple[Message, ...]) -> Table:
    """How many messages of each kind, and how large, by study and site."""
    names, kinds = study_names(evidence), [kind for kind in MEANS if any_of(found, kind)]
    by_site = dict[tuple[str, str], list[Message]]()
    for one in found:
        by_site.setdefault((names.get(one.study, one.study[:12]), one.site), []).append(one)
    return Table(
        name="egress-summary",
        title="What left the building",
        header=("study", "site", "rounds", *(f"{kind} messages" for kind in kinds), "size in all",
                "logged by the site"),
        rows=tuple(
            (
                *key,
                numbers(one.round for one in own),
                *(_amount([one for one in own if one.kind == kind]) for kind in kinds),
                size(total(own)),
                _logged(own),
            )
            for key, own in sorted(by_site.items())
        ),
        empty="No message about patients is recorded.",
        note="; ".join(f"{kind}: {MEANS[kind]}" for kind in kinds) + ".",
        numeric=frozenset(("size in all", *(f"{kind} messages" for kind in kinds))),
    )  # fmt: skip


def total(found: Iterable[Message]) -> int:
    """Bytes, by the site's word where it is there."""
    return sum((m.bytes if m.bytes is not None else m.received) or 0 for m in found)


def any_of(found: tuple[Message, ...], kind: str) -> bool:
    return any(one.kind == kind for one in found)


def _amount(found: list[Message]) -> str:
    return f"{len(found)} ({size(total(found))})" if found else "none"


def _logged(found: list[Message]) -> str:
    logged = sum(one.bytes is not None for one in found)
    return "all" if logged == len(found) else f"{logged} of {len(found)}"


def study_names(evidence: Evidence) -> Mapping[str, str]:
    """A study's name by its digest."""
    return evidence.names


def _origin(one: Message) -> tuple[str, str, str]:
    return one.at, one.event, one.hash


def _sent(evidence: Evidence) -> Iterator[Message]:
    for event in evidence.events:
        kind = LEFT.get(event.action)
        for thing in event.obj if event.outcome == "success" else ():
            if thing.t != kind:
                continue
            yield Message(
                study=event.study or "",
                site=event.src.node,
                round=event.round or 0,
                kind=thing.t,
                bytes=thing.bytes or 0,
                received=None,
                at=event.ts,
                event=event.id,
                hash=thing.h,
            )


def _received(evidence: Evidence) -> Mapping[Key, int]:
    """By the coordinator's record; at a site that is the site's own events again."""
    if evidence.role == "site":
        return {}
    return {
        (study.digest, site, record.round, kind): amount
        for study in evidence.studies
        for record in study.rounds
        for site, kinds in record.received.items()
        for kind, amount in kinds.items()
        if kind not in ("consent", "refusal", "closed")
    }


def _number(value: int | None) -> str:
    return "" if value is None else str(value)
