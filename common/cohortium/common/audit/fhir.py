"""The record as FHIR R4 (4.0.1): AuditEvents, and Provenance and model card of released models.

https://hl7.org/fhir/R4/auditevent.html. Resources point at each other and at what lies outside by
identifier: events and documents by their UUID, things by their hash (`ni:`, RFC 6920).
"""

import base64
import uuid
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from cohortium.common.audit.evidence import Entry, ESignature, Evidence, ModelFacts, StudyFacts
from cohortium.common.audit.fhir_codes import (
    FORMS,
    LIFECYCLES,
    dicom,
    hl7,
    outcome,
    subtypes,
)
from cohortium.common.audit.lines import compact, joined
from cohortium.common.audit.recorded import AnyEvent
from cohortium.common.audit.titles import TITLES
from cohortium.common.document import canonical

Json = dict[str, Any]

AUDIT_EVENTS = "fhir/auditevents.ndjson"
PART = 100_000  # events in a file; further ones are `fhir/auditevents-2.ndjson` and so on
PROVENANCE = "fhir/provenance.json"
MODEL_CARDS = "fhir/modelcard-documentreference.json"

URI = "urn:ietf:rfc:3986"  # the identifier is a URI itself
AI = "http://hl7.org/fhir/uv/aitransparency"  # HL7 AI Transparency on FHIR, 1.0.0-ballot
BALLOT = "Profile AI-ModelCard of HL7 AI Transparency on FHIR 1.0.0-ballot, which may change."
VERIFICATION = "1.2.840.10065.1.12.1.5"  # ASTM E1762-95: the purpose of a signature
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def files(evidence: Evidence) -> dict[str, bytes]:
    """AuditEvents of all events that may be shown, one a line; two Bundles about the models."""
    released = [
        (study, study.model, study.model.release)
        for study in evidence.studies
        if study.model is not None and study.model.release is not None
    ]
    return {
        **_audit_events(evidence),
        PROVENANCE: _bundle(provenance(*model, evidence) for model in released),
        MODEL_CARDS: _bundle(model_card(*model, evidence) for model in released),
    }


# ------------------------------------------------------------------ AuditEvent


def _audit_events(evidence: Evidence) -> dict[str, bytes]:
    """So many events a file: a repository takes them piece by piece, and none is too long."""
    shown = [entry for entry in evidence.entries if entry.event]
    parts = [shown[first : first + PART] for first in range(0, len(shown), PART)] or [[]]
    return {
        AUDIT_EVENTS if not number else AUDIT_EVENTS.replace(".", f"-{number + 1}."): joined(
            compact(audit_event(entry, evidence)) for entry in part
        )
        for number, part in enumerate(parts)
    }


def audit_event(entry: Entry, evidence: Evidence) -> Json:
    """One event; raises ValueError where only its leaf may be shown."""
    event = entry.event
    if event is None:
        raise ValueError("a withheld event is no AuditEvent")
    form = FORMS[event.action]
    purpose = _RESEARCH if event.study else _ADMINISTRATION
    resource: Json = {
        "resourceType": "AuditEvent",
        "id": event.id,
        "type": dicom(form.type),
        "subtype": subtypes(event.action),
        "action": form.action,
        "recorded": event.ts,
        "outcome": outcome(event.action, event.outcome),
        "purposeOfEvent": [{"coding": [purpose]}],
        "agent": _agents(event, evidence.consortium),
        "source": {
            "site": _text(event.src.org),
            "observer": _party(event.src.node, evidence.consortium),
            "type": [hl7("security-source-type", "4", "Application Server")],
        },
        "entity": list(_entities(event, entry, evidence)),
    }
    if event.reason is not None:
        resource["outcomeDesc"] = _text(event.reason)
    return resource


_RESEARCH = hl7("v3-ActReason", "HRESCH", "healthcare research")
_ADMINISTRATION = hl7("v3-ActReason", "HSYSADMIN", "health system administration")


def _agents(event: AnyEvent, consortium: str) -> list[Json]:
    """Who took part: the person who asked, if a person did, then machines by what flowed."""
    agents = [_person(event, consortium)] if event.actor.type == "person" else []
    if event.actor.type == "service":
        system = _system(consortium, event.src.node, "services")
        service = {"identifier": {"system": system, "value": _text(event.actor.id)}}
        agents.append({"type": _role("110150"), "who": service, "requestor": False})
    here = _party(event.src.node, consortium)
    ours, theirs = {"110106": ("110153", "110152"), "110107": ("110152", "110153")}.get(
        FORMS[event.action].type, ("110150", "")
    )
    agents.append({"type": _role(ours), "who": here, "requestor": False})
    if theirs and event.src.node != consortium:
        coordinator = _party(consortium, consortium)
        agents.append({"type": _role(theirs), "who": coordinator, "requestor": False})
    if event.action == "model.downloaded" and "recipient" in event.detail:
        recipient = {"display": _text(event.detail["recipient"])}
        agents.append({"type": _role(theirs), "who": recipient, "requestor": False})
    if event.policy is not None:
        agents[0]["policy"] = [_ni(event.policy.h)]
    return agents


