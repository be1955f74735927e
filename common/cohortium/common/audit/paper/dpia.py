"""gdpr/dpia-evidence.json: what a data protection impact assessment can cite (GDPR Art. 35).

Evidence, not an assessment: whether a risk is acceptable, and whether a model is anonymous (EDPB
Opinion 28/2024), is for the controllers to say. Numbers are decimal strings.
"""

import json
from collections.abc import Iterator
from typing import Any

from cohortium.common.audit.evidence import Evidence, StudyFacts
from cohortium.common.audit.paper import subject
from cohortium.common.audit.paper.account import NO_PRIVACY, accounts, promise, rows_of
from cohortium.common.audit.paper.safeguards import safeguards
from cohortium.common.audit.paper.text import CONTROLLER, decimal, json_file
from cohortium.common.privacy.selftest import Selftest

PATH = "gdpr/dpia-evidence.json"
MEANING = {
    "L0": "does the mechanism do what it says: noise, clipping, sampling, steps",
    "L1": "an estimate of epsilon from planted canaries; no proof of an upper bound",
    "L2": "a statistical lower bound on epsilon (Steinke, Nasr, Jagielski 2023)",
}


def dpia(evidence: Evidence) -> dict[str, bytes]:
    document = {
        "what_this_is": "evidence for an assessment under GDPR Art. 35; the assessment, necessity "
        f"and proportionality: {CONTROLLER}",
        "exported_at": evidence.at,
        "consortium": evidence.consortium,
        "studies": [_study(evidence, facts) for facts in evidence.studies],
        "empirical_audits": [_selftest(one) for one in evidence.selftests],
        "limits": [
            "epsilon covers what the ledger lists, under the stated unit",
            "what sites record is taken as true: nobody but the site sees its patients",
            "epsilon covers results on held-out patients only where a study says noise_epsilon",
        ],
    }
    return {PATH: json_file(document)}


def _study(evidence: Evidence, facts: StudyFacts) -> dict[str, Any]:
    return {
        "study": facts.study.name,
        "digest": facts.digest,
        "state": facts.state,
        "privacy_promised": promise(facts),
        "unit": facts.study.privacy.unit if facts.study.privacy.epsilon else NO_PRIVACY,
        "epsilon_by_site": _accounts(evidence, facts),
        "lifetime_by_site": _lifetimes(evidence, facts),
        "who_holds_the_model": _holders(evidence, facts),
        "measures": [
            {"measure": one.name, "state": one.state, "words": one.words, "read_from": one.source}
            for one in safeguards(evidence, facts)
        ],
        "necessity_and_proportionality": CONTROLLER,
        "risk_to_patients_and_residual_risk": CONTROLLER,
    }


def _accounts(evidence: Evidence, facts: StudyFacts) -> list[dict[str, Any]]:
    """Sorted, so that where no site is named their order does not tell them."""
    found = [
        {
            "site": subject.called(evidence, facts, one.site),
            "purpose": one.purpose,
            "epsilon": one.epsilon,
            "delta": one.delta,
            "unit": one.unit,
            "steps": one.steps,
            "ledger_rows": one.rows,
            "true_positive_rate_at_1_percent_false_positives": decimal(one.found),
            "in_words": one.words,
        }
        for one in accounts(evidence, facts)
    ]
    return sorted(found, key=lambda one: json.dumps(one, sort_keys=True))


def _lifetimes(evidence: Evidence, facts: StudyFacts) -> list[dict[str, str]]:
    """Everything ever done with each site's dataset, as its newest row here says."""
    found = []
    for site in facts.study.sites.names:
        rows = rows_of(evidence, site, facts.digest)
        if rows:
            lifetime = rows[-1].lifetime
            found.append(
                {
                    "site": subject.called(evidence, facts, site),
                    "dataset": rows[-1].dataset,
                    "epsilon": lifetime.after,
                    "cap": lifetime.cap,
                    "delta": lifetime.delta,
                }
            )
    return sorted(found, key=lambda one: sorted(one.items()))


def _holders(evidence: Evidence, facts: StudyFacts) -> dict[str, Any]:
    exports = [
        event.ts
        for event in evidence.events
        if event.action == "model.downloaded" and event.study == facts.digest
    ]
    model = facts.model
    return {
        "coordinator": evidence.consortium if facts.rounds else "",
        "sites_asked_for_rounds": list(_asked(facts)),
        "released": bool(model and model.release),
        "exported_at": exports,
        "beyond_the_export": CONTROLLER,
    }


def _asked(facts: StudyFacts) -> Iterator[str]:
    """Who holds the models of the rounds: every site that approved, unless that is not said."""
    for site in facts.study.sites.names:
        consent = facts.consents.get(site)
        if subject.blinded(facts) or (consent and consent.decision == "approved"):
            yield site


def _selftest(one: Selftest) -> dict[str, str]:
    return {
        "site": one.site,
        "level": one.level,
        "meaning": MEANING[one.level],
        "verdict": one.verdict,
        "claimed_epsilon": one.claim,
        "found": one.estimate,
        "found_with_broken_mechanism": one.control,
        "study": one.study or "made-up data",
        "at": one.at,
        "words": one.words,
    }
