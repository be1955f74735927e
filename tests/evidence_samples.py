"""Evidence as a coordinator would gather it, made from real documents without any database."""

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests import audited

from cohortium.common.audit.events import Actor, Event, Source, Thing, uuid7
from cohortium.common.audit.evidence import (
    Audience,
    Entry,
    ESignature,
    Evidence,
    FlagFacts,
    Licence,
    ModelFacts,
    RoundFacts,
    SiteFacts,
    StudyFacts,
)
from cohortium.common.document import digest
from cohortium.common.fairness.audit import audit
from cohortium.common.fairness.verdicts import FairnessAudit
from cohortium.common.identity import SigningKey
from cohortium.common.messages import Consent, Spent
from cohortium.common.metrics.performance import of_study
from cohortium.common.metrics.tallies import SiteEvaluation
from cohortium.common.privacy.ledger_row import Accountant, LedgerRow, Lifetime
from cohortium.common.privacy.selftest import Selftest
from cohortium.common.study import Study
from cohortium.server.gates import Findings, flags

AT = "2026-11-22T14:03:42.000Z"
SITES = ("north", "south", "west")
PATIENTS = {"north": 2800, "south": 1600, "west": 1200}
BANDS = {"north": "5000-9999", "south": "2000-4999", "west": "1000-1999"}
PRIVATE = {"mechanism": "gaussian", "epsilon": 3.0, "delta": 1e-5, "clip_norm": 1.0}
SIGMA = 2.5
CODE = "c0" * 32
MODEL = "ab" * 32


def study(private: bool = True, blinded: bool = False, **more: Any) -> Study:
    """Ill or well in three wards, looked at by sex and insurance."""
    plain = audited.study(SITES)
    values: dict[str, Any] = plain.model_dump()
    values["training"] = {"rounds": 4, "batches": "full"}
    if private:
        values["privacy"] = PRIVATE
    values["evaluation"] = {"blinded": blinded}
    return Study.model_validate({**values, **more})


@functools.cache
def evaluations(harder: str = "female") -> dict[str, SiteEvaluation]:
    """Of which `harder` patients are found less often."""
    return {
        site: audited.evaluation(audited.ward(place, PATIENTS[site], harder))
        for place, site in enumerate(SITES)
    }


def signature(name: str = "Dr. E. Haddad", meaning: str = "release of this model") -> ESignature:
    return ESignature(
        name=name,
        user="haddad",
        auth="os-user",
        role="officer",
        meaning=meaning,
        at=AT,
        signed="5e" * 32,
        key="A" * 44,
        signature="51" * 64,
    )


def facts(
    of: Study | None = None,
    *,
    found: Mapping[str, SiteEvaluation] | None = None,
    card: str = "---\nlicense: unknown\n---\n\n# made-up\n\nThe card that left.\n",
    released: bool = True,
    flagged: bool = True,
    **more: Any,
) -> StudyFacts:
    """A completed study with everything that is recorded of it."""
    of = of or study()
    found = evaluations() if found is None else found
    rounds = tuple(_round(of, number) for number in range(1, of.training.rounds + 1))
    audited_groups = _audit(of, found) if found else None
    made = StudyFacts(
        study=of,
        digest=of.digest,
        state="completed",
        cause="",
        submitted_at="2026-11-20T08:00:00.000Z",
        ended_at="2026-11-21T09:30:00.000Z",
        consents={
            site: Consent(
                decision="approved",
                approvers=(f"Dr. {site.title()}man",),
                approved_at="2026-11-20T09:00:00.000Z",
                patients=BANDS[site],
            )
            for site in SITES
        },
        rounds=rounds,
        evaluations=found,
        audit=audited_groups,
        performance=of_study(found, of) if found else (),
        model=ModelFacts(
            sha256=MODEL,
            bytes=1234,
            parameters=2,
            card=card,
            release=signature() if released else None,
        ),
        secure_aggregation=False,
    )
    if flagged and audited_groups is not None:
        raised = flags(of, Findings([], audited_groups))
        made = replace(
            made,
            flags=tuple(
                FlagFacts(flag.id, flag.gate, flag.site, flag.text, open=False, decision="accept",
                          reason="measured again in a year",
                          signature=signature(meaning="disposition of this flag"))
                for flag in raised
            ),
        )  # fmt: skip
    return replace(made, **more)


_AUDITS: dict[tuple[str, tuple[str, ...]], FairnessAudit] = {}  # half a second each


def _audit(of: Study, found: Mapping[str, SiteEvaluation]) -> FairnessAudit:
    key = of.digest, tuple(map(digest, found.values()))
    if key not in _AUDITS:
        _AUDITS[key] = audit(of, found)
    return _AUDITS[key]


def _round(of: Study, number: int) -> RoundFacts:
    private = of.privacy.mechanism != "none"
    spent = Spent(
        sampler="full-batch",
        sample_rate=1.0,
        noise_multiplier=SIGMA,
        steps=1,
        delta=1e-5,
        epsilon=0.5 * number,
        lifetime_epsilon=0.5 * number,
        cap_epsilon=8.0,
        cap_delta=1e-5,
    )
    return RoundFacts(
        round=number,
        seconds=1.5,
        replied=SITES,
        missing=(),
        refused={},
        received={site: {"update": 1000 + number} for site in SITES},
        spent=dict.fromkeys(SITES, spent) if private else {},
    )