def _person(event: AnyEvent, consortium: str) -> Json:
    """As the event line shows them: the account, and the name under which they decided."""
    system = _system(consortium, event.src.node, "users")
    person: Json = {
        "type": {"coding": [hl7("extra-security-role-type", "humanuser", "human user")]},
        "who": {"identifier": {"system": system, "value": _text(event.actor.id)}},
        "requestor": True,
    }
    name = event.detail.get("person") or event.detail.get("by")
    return {**person, "name": _text(name)} if name else person


def _role(code: str) -> Json:
    return {"coding": [dicom(code)]}


def _entities(event: AnyEvent, entry: Entry, evidence: Evidence) -> Iterable[Json]:
    """The line itself, the study, the dataset and everything that the event names by hash."""
    lifecycle = FORMS[event.action].lifecycle
    yield {
        "what": {"identifier": {"system": URI, "value": f"urn:uuid:{event.id}"}},
        "type": _SYSTEM_OBJECT,
        "role": hl7("object-role", "13", "Security Resource"),
        "name": TITLES[event.action],
        "detail": _line_details(event, entry),
    }
    if event.study is not None:
        yield _study(event, evidence)
    if "dataset" in event.detail:
        system = _system(evidence.consortium, event.src.node, "datasets")
        name = "@".join(_parts(event.detail, "dataset", "version"))
        yield {
            "what": {"identifier": {"system": system, "value": _text(name)}},
            "type": _SYSTEM_OBJECT,
            "role": _DOMAIN_RESOURCE,
            "lifecycle": _lifecycle(lifecycle if event.action.startswith("dataset.") else "6"),
        }
    for thing in event.obj:
        details = {"sha256": thing.h.removeprefix("sha256:")}
        if thing.id is not None:
            details["id"] = thing.id
        if thing.bytes is not None:
            details["bytes"] = str(thing.bytes)
        entity: Json = {
            "what": {"identifier": {"system": URI, "value": _ni(thing.h)}},
            "type": _SYSTEM_OBJECT,
            "role": _DOMAIN_RESOURCE,
            "name": _text(thing.t),
            "detail": _details(details),
        }
        yield {**entity, "lifecycle": _lifecycle(lifecycle)} if lifecycle else entity


_SYSTEM_OBJECT = hl7("audit-entity-type", "2", "System Object")
_DOMAIN_RESOURCE = hl7("object-role", "4", "Domain Resource")


def _lifecycle(code: str) -> Json:
    return hl7("dicom-audit-lifecycle", code, LIFECYCLES[code])


def _line_details(event: AnyEvent, entry: Entry) -> list[Json]:
    """Where the line stands, so that it can be found and proven in `log/`, then all it says."""
    place = {
        "log.index": str(entry.index),
        "log.node.seq": str(event.src.seq),
        "actor.auth": event.actor.auth,
    }
    if event.policy is not None:
        place["policy.id"] = event.policy.id
    leaf = {"type": "log.leafHash", "valueBase64Binary": _base64(entry.leaf)}
    return [*_details(place), leaf, *_details(event.detail)]


def _study(event: AnyEvent, evidence: Evidence) -> Json:
    system = _system(evidence.consortium, "studies")
    entity: Json = {
        "what": {"identifier": {"system": system, "value": _text(event.study or "")}},
        "type": _SYSTEM_OBJECT,
        "role": hl7("object-role", "20", "Job"),
    }
    if (name := evidence.names.get(event.study or "")) is not None:
        entity["name"] = name
    place = {} if event.run is None else {"run": event.run}
    if event.round is not None:
        place["round"] = str(event.round)
    return {**entity, "detail": _details(place)} if place else entity


def _details(values: Mapping[str, str]) -> list[Json]:
    return [{"type": key, "valueString": _text(value)} for key, value in sorted(values.items())]


# ------------------------------------------------------------------ released models


def provenance(
    study: StudyFacts, model: ModelFacts, release: ESignature, evidence: Evidence
) -> Json:
    """Who made a released model: coordinator, sites that trained it, and who let it leave."""
    consortium = evidence.consortium
    trained = {site for record in study.rounds for site in record.replied}
    coordinator = _party(consortium, consortium)
    agents = [_participant("assembler", coordinator)]
    agents += [_participant("performer", _party(site, consortium)) for site in sorted(trained)]
    releaser = _releaser(release, consortium)
    agents.append({**_participant("verifier", releaser), "onBehalfOf": coordinator})
    resource: Json = {
        "resourceType": "Provenance",
        "id": _id(evidence, study, model, "provenance"),
        "target": [_document(_id(evidence, study, model, "model card")), _thing(model.sha256)],
        "recorded": release.at,
        "policy": [_ni(study.digest)],
        "activity": {"coding": [hl7("v3-DataOperation", "CREATE", "create")]},
        "agent": agents,
        "entity": [{"role": "source", "what": _thing(study.digest)}],
        "signature": [_signature(release, releaser)],
    }
    if study.submitted_at and study.ended_at:
        resource["occurredPeriod"] = {"start": study.submitted_at, "end": study.ended_at}
    return resource


