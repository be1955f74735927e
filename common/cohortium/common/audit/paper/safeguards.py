"""Which protections a study really had: read from the study and from events, claimed nowhere."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from cohortium.common.audit.evidence import Evidence, StudyFacts
from cohortium.common.audit.paper.account import promise
from cohortium.common.audit.paper.text import count, decimal, listed

State = Literal["on", "off", "not recorded"]


@dataclass(frozen=True)
class Safeguard:
    """One protection, whether it was on, in words, and where that was read."""

    name: str
    state: State
    words: str
    source: str

    @property
    def line(self) -> str:
        return f"{self.name}: {self.state} ({self.words})"


def safeguards(evidence: Evidence, facts: StudyFacts) -> tuple[Safeguard, ...]:
    """Every protection that a study can have, in a fixed order."""
    return tuple(_safeguards(evidence, facts))


def _safeguards(evidence: Evidence, facts: StudyFacts) -> Iterator[Safeguard]:
    yield _differential_privacy(facts)
    yield _secure_aggregation(facts)
    yield _disclosure_control(evidence, facts)
    yield _sizes(facts)
    yield _public_scaling(facts)
    yield _cap(evidence, facts)
    yield _approval(facts)
    yield _refusals(evidence, facts)
    yield _gates(facts)
    yield _audits(evidence, facts)
    yield _transport(evidence)
    yield _log(evidence)


def _differential_privacy(facts: StudyFacts) -> Safeguard:
    on = facts.study.privacy.mechanism != "none"
    return Safeguard("differential privacy of training", _state(on), promise(facts), "study")


def _secure_aggregation(facts: StudyFacts) -> Safeguard:
    name, masked = "secure aggregation", facts.secure_aggregation
    if masked is None:
        words = "nothing in the evidence says whether updates were masked from the coordinator"
        return Safeguard(name, "not recorded", words, "evidence")
    words = "not seen one by one" if masked else "seen by the coordinator as each site sent it"
    return Safeguard(name, _state(masked), f"an update was {words}", "coordinator")


def _disclosure_control(evidence: Evidence, facts: StudyFacts) -> Safeguard:
    noise = facts.study.evaluation.noise_epsilon
    if noise is not None:
        words = f"counts of held-out patients leave with noise that costs epsilon {decimal(noise)}"
        return Safeguard("disclosure control of results", "on", words, "study")
    said = {
        event.detail["suppressed_below"]
        for event in evidence.events
        if event.study == facts.digest and "suppressed_below" in event.detail
    }
    if not said:
        words = (
            "each site's own policy says below which size a cell is hidden; it is not shown here"
        )
        return Safeguard("disclosure control of results", "not recorded", words, "events")
    words = f"cells below {listed(sorted(said))} are hidden; not covered by epsilon"
    return Safeguard("disclosure control of results", "on", words, "events")


def _sizes(facts: StudyFacts) -> Safeguard:
    weighting = facts.study.strategy.weighting
    words = {
        "bands": "the coordinator learns a public band of each site's size",
        "equal": "sites count equally",
        "exact": "exact numbers of patients leave the sites",
    }[weighting]
    return Safeguard("sizes of sites as bands only", _state(weighting != "exact"), words, "study")


def _public_scaling(facts: StudyFacts) -> Safeguard:
    scaling = facts.study.preprocessing.scaling
    name = "preprocessing without patients' statistics"
    of_patients = scaling in ("federated-standard", "site-standard")
    return Safeguard(name, _state(not of_patients), f"scaling {scaling}", "study")


def _cap(evidence: Evidence, facts: StudyFacts) -> Safeguard:
    rows = [row for row in evidence.ledger if row.study == facts.digest]
    refused = sum(
        event.action == "privacy.cap.hit" and event.study == facts.digest
        for event in evidence.events
    )
    if not rows:
        words = "no ledger row of this study is in the evidence"
        return Safeguard("lifetime privacy cap", "not recorded", words, "ledger")
    filters = listed(sorted({row.lifetime.filter for row in rows}))
    words = f"{filters} filter at each site, {count(len(rows), 'ledger row')}, {refused} refused"
    return Safeguard("lifetime privacy cap", "on", words, "ledger, events")


def _approval(facts: StudyFacts) -> Safeguard:
    approved = [c for c in facts.consents.values() if c.decision == "approved"]
    asked = len(facts.study.sites.names)
    words = f"{len(approved)} of {count(asked, 'site')} approved"
    name = "approval by each site before anything runs"
    return Safeguard(name, "on" if approved else "not recorded", words, "consents")


def _refusals(evidence: Evidence, facts: StudyFacts) -> Safeguard:
    rules = Counter(
        (event.reason or "unspecified").split(":")[0]
        for event in evidence.events
        if event.action in ("round.refused", "study.rejected") and event.study == facts.digest
    )
    words = listed(
        (f"{rule} ({number})" for rule, number in sorted(rules.items())),
        "no refusal is in the evidence",
    )
    name = "sites' own rules, by what they refused"
    return Safeguard(name, "on" if rules else "not recorded", words, "events")


def _gates(facts: StudyFacts) -> Safeguard:
    gates = facts.study.release.gates
    still_open = sum(flag.open for flag in facts.flags)
    words = f"gates {listed(gates)}; {count(len(facts.flags), 'flag')}, {still_open} open"
    if facts.model and facts.model.overridden:
        words += f"; released over {facts.model.overridden} open"
    return Safeguard("release gates", _state(bool(gates)), words, "study, flags")


def _audits(evidence: Evidence, facts: StudyFacts) -> Safeguard:
    name = "empirical audit of private training"
    if facts.study.privacy.mechanism == "none":
        return Safeguard(name, "off", "the study has no privacy to audit", "study")
    about = [one for one in evidence.selftests if one.study in ("", facts.digest)]
    tally = Counter((one.level, one.verdict) for one in about)
    words = listed(
        (f"{level} {verdict} ({number})" for (level, verdict), number in sorted(tally.items())),
        "no self-test is in the evidence",
    )
    return Safeguard(name, "on" if about else "not recorded", words, "selftests")


def _transport(evidence: Evidence) -> Safeguard:
    said = sorted({event.detail["tls"] for event in evidence.events if "tls" in event.detail})
    words = listed(said, "no event in the evidence names a TLS version")
    return Safeguard("encrypted transport", "on" if said else "not recorded", words, "events")


def _log(evidence: Evidence) -> Safeguard:
    witnesses = len(evidence.witnesses)
    words = f"Merkle log of {count(len(evidence.entries), 'event')}, {witnesses} with a witness key"
    return Safeguard("tamper-evident log", "on", words, "log")


def _state(on: bool) -> State:
    return "on" if on else "off"
