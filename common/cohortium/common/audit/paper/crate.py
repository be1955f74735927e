"""ro-crate-metadata.json: the bundle as an RO-Crate 1.1, by the federated learning profile 0.1.

A Process Run Crate: each study is a CreateAction from the sites' datasets, which stayed where they
are, and its study document, to a model, which leaves by its release and is named by its hash.
"""

import base64
import mimetypes
import re
from collections.abc import Iterable, Iterator
from typing import Any

from cohortium.common.audit.evidence import Evidence, Files, StudyFacts
from cohortium.common.audit.paper import subject
from cohortium.common.audit.paper.account import promise
from cohortium.common.audit.paper.control import SEALED
from cohortium.common.audit.paper.text import decimal, json_file, quoted

PATH = "ro-crate-metadata.json"
SPECIFICATION = "https://w3id.org/ro/crate/1.1"
PROCESS_RUN = "https://w3id.org/ro/wfrun/process/0.5"
FEDERATED = (
    "https://esciencelab.org.uk/federated-learning-ro-crate-profile/federated-learning-profile.html"
)
ACCESS = "#access"
STATES = {
    "completed": "http://schema.org/CompletedActionStatus",
    "released": "http://schema.org/CompletedActionStatus",
    "failed": "http://schema.org/FailedActionStatus",
    "stopped": "http://schema.org/FailedActionStatus",
}
TYPES = {".jsonl": "application/jsonl", ".ndjson": "application/x-ndjson", ".md": "text/markdown",
         ".bin": "application/octet-stream", ".cef": "text/plain", "": "text/plain"}  # fmt: skip

Entity = dict[str, Any]


def crate(evidence: Evidence, files: Files) -> bytes:
    """The metadata of a bundle of these files; called last, and itself not among them."""
    data = [
        *(_file(path, files.get(path)) for path in sorted({*files, *SEALED} - {PATH})),
        *_models(evidence),
        *_datasets(evidence),
    ]
    actions = [_action(evidence, folder, facts, files) for folder, facts in _studies(evidence)]
    graph = [
        _descriptor(),
        _root(evidence, _refs(data), _refs(actions)),
        *_context(evidence),
        *data,
        *actions,
        *(value for _, facts in _studies(evidence) for value in _values(facts)),
    ]
    return json_file({"@context": f"{SPECIFICATION}/context", "@graph": graph})


def _studies(evidence: Evidence) -> list[tuple[str, StudyFacts]]:
    """Each study with the folder of its model's papers, "" for none."""
    of_model = {facts.digest: folder for folder, facts in subject.folders(evidence)}
    return [(of_model.get(facts.digest, ""), facts) for facts in evidence.studies]


def _descriptor() -> Entity:
    return {
        "@id": PATH,
        "@type": "CreativeWork",
        "about": {"@id": "./"},
        "conformsTo": {"@id": SPECIFICATION},
    }


def _root(evidence: Evidence, parts: list[Entity], actions: list[Entity]) -> Entity:
    return {
        "@id": "./",
        "@type": "Dataset",
        "name": f"Evidence of the consortium {evidence.consortium}",
        "description": "What a federated study leaves behind for people who have to answer for it: "
        f"log, privacy ledger, results and papers; audience {evidence.audience}",
        "datePublished": evidence.at,
        "license": {"@id": ACCESS},
        "author": {"@id": _organisation(evidence.consortium)},
        "publisher": {"@id": _organisation(evidence.consortium)},
        "conformsTo": [{"@id": PROCESS_RUN}, {"@id": FEDERATED}],
        "hasPart": parts,
        "mentions": actions[0] if len(actions) == 1 else actions,
    }


def _context(evidence: Evidence) -> Iterator[Entity]:
    """What data entities point to: profiles, terms of access, organisations, the program."""
    yield {"@id": PROCESS_RUN, "@type": "CreativeWork", "name": "Process Run Crate",
           "version": "0.5"}  # fmt: skip
    yield {"@id": FEDERATED, "@type": "CreativeWork", "version": "0.1",
           "name": "Federated Learning RO-Crate Profile"}  # fmt: skip
    yield {
        "@id": ACCESS,
        "@type": "CreativeWork",
        "name": "No licence is stated",
        "description": "Access by agreement with the consortium; data stays at its site.",
    }
    yield {
        "@id": _tool(evidence),
        "@type": "SoftwareApplication",
        "name": "Cohortium",
        "version": evidence.version,
    }
    names = {evidence.consortium, *(site.name for site in evidence.sites)}
    names |= {site for facts in evidence.studies for site in facts.study.sites.names}
    for name in sorted(names):
        yield {"@id": _organisation(name), "@type": "Organization", "name": name}


def _tool(evidence: Evidence) -> str:
    """The program that ran, by the digest of its files."""
    return f"urn:cohortium:code:{evidence.code}"


def _organisation(name: str) -> str:
    return f"#organisation-{quoted(name)}"