def _participant(role: str, who: Json) -> Json:
    kind = hl7("provenance-participant-type", role, role.capitalize())
    return {"type": {"coding": [kind]}, "who": who}


def _releaser(release: ESignature, consortium: str) -> Json:
    system = _system(consortium, consortium, "users")
    return {
        "identifier": {"system": system, "value": _text(release.user)},
        "display": _text(release.name),
    }


def _signature(release: ESignature, who: Json) -> Json:
    """The whole e-signature: key, signature, and the hash of what was signed."""
    purpose = {"system": "urn:iso-astm:E1762-95:2013", "code": VERIFICATION}
    return {
        "type": [{**purpose, "display": "Verification Signature"}],
        "when": release.at,
        "who": who,
        "targetFormat": "application/json",
        "sigFormat": "application/json",
        "data": _base64(canonical(release)),
    }


def model_card(
    study: StudyFacts, model: ModelFacts, release: ESignature, evidence: Evidence
) -> Json:
    """The Markdown model card of a released model, as a document that an EHR can take in."""
    card = model.card.encode()
    name = study.study.name
    made = f"{AI}/CodeSystem/AIinputsCS"
    own = _id(evidence, study, model, "model card")
    return {
        "resourceType": "DocumentReference",
        "id": own,
        "meta": {"profile": [f"{AI}/StructureDefinition/AI-ModelCard"]},
        "masterIdentifier": {"system": URI, "value": f"urn:uuid:{own}"},
        "status": "current",
        "type": {"coding": [{"system": made, "code": "AIModelCard", "display": "AI Model-Card"}]},
        "category": [
            {
                "coding": [
                    {
                        "system": made,
                        "code": "AIModelCardMarkdownFormat",
                        "display": "Markdown Format",
                    }
                ]
            }
        ],
        "date": release.at,
        "author": [_party(evidence.consortium, evidence.consortium)],
        "description": f"Model card of study {name}. {BALLOT}",
        "content": [
            {
                "attachment": {
                    "contentType": "text/markdown",
                    "language": "en",
                    "data": _base64(card),
                    "size": len(card),
                    "title": f"Model card of {name}",
                    "creation": release.at,
                }
            }
        ],
        "context": {"related": [_thing(model.sha256)]},
    }


# ------------------------------------------------------------------ names and bytes


def _party(node: str, consortium: str) -> Json:
    """A coordinator or a site of a consortium."""
    system = _system(consortium, "nodes")
    return {"identifier": {"system": system, "value": _text(node)}, "display": _text(node)}


def _thing(digest: str) -> Json:
    return {"identifier": {"system": URI, "value": _ni(digest)}}


def _document(own: str) -> Json:
    identifier = {"system": URI, "value": f"urn:uuid:{own}"}
    return {"type": "DocumentReference", "identifier": identifier}


def _system(*parts: str) -> str:
    """Within what a name is unique: `urn:cohortium:heart-net:nodes`."""
    return ":".join(("urn:cohortium", *map(_quoted, parts)))


@lru_cache(maxsize=1024)
def _quoted(text: str) -> str:
    """Percent-encoded (RFC 3986, section 2.1) but for what is unreserved."""
    characters = (chr(byte) for byte in text.encode())
    return "".join(c if c in _UNRESERVED else f"%{ord(c):02X}" for c in characters)


def _ni(digest: str) -> str:
    """`ni:///sha-256;...` of a hash in hex, with or without `sha256:` before it (RFC 6920)."""
    raw = bytes.fromhex(digest.removeprefix("sha256:"))
    return f"ni:///sha-256;{base64.urlsafe_b64encode(raw).decode().rstrip('=')}"


def _text(text: str) -> str:
    """FHIR has no string of blanks alone (R4, section 2.24.0.1)."""
    return text if text.strip() else "(blank)"


def _id(evidence: Evidence, study: StudyFacts, model: ModelFacts, what: str) -> str:
    """The same for the same model in every export: UUID version 5 (RFC 9562, section 5.5)."""
    name = "\n".join((evidence.origin, study.digest, model.sha256, what))
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def _parts(detail: Mapping[str, str], *keys: str) -> list[str]:
    return [detail[key] for key in keys if key in detail]


def _bundle(resources: Iterable[Json]) -> bytes:
    """A collection; without an entry where there is nothing, as FHIR has no empty list."""
    entries = [{"fullUrl": f"urn:uuid:{one['id']}", "resource": one} for one in resources]
    bundle: Json = {"resourceType": "Bundle", "type": "collection"}
    return _json({**bundle, "entry": entries} if entries else bundle) + b"\n"


def _json(resource: Json) -> bytes:
    return compact(resource).encode()


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
