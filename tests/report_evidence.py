"""Evidence made by hand, rich enough that every part of the report has something to show."""

from collections.abc import Sequence
from typing import Any

from tests import audited

from cohortium.common.audit.events import Event
from cohortium.common.audit.evidence import (
    Cosigned,
    Entry,
    ESignature,
    Evidence,
    FlagFacts,
    ModelFacts,
    RoundFacts,
    SiteFacts,
    StudyFacts,
)
from cohortium.common.document import parse
from cohortium.common.fairness.audit import audit
from cohortium.common.messages import Consent, Spent
from cohortium.common.metrics.performance import of_study
from cohortium.common.privacy.ledger_row import Accountant, LedgerRow, Lifetime
from cohortium.common.privacy.selftest import Selftest

SITES = ("north", "south", "west")
HASH = "sha256:" + "ab" * 32


def event(place: int, action: str, node: str = "net", **more: Any) -> Event:
    """An event of a party; `obj`, `detail`, `study` and so on as in the log."""
    kind = "coordinator" if node == "net" else "site"
    values: dict[str, Any] = {
        "id": f"01a215a6-3422-7522-bfea-{place:012x}",
        "ts": f"2026-11-{1 + place // 24:02}T{place % 24:02}:00:00.000Z",
        "src": {"org": node, "node": node, "seq": place},
        "actor": {"type": kind, "id": node, "auth": "local"},
        "action": action,
        "outcome": "success",
        "salt": f"{place:032x}",
        **more,
    }
    return parse(values, Event, "event")


def signature(name: str, meaning: str, role: str = "officer") -> ESignature:
    return ESignature(
        name=name,
        user="u1",
        auth="os-user",
        role=role,
        meaning=meaning,
        at="2026-11-20T09:30:00.000Z",
        signed="cd" * 32,
        key="A" * 43 + "=",
        signature="ef" * 64,
    )


def row(site: str, number: int, after: str, cap: str = "8.0") -> LedgerRow:
    return LedgerRow(
        id=f"{site}-{number}",
        prev="",
        site=site,
        dataset="ward",
        lineage="ward-2026",
        study=audited.study().digest,
        round=number,
        purpose="training",
        dp={"type": "Gaussian", "noise_multiplier": "1.1"},
        sampler="poisson",
        sample_rate="0.04",
        noise_multiplier="1.1",
        clip_norm="1.0",
        clipping="flat",
        steps=25,
        steps_planned=100,
        rng="aes-ctr",
        floating_point="float32",
        delta="1e-05",
        epsilon="1.25",
        accountant=Accountant(name="PLD", version="0.6"),
        lifetime=Lifetime(
            before="1.0", after=after, cap=cap, delta="1e-05", order="8", spent="1", limit="9"
        ),
        code="",
        software={},
        at="2026-11-02T00:00:00.000Z",
    )


def log() -> list[Event]:
    """What a consortium's log may hold."""
    study = audited.study().digest
    found = [event(i, "node.enrolled", detail={"site": site}) for i, site in enumerate(SITES)]
    for site in SITES:
        found.append(
            event(len(found), "study.approved", study=study,
                  detail={"site": site, "person": f"Dr. {site.title()}"})
        )  # fmt: skip
    for number in (1, 2):
        for site in SITES:
            sent = [
                {"t": "update", "h": HASH, "bytes": 4096 + number},
                {"t": "model.in", "h": HASH},
            ]
            found.append(
                event(len(found), "round.update.sent", site, study=study, round=number, obj=sent)
            )
    more: list[tuple[str, dict[str, Any]]] = [
        ("round.refused", {"outcome": "denied", "reason": "policy.hours", "round": 2}),
        ("auth.fail", {"outcome": "denied", "reason": "no such token", "detail": {"site": "east"}}),
        ("log.review", {"detail": {"reviewer": "Q. Auditor", "first": "0", "last": "12",
                                   "findings": "one refusal, explained"}}),
        ("dataset.retired", {"detail": {"dataset": "ward"}}),
        ("flag.dispositioned", {"study": study, "detail": {"flag": "0a1b2c3d"}}),
        ("export.sealed", {"detail": {"person": "Dr. E. Haddad", "audience": "consortium"}}),
    ]  # fmt: skip
    for action, values in more:
        found.append(event(len(found), action, **values))
    return found


