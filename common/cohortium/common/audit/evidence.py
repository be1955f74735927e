"""What an export is made from: everything that a party can show, as plain values.

Gathered once by the exporting side; every writer of a file in the bundle is a function from it to
bytes, and opens no database itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import Any, Literal, TypeVar, cast

from cohortium.common.audit.party import Audience as Audience
from cohortium.common.audit.recorded import AnyEvent
from cohortium.common.document import Document
from cohortium.common.fairness.verdicts import FairnessAudit
from cohortium.common.messages import Consent, Spent
from cohortium.common.metrics.performance import Performance
from cohortium.common.metrics.tallies import SiteEvaluation
from cohortium.common.privacy.ledger_row import LedgerRow
from cohortium.common.privacy.selftest import Selftest
from cohortium.common.study import Study

Files = Mapping[str, bytes]  # path in the bundle, with slashes -> content
T = TypeVar("T")


class ESignature(Document):
    """An electronic signature with what 21 CFR 11.50 and 11.70 ask for.

    `at` RFC 3339 in UTC; `signed` the SHA-256 of the signed bytes, hex; `auth` how the signer was
    known; `key` base64 of the Ed25519 key whose `signature` (hex) it is.
    """

    name: str
    user: str
    auth: str
    role: str
    meaning: str
    at: str
    signed: str
    algorithm: Literal["ed25519"] = "ed25519"
    key: str
    signature: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One place in the log; event and line are None where only the leaf may be shown."""

    index: int
    leaf: bytes
    line: str | None
    event: AnyEvent | None


@dataclass(frozen=True)
class SiteFacts:
    """A site as the coordinator knows it; `patients` its latest public band, "" if none."""

    name: str
    signing_key: str
    fingerprint: str
    enrolled_at: str
    revoked_at: str | None = None
    patients: str = ""


@dataclass(frozen=True)
class Cosigned:
    """The largest checkpoint, not beyond what is shown, that a site cosigned; `at` by its clock."""

    site: str
    size: int
    at: str


@dataclass(frozen=True)
class RoundFacts:
    """One round as the coordinator recorded it; bytes received by site and kind of message."""

    round: int
    seconds: float
    replied: tuple[str, ...]
    missing: tuple[str, ...]
    refused: Mapping[str, str]
    received: Mapping[str, Mapping[str, int]]
    spent: Mapping[str, Spent]
    left_out: str = ""


@dataclass(frozen=True)
class FlagFacts:
    """A flag of a release gate, and what a person signed about it."""

    id: str
    gate: str
    site: str | None
    text: str
    open: bool
    decision: str = ""
    reason: str = ""
    signature: ESignature | None = None


@dataclass(frozen=True)
class ModelFacts:
    """A final model: SHA-256 of its file, and its release if it has one that holds."""

    sha256: str
    bytes: int
    parameters: int
    card: str  # Markdown
    release: ESignature | None = None
    overridden: int = 0
    reason: str = ""


@dataclass(frozen=True)
class StudyFacts:
    """A study with everything that is recorded of it. Times are RFC 3339 in UTC, "" if not yet.

    evaluations: of the final model, by site. performance: over all sites. blinded: the study hides
    whose a result is, and results by site were left out here. approvals: those whose signatures
    are at hand, which is at the site that gave them. secure_aggregation: were updates masked from
    the coordinator; None where nothing recorded says so.
    """

    study: Study
    digest: str
    state: str
    cause: str
    submitted_at: str
    ended_at: str
    consents: Mapping[str, Consent] = field(default_factory=dict)
    rounds: tuple[RoundFacts, ...] = ()
    evaluations: Mapping[str, SiteEvaluation] = field(default_factory=dict)
    audit: FairnessAudit | None = None
    performance: tuple[Performance, ...] = ()
    flags: tuple[FlagFacts, ...] = ()
    model: ModelFacts | None = None
    blinded: bool = False
    approvals: tuple[ESignature, ...] = ()
    secure_aggregation: bool | None = None


@dataclass(frozen=True)
class Licence:
    """What a package's metadata says; `spdx` where it is an SPDX expression, else its own words."""

    text: str
    spdx: bool


@dataclass(frozen=True)
class Evidence:
    """All of it.

    node: who exports, in which `role`. origin: the exported log's. at: of the last event that it
    is made from, not of the clock; since, until: "" for no bound; all RFC 3339. officer: the name
    that was given with --as. log_key, witnesses: keys as in a policy file, witnesses by site.
    software: version of each installed package that matters. code: digest of the installed
    Cohortium. study: the digest of the one study to which it is narrowed, "" for all. licences: by
    package, where known. sign: the exporting party's Ed25519 key over bytes, `key` its public half
    (base64); None where files are written unsigned. kept: for `once`.
    """

    audience: Audience
    role: Literal["coordinator", "site"]
    node: str
    consortium: str
    origin: str
    at: str
    since: str
    until: str
    officer: str
    log_key: str
    witnesses: Mapping[str, str]
    entries: tuple[Entry, ...]
    sites: tuple[SiteFacts, ...]
    studies: tuple[StudyFacts, ...]
    ledger: tuple[LedgerRow, ...]
    selftests: tuple[Selftest, ...]
    software: Mapping[str, str]
    code: str
    version: str
    study: str = ""
    retention_years: int = 6
    witnessed: tuple[Cosigned, ...] = ()
    licences: Mapping[str, Licence] = field(default_factory=dict)
    sign: Callable[[bytes], bytes] | None = None
    key: str = ""
    kept: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def names(self) -> Mapping[str, str]:
        """A study's name by its digest."""
        return {one.digest: one.study.name for one in self.studies}

    @cached_property
    def events(self) -> tuple[AnyEvent, ...]:
        """The events that may be shown, in the order of the log."""
        return tuple(entry.event for entry in self.entries if entry.event is not None)


def once(work: Callable[[Evidence], T]) -> Callable[[Evidence], T]:
    """What several writers need is worked out once, and kept with the evidence."""

    @wraps(work)
    def found(evidence: Evidence) -> T:
        if work not in evidence.kept:
            evidence.kept[work] = work(evidence)
        return cast(T, evidence.kept[work])

    return found