def _file(path: str, content: bytes | None) -> Entity:
    """A file of the bundle; of one that is sealed later no size is known yet."""
    ending = "." + path.rsplit(".", 1)[1] if "." in path.rsplit("/", 1)[-1] else ""
    kind = TYPES.get(ending) or mimetypes.guess_type(path)[0] or "application/octet-stream"
    found = {"@id": quoted(path), "@type": "File", "name": path, "encodingFormat": kind}
    if content is not None:
        found["contentSize"] = str(len(content))
    return found


def _models(evidence: Evidence) -> Iterator[Entity]:
    found: dict[str, Entity] = {}
    for folder, facts in subject.folders(evidence):
        found.setdefault(_model_id(facts), _model(folder, facts))
    yield from found.values()


def _model(folder: str, facts: StudyFacts) -> Entity:
    assert facts.model is not None
    papers = ("model-card.md", "chai-model-card.xml", "mlbom.cdx.json")
    return {
        "@id": _model_id(facts),
        "@type": "File",
        "name": f"Model of {facts.study.name}",
        "description": "Not in this bundle: a model leaves by its signed release. "
        f"{promise(facts)}",
        "contentSize": str(facts.model.bytes),
        "identifier": f"sha256:{facts.model.sha256}",
        "encodingFormat": "application/vnd.safetensors",
        "license": {"@id": ACCESS},
        "subjectOf": [{"@id": quoted(f"{folder}/{name}")} for name in papers],
    }


def _model_id(facts: StudyFacts) -> str:
    """Named by its hash (RFC 6920)."""
    assert facts.model is not None
    digest = base64.urlsafe_b64encode(bytes.fromhex(facts.model.sha256)).decode().rstrip("=")
    return f"ni:///sha-256;{digest}"


def _datasets(evidence: Evidence) -> Iterator[Entity]:
    known: dict[str, Entity] = {}
    for facts in evidence.studies:
        for site in subject.sources(facts):
            study = facts.study
            known[_dataset_id(evidence, facts, site)] = {
                "@id": _dataset_id(evidence, facts, site),
                "@type": "Dataset",
                "name": f"{study.data.dataset} of {site}",
                "description": "Patients' rows that stayed at the site and are not in this bundle; "
                f"data model {study.data_model.name}",
                "license": {"@id": ACCESS},
                "conditionsOfAccess": f"controlled by {site}",
                "creator": {"@id": _organisation(site)},
            }
    yield from (entity for _, entity in sorted(known.items()))


def _dataset_id(evidence: Evidence, facts: StudyFacts, site: str) -> str:
    parts = (evidence.consortium, site, facts.study.data.dataset)
    return f"urn:cohortium:dataset:{':'.join(quoted(part) for part in parts)}/"


def _action(evidence: Evidence, folder: str, facts: StudyFacts, files: Files) -> Entity:
    study = facts.study
    document = f"studies/{study.name}/study.json"
    results = [f"{folder}/model-card.md", f"{folder}/mlbom.cdx.json"] if folder else []
    inputs = [_dataset_id(evidence, facts, site) for site in subject.sources(facts)]
    action: Entity = {
        "@id": f"#study-{facts.digest}",
        "@type": "CreateAction",
        "name": f"Federated training of {study.name}",
        "description": f"{study.training.rounds} rounds of {study.strategy.name}; {promise(facts)}",
        "instrument": {"@id": _tool(evidence)},
        "agent": {"@id": _organisation(evidence.consortium)},
        "participant": [{"@id": _organisation(site)} for site in subject.sources(facts)],
        "object": [
            *({"@id": name} for name in inputs),
            *({"@id": quoted(path)} for path in (document,) if path in files),
        ],
        "result": [
            *([{"@id": _model_id(facts)}] if folder else []),
            *({"@id": quoted(path)} for path in results),
            *_refs(_values(facts)),
        ],
        "actionStatus": STATES.get(facts.state, ""),
        "startTime": _seconds(facts.submitted_at),
        "endTime": _seconds(facts.ended_at),
    }
    if "Failed" in action["actionStatus"] and not subject.blinded(facts):
        action["error"] = facts.cause
    return {key: value for key, value in action.items() if value not in ([], "")}


def _seconds(time: str) -> str:
    """To the second, with `+00:00`: the form that validators of the profile know."""
    return re.sub(r"(\.\d+)?Z$", "+00:00", time)


def _values(facts: StudyFacts) -> list[Entity]:
    """Results over all patients, as the profile has them."""
    return [
        {
            "@id": f"#result-{facts.digest[:16]}-{place}",
            "@type": "PropertyValue",
            "name": one.label,
            "propertyID": f"urn:cohortium:measure:{quoted(one.measure)}",
            "value": decimal(one.value),
        }
        for place, one in enumerate(subject.results(facts))
        if facts.model is not None
    ]


def _refs(entities: Iterable[Entity]) -> list[Entity]:
    return [{"@id": entity["@id"]} for entity in entities]
