"""data/datasheets/SITE.json: what is known of a site's data, and what is not.

Shaped after the dataset documentation of STANDING Together (2024). Only what the public schema, the
study and public bands say; what nobody recorded says so, and who can say it.
"""

from typing import Any

from cohortium.common.audit.evidence import Evidence, StudyFacts
from cohortium.common.audit.paper import subject
from cohortium.common.audit.paper.account import promise
from cohortium.common.audit.paper.text import json_file
from cohortium.common.schema import CategoryColumn, FlagColumn, NarrowColumn, NumberColumn
from cohortium.common.wide_columns import WideColumn

UNKNOWN = "not recorded: the site has to say"


def datasheets(evidence: Evidence) -> dict[str, bytes]:
    """One for each site that the exporting party may speak of."""
    names = {site.name for site in evidence.sites}
    names |= {site for facts in evidence.studies for site in facts.study.sites.names}
    if evidence.role == "site":
        names &= {evidence.node}
    return {f"data/datasheets/{name}.json": _sheet(evidence, name) for name in sorted(names)}


def _sheet(evidence: Evidence, site: str) -> bytes:
    mine = [facts for facts in evidence.studies if site in facts.study.sites.names]
    return json_file(
        {
            "site": site,
            "exported_at": evidence.at,
            "datasets": [_dataset(evidence, site, name) for name in _datasets(mine)],
            "patients_band": _band(evidence, site, mine),
            "used_in": [_use(facts, site) for facts in mine],
            "provenance": {
                "source_of_the_records": UNKNOWN,
                "original_purpose": UNKNOWN,
                "period": UNKNOWN,
                "setting_and_country": UNKNOWN,
                "inclusion_and_exclusion": UNKNOWN,
                "labelling": UNKNOWN,
                "cleaning": UNKNOWN,
            },
            "who_is_in_it": {
                "how_attributes_were_recorded": UNKNOWN,
                "who_is_missing": UNKNOWN,
                "missing_values": "counted at the site only, and not shown",
                "groups_looked_at": _groups(mine),
            },
            "ethics_and_governance": {"review": UNKNOWN, "patients_involved": UNKNOWN},
            "to_be_completed_by": site,
        }
    )


def _datasets(mine: list[StudyFacts]) -> list[str]:
    return sorted({facts.study.data.dataset for facts in mine})


def _band(evidence: Evidence, site: str, mine: list[StudyFacts]) -> str:
    if any(map(subject.blinded, mine)) and evidence.role != "site":
        return subject.NOT_SAID
    known = next((one.patients for one in evidence.sites if one.name == site), "")
    consents = [facts.consents[site].patients for facts in mine if site in facts.consents]
    return known or next(filter(None, reversed(consents)), "unknown")


def _dataset(evidence: Evidence, site: str, name: str) -> dict[str, Any]:
    """The public data model, and when it was registered or changed, if the log shows that."""
    schemas = {
        facts.study.data_model.name: facts.study.data_model
        for facts in evidence.studies
        if facts.study.data.dataset == name
    }
    events = [
        {"at": event.ts, "action": event.action}
        for event in evidence.events
        if event.action.startswith("dataset.")
        and event.src.node == site
        and event.detail.get("dataset") == name
    ]
    return {
        "name": name,
        "data_models": [
            {
                "name": model.name,
                "description": model.description or UNKNOWN,
                "columns": {key: _column(column) for key, column in model.columns.items()},
            }
            for _, model in sorted(schemas.items())
        ],
        "events": events,
        "licence_and_access": "controlled by the site; nobody outside it sees a row",
    }


def _column(column: NarrowColumn | WideColumn) -> dict[str, Any]:
    """Public bounds and codes: of the schema, never of patients."""
    said: dict[str, Any] = {"kind": column.kind, "description": column.description or UNKNOWN}
    if isinstance(column, NumberColumn):
        return {**said, "unit": column.unit, "low": column.low, "high": column.high}
    if not isinstance(column, FlagColumn | CategoryColumn):
        return {**column.model_dump(mode="json"), **said}
    return {**said, "codes": list(column.codes), "labels": list(column.labels)}


def _use(facts: StudyFacts, site: str) -> dict[str, Any]:
    study, consent = facts.study, facts.consents.get(site)
    return {
        "study": study.name,
        "digest": facts.digest,
        "purpose": study.purpose.text,
        "data_use": study.purpose.duo,
        "legal_basis": study.purpose.legal_basis,
        "decision": consent.decision if consent else "no decision recorded",
        "inputs": list(study.data.features),
        "outcome": study.task.outcome,
        "missing_values": study.preprocessing.missing,
        "trains": site not in study.sites.evaluate_only,
        "privacy": promise(facts),
    }


def _groups(mine: list[StudyFacts]) -> dict[str, list[str]]:
    return {
        name: list(facts.study.attribute_levels(name))
        for facts in mine
        for name in facts.study.fairness.attributes
    }
