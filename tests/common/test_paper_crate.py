"""The RO-Crate, by the sentences of RO-Crate 1.1 and of Process Run Crate 0.5."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import pytest
from tests import evidence_samples as samples

from cohortium.common.audit.evidence import Evidence
from cohortium.common.audit.paper.control import SEALED
from cohortium.common.audit.paper.papers import PAPERS, indexes

STUDY = "studies/made-up/study.json"
OTHERS = {STUDY: b"{}", "report/a name with spaces & more.csv": b"a,b"}
Entity = dict[str, Any]


def crate(evidence: Evidence) -> dict[str, Entity]:
    """The entities by id, after the checks that every crate must pass."""
    files = {**OTHERS, **{p: text for paper in PAPERS for p, text in paper(evidence).items()}}
    made = {**files, **indexes(evidence, files)}
    document = json.loads(made.pop("ro-crate-metadata.json"))
    assert document["@context"] == "https://w3id.org/ro/crate/1.1/context"
    graph = {entity["@id"]: entity for entity in document["@graph"]}
    assert len(graph) == len(document["@graph"]), "an id stands for two things"
    check(graph, {*made, *SEALED})
    return graph


def check(graph: dict[str, Entity], files: set[str]) -> None:
    descriptor, root = graph["ro-crate-metadata.json"], graph["./"]
    assert descriptor["about"] == {"@id": "./"}
    assert descriptor["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    assert root["@type"] == "Dataset"
    assert {"name", "description", "datePublished", "license"} <= root.keys()
    for entity in graph.values():
        assert entity["@type"]
        for reference in references(entity):
            known = reference in graph or reference == "https://w3id.org/ro/crate/1.1"
            assert known, f"{entity['@id']} -> {reference}"
    parts = {part["@id"] for part in root["hasPart"]}
    data = {e["@id"] for e in graph.values() if e["@type"] in ("File", "Dataset")} - {"./"}
    assert parts == data, "data entities are parts of the root, and nothing else is"
    local = {unquote(name) for name in data if not re.match(r"[a-z]+:", name)}
    assert local == files, "a file without an entity, or an entity without a file"


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, dict) and set(item) == {"@id"}:
                yield item["@id"]
            elif key != "@id":
                yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from [item["@id"]] if isinstance(item, dict) and set(item) == {"@id"} else ()


def action(graph: dict[str, Entity]) -> Entity:
    return next(entity for entity in graph.values() if entity["@type"] == "CreateAction")


def test_every_file_of_the_bundle_is_described_and_every_reference_leads_somewhere() -> None:
    graph = crate(samples.evidence())
    assert graph["report/a%20name%20with%20spaces%20%26%20more.csv"]["contentSize"] == "3"


def test_a_study_is_an_action_from_its_sites_data_to_a_model_by_the_federated_profile() -> None:
    graph = crate(samples.evidence())
    run = action(graph)
    assert graph[run["instrument"]["@id"]]["@type"] == "SoftwareApplication"
    inputs = {one["@id"] for one in run["object"]}
    assert STUDY in inputs
    datasets = [graph[name] for name in inputs if graph[name]["@type"] == "Dataset"]
    assert len(datasets) == 3
    for dataset in datasets:
        assert dataset["conditionsOfAccess"]
        assert graph[dataset["creator"]["@id"]]["@type"] == "Organization"
    model = next(graph[one["@id"]] for one in run["result"] if one["@id"].startswith("ni:///"))
    assert {one["@id"] for one in model["subjectOf"]} >= {"model/made-up/model-card.md"}
    values = [graph[one["@id"]] for one in run["result"] if one["@id"].startswith("#result")]
    assert len(values) > 5
    assert all(one["@type"] == "PropertyValue" and one["propertyID"] for one in values)
    assert run["endTime"] == "2026-11-21T09:30:00+00:00"
    assert run["actionStatus"].endswith("CompletedActionStatus")
    profiles = {one["@id"] for one in graph["./"]["conformsTo"]}
    assert "https://w3id.org/ro/wfrun/process/0.5" in profiles


@pytest.mark.parametrize(
    ("state", "status"),
    [("failed", "FailedActionStatus"), ("stopped", "FailedActionStatus"), ("running", "")],
)
def test_a_study_that_did_not_complete_is_not_said_to_have(state: str, status: str) -> None:
    facts = replace(
        samples.facts(),
        state=state,
        cause="south was away",
        model=None,
        ended_at="",
        performance=(),
    )
    run = action(crate(samples.evidence(facts)))
    assert run.get("actionStatus", "").endswith(status)
    assert ("error" in run) == bool(status)
    assert "result" not in run
    assert "endTime" not in run


def test_why_a_blinded_study_failed_is_not_said_as_it_names_sites() -> None:
    facts = samples.facts(samples.study(blinded=True), state="failed", cause="south was away")
    assert "south was away" not in json.dumps(action(crate(samples.evidence(facts))))


def test_two_studies_on_one_dataset_share_its_entity() -> None:
    other = samples.facts(samples.study(private=False))
    graph = crate(samples.evidence(samples.facts(), other))
    assert sum(one["@type"] == "CreateAction" for one in graph.values()) == 2
    assert sum(one["@id"].startswith("urn:cohortium:dataset") for one in graph.values()) == 3