def facts(harder: str = "female") -> StudyFacts:
    """A completed, released study in which one group fares worse."""
    study = audited.study()
    wards = {site: audited.ward(i, 600, harder) for i, site in enumerate(SITES)}
    evaluations = {site: audited.evaluation(rows) for site, rows in wards.items()}
    spent = Spent(
        sampler="poisson", sample_rate=0.04, noise_multiplier=1.1, steps=25, delta=1e-5,
        epsilon=1.25, lifetime_epsilon=2.5, cap_epsilon=8.0, cap_delta=1e-5,
    )  # fmt: skip
    return StudyFacts(
        study=study,
        digest=study.digest,
        state="completed",
        cause="",
        submitted_at="2026-11-01T00:00:00.000Z",
        ended_at="2026-11-02T00:00:00.000Z",
        consents={
            site: Consent(
                decision="approved",
                approvers=(f"Dr. {site.title()}",),
                approved_at="2026-11-01T03:00:00.000Z",
                patients="500-999",
            )
            for site in SITES
        },
        rounds=tuple(
            RoundFacts(
                round=number,
                seconds=2.5,
                replied=SITES,
                missing=(),
                refused={},
                received={site: {"update": 4500, "evaluated": 900} for site in SITES},
                spent={"west": spent},
            )
            for number in (1, 2)
        ),
        evaluations=evaluations,
        audit=audit(study, evaluations),
        performance=of_study(evaluations, study),
        flags=(
            FlagFacts("0a1b2c3d", "fairness", None, "sex: female against male: gap 0.200", False,
                      "accept", "measured again in a year",
                      signature("Dr. E. Haddad", "disposition of this flag")),
            FlagFacts("4e5f6a7b", "measured", "west", "west: did not measure it", True),
        ),
        model=ModelFacts("12" * 32, 8192, 2048, "# card", signature("Dr. E. Haddad", "release")),
    )  # fmt: skip


def evidence(events: Sequence[Event] | None = None, withheld: int = 2, **changes: Any) -> Evidence:
    """All of it; the last places of the log are withheld."""
    shown = log() if events is None else list(events)
    entries = [Entry(i, one.leaf, one.line, one) for i, one in enumerate(shown)]
    entries += [Entry(len(shown) + i, bytes(32), None, None) for i in range(withheld)]
    values: dict[str, Any] = {
        "audience": "consortium",
        "role": "coordinator",
        "node": "net",
        "consortium": "net",
        "origin": "net.cohortium/log",
        "at": "2026-11-02T00:00:00.000Z",
        "since": "",
        "until": "",
        "officer": "Dr. E. Haddad",
        "log_key": "net.cohortium/log+00+AA",
        "witnesses": dict.fromkeys(SITES, "key"),
        "entries": tuple(entries),
        "sites": tuple(
            SiteFacts(site, "A" * 44, "SHA256:abc", "2026-10-01T00:00:00.000Z", None, "500-999")
            for site in SITES
        ),
        "studies": (facts(),),
        "ledger": (row("north", 1, "1.3"), row("north", 2, "2.5"), row("south", 1, "8.4")),
        "selftests": (
            Selftest(site="north", level="L0", verdict="passed", words="noise as accounted for",
                     code="", at="2026-11-01T00:00:00.000Z"),
            Selftest(site="south", level="L1", verdict="inconclusive", words="control not caught",
                     claim="3.0", estimate="0.4", control="0.9", code="",
                     at="2026-11-01T00:00:00.000Z"),
        ),
        "software": {"python": "3.11.9", "torch": "2.6"},
        "code": "34" * 32,
        "version": "0.1.0+3434",
        "witnessed": (Cosigned("north", 9, "2026-11-01T09:30:00.000Z"),
                      Cosigned("south", 12, "2026-11-01T12:30:00.000Z")),
    }  # fmt: skip
    return Evidence(**{**values, **changes})
