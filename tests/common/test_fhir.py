"""FHIR output is what R4 says: by fhir.resources, by its bindings and by its invariants."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B.auditevent import AuditEvent
from fhir.resources.R4B.bundle import Bundle
from hypothesis import given, settings
from tests import random_events
from tests.bundles import entries, made
from tests.federation import PLAIN, write_study

from cohortium.common.audit import fhir
from cohortium.common.audit.events import DETAIL_KEYS, Event, read_event
from cohortium.common.audit.evidence import (
    Entry,
    ESignature,
    Evidence,
    ModelFacts,
    RoundFacts,
    StudyFacts,
)
from cohortium.common.audit.fhir_codes import FORMS
from cohortium.common.document import canonical, parse

CONSORTIUM = "heart-net"

# What the checks below know of R4, written down from https://hl7.org/fhir/R4 and not from our code.
HL7 = "http://terminology.hl7.org/CodeSystem/"
DCM = "http://dicom.nema.org/resources/ontology/DCM"
ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
INSTANT = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?"
    r"(Z|[+-]\d\d:\d\d)"
)
CODE = re.compile(r"[^\s]+(\s[^\s]+)*")
BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
ABSOLUTE = re.compile(r"[a-z][a-z0-9+.-]*:[^\s]+")
UUID_URN = re.compile(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NI = re.compile(r"ni:///sha-256;[A-Za-z0-9_-]{43}")
AUDIT_EVENT_TYPES = {str(code) for code in range(110100, 110115)}
AUDIT_EVENT_SUB_TYPES = {str(code) for code in range(110120, 110143)}
AGENT_TYPES = {"110150", "110151", "110152", "110153", "110154", "110155"}
ISO_21089 = """
    access hold amend archive attest decrypt deidentify deprecate destroy disclose encrypt
    extract link merge originate pseudonymize reactivate receive reidentify unhold report
    restore transform transmit unlink unmerge verify"""
KEYS = {
    *("resourceType", "id", "type", "subtype", "action", "period", "recorded", "outcome"),
    *("outcomeDesc", "purposeOfEvent", "agent", "source", "entity"),
}
OWN_ACTIONS = "urn:cohortium:audit:v1:action"


def primitives(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value below a resource with the path of its keys; fail where one is empty."""
    if isinstance(value, dict):
        assert value, f"{path}: an object without a property"
        for key, item in value.items():
            yield from primitives(item, f"{path}.{key}")
    elif isinstance(value, list):
        assert value, f"{path}: an empty array"
        for item in value:
            yield from primitives(item, path)
    else:
        yield path, value


def check_any(resource: dict[str, Any]) -> None:
    """What holds for every R4 resource: ids, strings, codes, systems, references."""
    assert ID.fullmatch(resource["id"])
    for path, value in primitives(resource):
        assert value is not None, path
        assert not isinstance(value, float), path
        if isinstance(value, str):
            assert value.strip(), f"{path}: blank"
            assert len(value.encode()) <= 2**20, path
        if path.endswith((".code", ".status")):
            assert CODE.fullmatch(value), path
        if path.endswith((".system", ".policy", ".profile")):
            assert ABSOLUTE.fullmatch(value), (path, value)
    for reference in references(resource):
        check_reference(reference)
    for coding in codings(resource):
        assert set(coding) >= {"system", "code"}


