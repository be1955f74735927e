"""What may be recorded: the closed vocabulary, and the one line that an event is.

A line is JSON with sorted keys, no spaces and no floats (a number that is not whole is a decimal
string), so that its bytes, and the hash over them, are the same everywhere. It names no patient
and holds no text that came from data. `salt` keeps a removed line from being guessed by its hash.
"""

import hashlib
import json
import os
import pwd
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self, cast, get_args

from pydantic import AfterValidator, Field, model_validator

from cohortium.common.document import Document, nearest, parse
from cohortium.common.errors import DocumentError

VOCABULARY = 1
SALT_BYTES = 16
UUID7_RANDOM_BYTES = 10

IdentityAction = Literal[
    "auth.ok",
    "auth.fail",
    "user.role.changed",
    "node.invited",
    "node.enrolled",
    "node.revoked",
    "key.rotated",
]
GovernanceAction = Literal[
    "study.created",
    "protocol.changed",
    "study.approved",
    "study.rejected",
    "approval.withdrawn",
    "policy.changed",
]
DataAction = Literal["dataset.registered", "dataset.snapshot", "dataset.retired", "cohort.queried"]
RunAction = Literal[
    "run.started", "run.paused", "run.resumed", "run.completed", "run.stopped", "run.failed"
]
RoundAction = Literal[
    "round.task.received",
    "round.update.sent",
    "round.refused",
    "round.aggregated",
    "node.dropped",
]
PrivacyAction = Literal[
    "privacy.reserved", "privacy.spent", "privacy.released", "privacy.cap.hit", "privacy.selftest"
]
EvaluationAction = Literal[
    "evaluation.completed",
    "evaluation.calibrated",
    "evaluation.validated",
    "fairness.audit.completed",
    "flag.raised",
    "flag.dispositioned",
]
ModelAction = Literal[
    "model.released", "model.downloaded", "model.withdrawn", "pccp.modification.executed"
]
LogAction = Literal[
    "log.started",
    "log.checkpoint",
    "log.review",
    "export.sealed",
    "retention.redacted",
    "clock.skew",
    "log.equivocation",
    "log.behind",
    "log.recovered",
]
IncidentAction = Literal["incident.declared"]
Action = (
    IdentityAction
    | GovernanceAction
    | DataAction
    | RunAction
    | RoundAction
    | PrivacyAction
    | EvaluationAction
    | ModelAction
    | LogAction
    | IncidentAction
)

# Which details may stand beside an action, by group: a key that is not here is refused.
_DETAILS: tuple[tuple[Any, str], ...] = (
    (
        IdentityAction,
        """site address fingerprint issuer tls cipher expires user role_before role_after
        key_before key_after kind correlation""",
    ),
    (
        GovernanceAction,
        """person meaning reauthentication signature key digest before after site sites setting
        epsilon delta epsilon_cap""",
    ),
    (
        DataAction,
        "dataset version schema band legal_basis extract epsilon_cap delta columns site person",
    ),
    (RunAction, "rounds sites site seconds device version image cause by"),
    (
        RoundAction,
        """message kind site sites replied missing seconds rule device epsilon ledger
        noise_multiplier weight_band correlation""",
    ),
    (
        PrivacyAction,
        """dataset kind correlation ledger row epsilon epsilon_before epsilon_after cap delta
        sampler sample_rate noise_multiplier clip_norm steps unit adjacency accountant rng by
        level verdict claim estimate control canaries guesses right code cross_check""",
    ),
    (
        EvaluationAction,
        """attributes metric group value threshold suppressed_below purpose disposition person
        meaning site sites measured gate flag""",
    ),
    (
        ModelAction,
        "recipient file format section person meaning sites closed overridden evidence audit",
    ),
    (
        LogAction,
        """size head root reviewer first last seconds retain_until person by site class events
        audience manifest file meaning signature key origin findings at""",
    ),
    (IncidentAction, "person by studies sites evidence"),
)
DETAIL_KEYS: Mapping[str, frozenset[str]] = {
    action: frozenset(keys.split()) for actions, keys in _DETAILS for action in get_args(actions)
}