def ledger(of: Study, sites: tuple[str, ...] = SITES) -> tuple[LedgerRow, ...]:
    """A row for each round of each site, chained as the site does it."""
    rows = []
    for site in sites:
        before = ""
        for number in range(1, of.training.rounds + 1):
            row = LedgerRow(
                id=f"{site}-{number}",
                prev=before,
                site=site,
                dataset="ward",
                lineage="ward",
                study=of.digest,
                round=number,
                purpose="training",
                dp={"type": "Gaussian", "noise_multiplier": str(SIGMA)},
                sampler="full-batch",
                sample_rate="1",
                noise_multiplier=str(SIGMA),
                clip_norm="1",
                clipping="flat",
                steps=1,
                steps_planned=of.training.rounds,
                rng="aes-256-ctr",
                floating_point="sum of four draws",
                delta="0.00001",
                epsilon=f"{0.5 * number:.3f}",
                accountant=Accountant(name="exact Gaussian DP", version="0.6.0"),
                lifetime=Lifetime(
                    before=f"{0.5 * (number - 1):.3f}",
                    after=f"{0.5 * number:.3f}",
                    cap="8",
                    delta="0.00001",
                    order="8",
                    spent=f"0.{number}",
                    limit="6.1",
                ),
                code=CODE,
                software={"numpy": "2.4.6"},
                at=AT,
            )
            before = digest(row)
            rows.append(row)
    return tuple(rows)


def selftests(study: str = "") -> tuple[Selftest, ...]:
    levels: list[tuple[Any, Any, str, str]] = [
        ("L0", "passed", "", ""),
        ("L1", "passed", "3.1", "1.86"),
        ("L2", "inconclusive", "3.1", "0.4321"),
    ]
    return tuple(
        Selftest(
            site="north",
            level=level,
            verdict=verdict,
            words="as it says",
            claim=claim,
            estimate=estimate,
            study=study,
            code=CODE,
            at=AT,
        )
        for level, verdict, claim, estimate in levels
    )


def event(seq: int, action: str, node: str = "lead", **more: Any) -> Event:
    kind: Any = "coordinator" if node == "lead" else "site"
    return Event(
        id=uuid7(1_795_000_000_000 + seq, bytes(10)),
        ts=AT,
        src=Source(org=node, node=node, seq=seq),
        actor=Actor(type=kind, id=node, auth="own-key"),
        action=action,
        outcome=more.pop("outcome", "success"),
        salt="00" * 16,
        **more,
    )


def events(of: Study) -> tuple[Event, ...]:
    """A few of each group."""
    table = Thing(t="dataset", id="ward", h="sha256:" + "d7" * 32)
    return (
        event(0, "study.created", study=of.digest),
        event(0, "dataset.snapshot", "north", obj=(table,), detail={"dataset": "ward"}),
        event(1, "study.approved", "north", study=of.digest, detail={"digest": of.digest}),
        event(2, "round.update.sent", "north", study=of.digest, round=1),
        event(1, "round.refused", "south", study=of.digest, outcome="denied",
              reason="policy.max_rounds"),
        event(1, "log.review", detail={"reviewer": "Dr. E. Haddad", "findings": "none"}),
    )  # fmt: skip


def evidence(*studies: StudyFacts, audience: Audience = "regulator", **more: Any) -> Evidence:
    """A bundle's evidence of one consortium of three wards."""
    shown = studies or (facts(),)
    logged = tuple(e for one in shown for e in events(one.study))
    entries = tuple(Entry(i, e.leaf, e.line, e) for i, e in enumerate(logged))
    rows = tuple(
        row
        for one in shown
        if one.study.privacy.mechanism != "none"
        for row in ledger(one.study)
    )  # fmt: skip
    made = Evidence(
        audience=audience,
        role="coordinator",
        node="lead",
        consortium="lead",
        origin="lead.cohortium/log",
        at=AT,
        since="2026-01-01T00:00:00.000Z",
        until=AT,
        officer="Dr. E. Haddad",
        log_key="lead.cohortium/log+00+key",
        witnesses={site: f"lead.cohortium/{site}/witness+00+key" for site in SITES},
        entries=entries,
        sites=tuple(
            SiteFacts(site, "A" * 44, f"SHA256:{site}", AT, patients=BANDS[site]) for site in SITES
        ),
        studies=shown,
        ledger=rows,
        selftests=selftests(),
        software={"cohortium": "0.1.0", "numpy": "2.4.6", "torch": "2.13.0+cpu"},
        code=CODE,
        version="0.1.0+c0c0c0c0c0c0",
        licences={"numpy": Licence("BSD-3-Clause", spdx=True), "torch": Licence("BSD", spdx=False)},
    )
    return replace(made, **more)


def signing(of: Evidence, key: SigningKey) -> Evidence:
    """The same, by a party that signs."""
    return replace(of, sign=key.sign, key=key.public.text)
