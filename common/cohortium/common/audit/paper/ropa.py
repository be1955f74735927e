"""gdpr/ropa.csv: the record of processing activities (GDPR Art. 30), a row per study and site.

An engineering reading, not legal advice: who is controller, jointly or not, is for them to say.
"""

from collections.abc import Iterator

from cohortium.common.audit.evidence import Evidence, StudyFacts
from cohortium.common.audit.paper.safeguards import safeguards
from cohortium.common.audit.paper.text import CONTROLLER, count, csv_file, listed

PATH = "gdpr/ropa.csv"
HEADER = (
    "study",
    "study sha256",
    "controller (site)",
    "joint controllers (Art. 26)",
    "contact and data protection officer",
    "purpose",
    "legal basis",
    "categories of data subjects",
    "categories of personal data",
    "special categories (Art. 9)",
    "recipients",
    "transfers to third countries",
    "erasure",
    "security measures (Art. 32)",
    "state",
    "to be completed by",
)


def ropa(evidence: Evidence) -> dict[str, bytes]:
    rows = [row for facts in evidence.studies for row in _rows(evidence, facts)]
    return {PATH: csv_file(HEADER, rows)}


def _rows(evidence: Evidence, facts: StudyFacts) -> Iterator[tuple[str, ...]]:
    study = facts.study
    sites = study.sites.names
    own = [site for site in sites if evidence.role == "coordinator" or site == evidence.node]
    for site in own:
        yield (
            study.name,
            facts.digest,
            site,
            f"{listed(name for name in sites if name != site)}; {CONTROLLER}: are they jointly?",
            CONTROLLER,
            f"{study.purpose.text} (data use {study.purpose.duo})",
            f"{study.purpose.legal_basis} (as the study says; {CONTROLLER}: Art. 6 and 9)",
            _subjects(facts, site),
            listed(study.columns_read),
            f"data concerning health: {study.task.outcome}; {CONTROLLER}: others",
            _recipients(evidence, facts),
            f"{CONTROLLER}: where coordinator and sites are is not recorded",
            f"rows: {CONTROLLER}; records of this bundle: manifest.json, retain_until",
            "; ".join(one.line for one in safeguards(evidence, facts)),
            facts.state,
            f"{site}, its data protection officer",
        )


def _subjects(facts: StudyFacts, site: str) -> str:
    part = "measured only" if site in facts.study.sites.evaluate_only else "training and measuring"
    consent = facts.consents.get(site)
    decision = consent.decision if consent else "no decision recorded"
    return f"patients in the dataset {facts.study.data.dataset} of {site} ({part}; {decision})"


def _recipients(evidence: Evidence, facts: StudyFacts) -> str:
    got = sum(
        event.action == "model.downloaded" and event.study == facts.digest
        for event in evidence.events
    )
    seen = "masked updates" if facts.secure_aggregation else "each site's update"
    return (
        f"coordinator {evidence.consortium}: {seen}, results after disclosure control; "
        f"every site: the models of the rounds; exported {count(got, 'time')}"
    )
