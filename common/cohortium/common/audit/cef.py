"""Events in ArcSight's Common Event Format, version 0: one line each.

Escapes and lengths as in "Implementing ArcSight Common Event Format", version 25 (2017): in the
header `\\` and `|`, in the extension `\\`, `=` and line ends; a header has no line ends. Lengths
count characters there; here they count UTF-8 bytes, which are never fewer.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib.metadata import version

from cohortium.common.audit.events import Thing
from cohortium.common.audit.evidence import Evidence
from cohortium.common.audit.lines import compact, joined
from cohortium.common.audit.recorded import AnyEvent, What
from cohortium.common.audit.titles import TITLES, Severity, severity

FILE = "siem/events.cef"
SEVERITIES: Mapping[Severity, int] = {
    Severity.ALERT: 10,
    Severity.ERROR: 8,
    Severity.WARNING: 6,
    Severity.NOTICE: 3,
    Severity.INFORMATIONAL: 1,
}

# Longest value of each key that holds text.
LENGTHS: Mapping[str, int] = {
    "act": 63,
    "cat": 1023,
    "cs1": 4000,
    "cs2": 4000,
    "cs3": 4000,
    "cs4": 4000,
    "cs5": 4000,
    "cs6": 4000,
    "dvchost": 100,
    "externalId": 40,
    "fileHash": 255,
    "fname": 1023,
    "outcome": 63,
    "reason": 1023,
    "sourceServiceName": 1023,
    "spriv": 1023,
    "suid": 1023,
    "suser": 1023,
}
LABELS: Mapping[str, str] = {
    "cs1": "study",
    "cs2": "run",
    "cs3": "policy",
    "cs4": "objects",
    "cs5": "details",
    "cs6": "leafHash",
    "cn1": "round",
    "cn2": "sequence",
    "cn3": "objectCount",
}


@cache
def our_version() -> str:
    """The installed Cohortium's; looking it up takes longer than writing a line."""
    return version("cohortium")


def line(event: AnyEvent) -> str:
    """One event, without a line end."""
    header = (
        "CEF:0",
        "Cohortium",
        "Cohortium",
        _header(our_version(), 31),
        _header(event.action, 1023),
        _header(TITLES[event.action], 512),
        str(SEVERITIES[severity(event)]),
    )
    pairs = " ".join(f"{key}={_value(key, value)}" for key, value in _extension(event).items())
    return "|".join([*header, pairs])


def files(evidence: Evidence) -> dict[str, bytes]:
    """All events that may be shown."""
    return {FILE: joined(map(line, evidence.events))}


def _extension(event: AnyEvent) -> dict[str, str]:
    """Only keys that have a value; each custom one with its label beside it."""
    standard = {
        "rt": str(round(datetime.fromisoformat(event.ts).timestamp() * 1000)),
        "act": event.outcome,
        "cat": event.action.split(".")[0],
        "dvchost": event.src.node,
        "externalId": event.id,
        "outcome": "success" if event.outcome == "success" else "failure",
        "reason": event.reason,
        "sourceServiceName": event.src.org,
        "suid": event.actor.id,
        "suser": event.detail.get("person", event.actor.id),
        "spriv": event.actor.type,
        **_first_object(event),
    }
    custom = {
        "cs1": event.study,
        "cs2": event.run,
        "cs3": f"{event.policy.id} {event.policy.h}" if event.policy else None,
        "cs4": _whole([_named(thing) for thing in event.obj]),
        "cs5": _whole([{"auth": event.actor.auth}, *({k: v} for k, v in event.detail.items())]),
        "cs6": event.leaf.hex(),
        "cn1": None if event.round is None else str(event.round),
        "cn2": str(event.src.seq),
        "cn3": str(len(event.obj)) if event.obj else None,
    }
    values = {key: value for key, value in standard.items() if value is not None}
    for key, value in custom.items():
        if value is not None:
            values |= {f"{key}Label": LABELS[key], key: value}
    return values


def _first_object(event: AnyEvent) -> dict[str, str]:
    """CEF has one file; where there are more, `cs4` lists them all."""
    if not event.obj:
        return {}
    first = event.obj[0]
    size = {} if first.bytes is None else {"fsize": str(first.bytes)}
    return {"fname": first.t, "fileHash": first.h.removeprefix("sha256:"), **size}


def _named(thing: Thing | What) -> dict[str, object]:
    said = {"t": thing.t, "id": thing.id, "h": thing.h, "bytes": thing.bytes}
    return {key: value for key, value in said.items() if value is not None}


def _whole(items: Sequence[Mapping[str, object]]) -> str | None:
    """A JSON list of as many items as fit; None of none. `objectCount` tells of those left out."""
    texts: list[str] = []
    room = LENGTHS["cs4"] - 2
    for item in items:
        text = compact(item)
        room -= len(text.encode()) + 1
        if room < 0:
            break
        texts.append(text)
    return f"[{','.join(texts)}]" if texts else None


def _header(text: str, longest: int) -> str:
    return _cut(text, longest).replace("\\", "\\\\").replace("|", "\\|")


def _value(key: str, text: str) -> str:
    cut = _cut(text, LENGTHS[key]) if key in LENGTHS else text
    escaped = cut.replace("\\", "\\\\").replace("=", "\\=")
    return escaped.replace("\r", "\\r").replace("\n", "\\n")


def _cut(text: str, longest: int) -> str:
    """The first so many bytes of UTF-8, never half a character."""
    return text.encode()[:longest].decode(errors="ignore")