def _one_line(text: str) -> str:
    """No line end, control, direction override or other invisible character, and not empty."""
    if not text or not text.isprintable():
        raise ValueError("must be one line of printable text")
    return text


Text = Annotated[str, Field(max_length=200), AfterValidator(_one_line)]
Sha256 = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=2**53)]  # what every JSON reader keeps exactly (RFC 8259, 6)


class Source(Document):
    """Whose log it is, and the event's place in it; `seq` counts from 0 without gaps."""

    org: Text
    node: Text
    seq: Count


class Actor(Document):
    """Who did it and how that is known, such as `os-user` or `signature:SHA256:...`."""

    type: Literal["person", "service", "site", "coordinator"]
    id: Text
    auth: Text


def os_user() -> Actor:
    """The person at the keyboard, as the operating system, not the environment, knows them."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user may have no name
        name = f"uid {os.getuid()}"
    return Actor(type="person", id=name, auth="os-user")


class Thing(Document):
    """What it was done to: `t` its type, `h` the SHA-256 of its bytes."""

    t: Text
    id: Text | None = None
    h: Sha256
    bytes: Count | None = None


class PolicyVersion(Document):
    """The rules under which it was decided."""

    id: Text
    h: Sha256


class Event(Document):
    """One line of a party's log, vocabulary v1."""

    v: Literal[1] = 1
    id: Annotated[
        str,
        Field(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"),
    ]
    ts: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]
    src: Source
    actor: Actor
    action: str
    outcome: Literal["success", "failure", "denied"]
    study: Text | None = None
    run: Text | None = None
    round: Count | None = None
    obj: Annotated[tuple[Thing, ...], Field(max_length=1000)] = ()
    policy: PolicyVersion | None = None
    reason: Text | None = None
    detail: Mapping[str, Text] = {}
    salt: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]

    @model_validator(mode="after")
    def _in_the_vocabulary(self) -> Self:
        keys = DETAIL_KEYS.get(self.action)
        if keys is None:
            hint = nearest(self.action, list(DETAIL_KEYS))
            raise ValueError(f"no such action in vocabulary {VOCABULARY}{hint}")
        for key in self.detail:
            if key not in keys:
                raise ValueError(f"{self.action} has no such detail{nearest(key, list(keys))}")
        if self.outcome != "success" and self.reason is None:
            raise ValueError(f'outcome "{self.outcome}" needs a reason')
        return self

    @property
    def line(self) -> str:
        """The event as it is stored, hashed and exported: canonical JSON without a line end."""
        values = self.model_dump(mode="json", exclude_none=True)
        values = {key: value for key, value in values.items() if value not in ([], {})}
        return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @property
    def leaf(self) -> bytes:
        """The 32 bytes that stand for the event in a Merkle tree."""
        return leaf_hash(self.line)


def leaf_hash(line: str) -> bytes:
    """SHA-256 of 0x00 and the line's UTF-8 bytes (RFC 6962, section 2.1)."""
    return hashlib.sha256(b"\x00" + line.encode()).digest()


def read_event(line: str, source: str) -> Event:
    """Read a line back; raises DocumentError, starting with `source`, for anything else."""
    try:
        values = json.loads(line)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise DocumentError(f"{source}: not a JSON object; the file was changed or cut")
    event = parse(cast(dict[str, Any], values), Event, source)
    if event.line != line:
        raise DocumentError(f"{source}: not in canonical form; the file was changed")
    return event


def uuid7(now_ms: int, random: bytes) -> str:
    """UUID version 7 (RFC 9562, section 5.7) from Unix milliseconds and 10 random bytes."""
    bits = int.from_bytes(random[:UUID7_RANDOM_BYTES], "big")
    value = (now_ms & (1 << 48) - 1) << 80 | 7 << 76 | (bits >> 62 & 0xFFF) << 64
    return str(uuid.UUID(int=value | 0b10 << 62 | bits & (1 << 62) - 1))


def timestamp(now: datetime) -> str:
    """An aware time as RFC 3339 in UTC with milliseconds: `2026-11-22T14:03:42.000Z`."""
    utc = now.astimezone(UTC)
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03d}Z"