def references(value: Any) -> Iterator[dict[str, Any]]:
    """Everything that stands where R4 wants a Reference."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("who", "what", "observer", "onBehalfOf", "target", "author", "related"):
                yield from item if isinstance(item, list) else [item]
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def check_reference(reference: dict[str, Any]) -> None:
    """ref-1 and R4 2.3.0: a reference says something, by identifier, reference or at least text."""
    assert set(reference) <= {"reference", "type", "identifier", "display"}
    assert set(reference) & {"reference", "identifier", "display"}
    if "identifier" in reference:
        identifier = reference["identifier"]
        assert set(identifier) == {"system", "value"}
        if identifier["system"] == "urn:ietf:rfc:3986":
            value = identifier["value"]
            assert UUID_URN.fullmatch(value) or NI.fullmatch(value), value


def codings(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "code" in value:
            yield value
        for item in value.values():
            yield from codings(item)
    elif isinstance(value, list):
        for item in value:
            yield from codings(item)


def check_audit_event(resource: dict[str, Any]) -> None:
    """Cardinalities, bindings and invariants of R4 AuditEvent that fhir.resources leaves alone."""
    check_any(resource)
    assert set(resource) <= KEYS
    assert resource["type"]["system"] == DCM
    assert resource["type"]["code"] in AUDIT_EVENT_TYPES
    standard, own = resource["subtype"]
    allowed = {
        DCM: AUDIT_EVENT_SUB_TYPES,
        f"{HL7}iso-21089-lifecycle": set(ISO_21089.split()),
    }
    assert standard["code"] in allowed[standard["system"]]
    assert standard["display"]
    assert (own["system"], own["code"] in DETAIL_KEYS) == (OWN_ACTIONS, True)
    assert resource["action"] in list("CRUDE")
    assert resource["outcome"] in ("0", "4", "8", "12")
    assert INSTANT.fullmatch(resource["recorded"])
    datetime.fromisoformat(resource["recorded"])
    for purpose in resource["purposeOfEvent"]:
        assert purpose["coding"][0]["system"] == f"{HL7}v3-ActReason"
        assert purpose["coding"][0]["code"] in ("HRESCH", "HSYSADMIN")
    check_agents(resource["agent"])
    source = resource["source"]
    assert set(source) == {"site", "observer", "type"}
    assert [t["system"] for t in source["type"]] == [f"{HL7}security-source-type"]
    assert source["type"][0]["code"] in set("123456789")
    for entity in resource["entity"]:
        check_entity(entity)


def check_agents(agents: list[dict[str, Any]]) -> None:
    assert agents
    for agent in agents:
        assert isinstance(agent["requestor"], bool)
        (kind,) = agent["type"]["coding"]
        if kind["code"] == "humanuser":
            assert kind["system"] == f"{HL7}extra-security-role-type"
        else:
            assert (kind["system"], kind["code"] in AGENT_TYPES) == (DCM, True)
            assert not agent["requestor"]
        assert "altId" not in agent
    assert sum(agent["requestor"] for agent in agents) <= 1


def check_entity(entity: dict[str, Any]) -> None:
    assert not ("name" in entity and "query" in entity), "sev-1"
    assert "what" in entity
    assert entity["type"]["system"] == f"{HL7}audit-entity-type"
    assert entity["type"]["code"] in set("1234")
    assert entity["role"]["system"] == f"{HL7}object-role"
    assert int(entity["role"]["code"]) in range(1, 25)
    if "lifecycle" in entity:
        assert entity["lifecycle"]["system"] == f"{HL7}dicom-audit-lifecycle"
        assert int(entity["lifecycle"]["code"]) in range(1, 16)
    for detail in entity.get("detail", []):
        assert set(detail) in ({"type", "valueString"}, {"type", "valueBase64Binary"})
        if "valueBase64Binary" in detail:
            assert BASE64.fullmatch(detail["valueBase64Binary"])


def evidence_of(*events: Event, studies: tuple[StudyFacts, ...] = ()) -> Evidence:
    """What a coordinator would show of these events, at their places."""
    entries = tuple(
        Entry(place, event.leaf, event.line, event) for place, event in enumerate(events)
    )
    return Evidence(
        audience="regulator",
        role="coordinator",
        node=CONSORTIUM,
        consortium=CONSORTIUM,
        origin=f"{CONSORTIUM}.cohortium/log",
        at="2026-11-22T15:00:00.000Z",
        since="2026-01-01T00:00:00.000Z",
        until="2026-11-22T15:00:00.000Z",
        officer="Dr. Okafor",
        log_key="",
        witnesses={},
        entries=entries,
        sites=(),
        studies=studies,
        ledger=(),
        selftests=(),
        software={},
        code="",
        version="0.1.0",
    )


def audit_events(evidence: Evidence) -> list[dict[str, Any]]:
    lines = fhir.files(evidence)[fhir.AUDIT_EVENTS].decode().split("\n")
    assert lines.pop() == ""
    return [json.loads(line) for line in lines]


def audit_event(event: Event) -> dict[str, Any]:
    (resource,) = audit_events(evidence_of(event))
    return resource


def an_event(action: str, **values: Any) -> Event:
    base = {
        "id": "019aabe4-0c4b-7000-8000-000000000000",
        "ts": "2026-11-22T14:03:42.123Z",
        "src": {"org": "Hospital A", "node": "a", "seq": 7},
        "actor": {"type": "site", "id": "a", "auth": "signature:SHA256:x"},
        "outcome": "success",
        "salt": "00" * 16,
        "action": action,
    }
    return parse({**base, **values}, Event, "event")


# ------------------------------------------------------------------ AuditEvent


def test_every_action_of_the_vocabulary_has_a_mapping() -> None:
    assert set(FORMS) == set(DETAIL_KEYS)


@pytest.mark.parametrize("action", sorted(DETAIL_KEYS))
def test_each_action_becomes_a_valid_audit_event(action: str) -> None:
    resource = audit_event(an_event(action, study="ab" * 32, round=2))
    AuditEvent.model_validate(resource)
    check_audit_event(resource)


@given(event=random_events.events())
@settings(max_examples=60, deadline=None)
def test_whatever_the_vocabulary_allows_becomes_a_valid_audit_event(event: Event) -> None:
    resource = audit_event(event)
    AuditEvent.model_validate(resource)
    check_audit_event(resource)
    people = [agent for agent in resource["agent"] if agent["requestor"]]
    assert len(people) == (event.actor.type == "person")
    said = json.dumps(resource, ensure_ascii=False)
    for thing in event.obj:
        assert thing.h.removeprefix("sha256:") in said
    values = {
        d["valueString"]
        for e in resource["entity"]
        for d in e.get("detail", [])
        if "valueString" in d
    }
    assert {text for text in event.detail.values() if text.strip()} <= values


@given(event=random_events.events())
@settings(max_examples=25, deadline=None)
def test_an_audit_event_says_no_word_that_the_event_does_not(event: Event) -> None:
    """The wording of codes apart: what is a name in one event appears in no other."""
    other = audit_event(an_event(event.action))
    ours = {v for _, v in primitives(audit_event(event)) if isinstance(v, str)}
    theirs = {v for _, v in primitives(other) if isinstance(v, str)}
    allowed = event.line + "(blank)"
    for value in ours - theirs - {event.id, f"urn:uuid:{event.id}"}:
        coded = value.startswith(("urn:cohortium:", "ni:///")) or BASE64.fullmatch(value)
        words = json.dumps(value, ensure_ascii=False)[1:-1]
        named = all(part in allowed for part in words.split("@"))  # a dataset and its version
        assert coded or named or value in WORDS, value


WORDS = {
    *("human user", "humanuser", "Job", "Domain Resource", "healthcare research", "HRESCH"),
    *("dicom", "4", "8", "12", "20", CONSORTIUM),
    *(f"{HL7}{system}" for system in ("extra-security-role-type", "dicom-audit-lifecycle")),
    *("run", "round", "id", "bytes", "sha256", "policy.id", "Destination Role ID"),
    *("110150", "110152", "110153", "Application", "Source Role ID"),
    *("Origination / Creation", "Amendment", "Verification", "Access / Use", "Report", "Export"),
    *("Aggregation / summarization / derivation", "Receipt of disclosure", "Logical deletion"),
    *("Permanent erasure / Physical destruction", "1", "3", "6", "9", "10", "14", "15", "0"),
}


def test_an_update_that_left_is_an_export_from_the_site_to_the_coordinator() -> None:
    thing = {"t": "update", "h": "sha256:" + "ab" * 32, "bytes": 1048712}
    event = an_event("round.update.sent", study="cd" * 32, round=7, obj=[thing])
    resource = audit_event(event)
    assert (resource["type"]["code"], resource["action"]) == ("110106", "R")
    who = [
        (agent["type"]["coding"][0]["code"], agent["who"]["identifier"]["value"])
        for agent in resource["agent"]
    ]
    assert who == [("110153", "a"), ("110152", CONSORTIUM)]
    update = resource["entity"][2]
    digest = base64.urlsafe_b64encode(bytes.fromhex("ab" * 32)).decode().rstrip("=")
    assert update["what"]["identifier"]["value"] == f"ni:///sha-256;{digest}"
    assert update["lifecycle"]["code"] == "8"
    assert {"type": "bytes", "valueString": "1048712"} in update["detail"]


def test_a_person_who_approved_is_the_requestor_by_name() -> None:
    event = an_event(
        "study.approved",
        actor={"type": "person", "id": "aweiss", "auth": "os-user"},
        detail={"person": "Dr. A. Weiss", "meaning": "approval"},
    )
    person, machine = audit_event(event)["agent"]
    assert (person["name"], person["requestor"]) == ("Dr. A. Weiss", True)
    assert person["who"]["identifier"] == {
        "system": f"urn:cohortium:{CONSORTIUM}:a:users",
        "value": "aweiss",
    }
    assert machine["requestor"] is False


@pytest.mark.parametrize(
    ("action", "said", "outcome"),
    [
        ("round.refused", "denied", "4"),
        ("run.failed", "failure", "8"),
        ("log.equivocation", "failure", "12"),
        ("round.update.sent", "success", "0"),
    ],
)
def test_how_it_ended_is_said_in_fhirs_numbers(action: str, said: str, outcome: str) -> None:
    resource = audit_event(an_event(action, outcome=said, reason="policy.hours"))
    assert (resource["outcome"], resource["outcomeDesc"]) == (outcome, "policy.hours")


def test_an_audit_event_leads_to_its_place_and_leaf_in_the_log() -> None:
    event = an_event("log.started")
    resource = audit_events(evidence_of(an_event("log.started"), event))[1]
    details = {d["type"]: d for d in resource["entity"][0]["detail"]}
    assert details["log.index"]["valueString"] == "1"
    leaf = base64.b64decode(details["log.leafHash"]["valueBase64Binary"])
    assert leaf == hashlib.sha256(b"\x00" + event.line.encode()).digest()


def test_a_withheld_event_is_not_shown() -> None:
    shown = evidence_of(an_event("log.started"), an_event("log.review"))
    entries = (replace(shown.entries[0], line=None, event=None), shown.entries[1])
    (resource,) = audit_events(replace(shown, entries=entries))
    assert resource["subtype"][1]["code"] == "log.review"


def test_a_name_that_is_no_uri_is_quoted_in_its_system() -> None:
    event = an_event(
        "run.paused",
        src={"org": "A", "node": "Haus 3/ä", "seq": 0},
        actor={"type": "person", "id": "x", "auth": "os-user"},
    )
    system = audit_event(event)["agent"][0]["who"]["identifier"]["system"]
    assert system == f"urn:cohortium:{CONSORTIUM}:Haus%203%2F%C3%A4:users"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("action",), "Z"),
        (("outcome",), "5"),
        (("recorded",), "2026-11-22T14:03:42.123"),
        (("id",), "a_b"),
        (("type", "code"), "110120"),
        (("type", "system"), "http://dicom.nema.org"),
        (("subtype", 0, "code"), "created"),
        (("agent", 0, "requestor"), "true"),
        (("agent",), []),
        (("entity", 0, "query"), "c2VsZWN0"),
        (("entity", 0, "role", "code"), "25"),
        (("entity", 0, "detail", 0, "valueString"), " "),
        (("entity", 0, "what", "identifier", "value"), "urn:sha256:ab"),
        (("source", "type", 0, "code"), "10"),
        (("purposeOfEvent", 0, "coding"), []),
    ],
)
def test_our_checks_find_what_r4_forbids(path: tuple[str | int, ...], value: object) -> None:
    """The checks are no decoration: each is failed by a resource that breaks it."""
    resource: Any = audit_event(an_event("round.update.sent", study="ab" * 32))
    check_audit_event(resource)
    place = resource
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises((AssertionError, KeyError)):
        check_audit_event(resource)


# ------------------------------------------------------------------ released models


@pytest.fixture
def study(tmp_path: Path) -> StudyFacts:
    loaded = write_study(tmp_path, PLAIN)
    release = ESignature(
        name="Dr. Okafor",
        user="okafor",
        auth="os-user",
        role="officer",
        meaning="release of this model, every gate being closed",
        at="2026-11-22T14:00:00.000Z",
        signed="ab" * 32,
        key=base64.b64encode(bytes(32)).decode(),
        signature="cd" * 64,
    )
    rounds = tuple(
        RoundFacts(
            round=number,
            seconds=1.0,
            replied=("b", "a") if number == 1 else ("b",),
            missing=(),
            refused={},
            received={},
            spent={},
        )
        for number in (1, 2)
    )
    return StudyFacts(
        study=loaded,
        digest=loaded.digest,
        state="completed",
        cause="",
        submitted_at="2026-11-20T10:00:00.000Z",
        ended_at="2026-11-21T10:00:00.000Z",
        rounds=rounds,
        model=ModelFacts("ef" * 32, 1000, 17, "# Card\n\nÄhnlich.\n", release),
    )


def entries_of(raw: bytes) -> list[dict[str, Any]]:
    """The resources of a collection, which R4B and our checks accept."""
    bundle = json.loads(raw)
    Bundle.model_validate(bundle)
    assert bundle["type"] == "collection"
    entries = bundle.get("entry", [])
    urls = [entry["fullUrl"] for entry in entries]
    assert urls == [f"urn:uuid:{entry['resource']['id']}" for entry in entries]
    assert len(set(urls)) == len(urls), "bdl-7"
    resources = [entry["resource"] for entry in entries]
    for resource in resources:
        check_any(resource)
    return resources


def test_a_released_model_has_a_provenance_with_its_makers(study: StudyFacts) -> None:
    (resource,) = entries_of(fhir.files(evidence_of(studies=(study,)))[fhir.PROVENANCE])
    roles = [
        (agent["type"]["coding"][0]["code"], agent["who"]["identifier"]["value"])
        for agent in resource["agent"]
    ]
    assert roles == [
        ("assembler", CONSORTIUM),
        ("performer", "a"),
        ("performer", "b"),
        ("verifier", "okafor"),
    ]
    assert {agent["type"]["coding"][0]["system"] for agent in resource["agent"]} == {
        f"{HL7}provenance-participant-type"
    }
    assert INSTANT.fullmatch(resource["recorded"])
    (signature,) = resource["signature"]
    assert signature["type"][0]["code"] == "1.2.840.10065.1.12.1.5"
    assert INSTANT.fullmatch(signature["when"])
    assert study.model is not None
    assert study.model.release is not None
    assert base64.b64decode(signature["data"], validate=True) == canonical(study.model.release)


def test_the_model_card_travels_whole_and_says_that_its_profile_may_change(
    study: StudyFacts,
) -> None:
    files = fhir.files(evidence_of(studies=(study,)))
    (card,) = entries_of(files[fhir.MODEL_CARDS])
    assert card["status"] in ("current", "superseded", "entered-in-error")
    (content,) = card["content"]
    attachment = content["attachment"]
    assert attachment["contentType"] == "text/markdown"
    raw = base64.b64decode(attachment["data"], validate=True)
    assert study.model is not None
    assert (raw.decode(), len(raw)) == (study.model.card, attachment["size"])
    assert "ballot" in card["description"]
    (provenance,) = entries_of(files[fhir.PROVENANCE])
    targets = [target["identifier"] for target in provenance["target"]]
    assert targets == [card["masterIdentifier"], card["context"]["related"][0]["identifier"]]


def test_the_same_evidence_gives_the_same_bytes_and_another_model_another_id(
    study: StudyFacts,
) -> None:
    assert study.model is not None
    evidence = evidence_of(an_event("log.started"), studies=(study,))
    assert fhir.files(evidence) == fhir.files(replace(evidence, at="2027-01-01T00:00:00.000Z"))
    other = replace(study, model=replace(study.model, sha256="01" * 32))
    ids = [
        resource["id"]
        for facts in (study, other)
        for resource in entries_of(fhir.files(evidence_of(studies=(facts,)))[fhir.PROVENANCE])
    ]
    assert len(set(ids)) == 2


def test_a_model_that_nobody_released_is_not_shown(study: StudyFacts) -> None:
    assert study.model is not None
    kept = replace(study, model=replace(study.model, release=None))
    files = fhir.files(evidence_of(studies=(kept, replace(study, model=None))))
    assert entries_of(files[fhir.PROVENANCE]) == []
    assert entries_of(files[fhir.MODEL_CARDS]) == []
    assert b"Card" not in b"".join(files.values())


def test_many_events_are_in_several_files_each_once_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = made()
    places = [replace(at, event=read_event(at.line or "", "event")) for at in entries(one.lines)]
    evidence = replace(one.evidence, entries=tuple(places))
    (whole,) = [text for name, text in fhir.files(evidence).items() if "auditevents" in name]
    monkeypatch.setattr(fhir, "PART", 25)
    parts = {name: text for name, text in fhir.files(evidence).items() if "auditevents" in name}
    assert list(parts)[:2] == ["fhir/auditevents.ndjson", "fhir/auditevents-2.ndjson"]
    assert [text.count(b"\n") for text in parts.values()][:-1] == [25] * (len(parts) - 1)
    assert b"".join(parts.values()) == whole
