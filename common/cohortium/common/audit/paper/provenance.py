"""model.intoto.dsse.json: how a model came to be, signed.

An in-toto Statement v1 with the SLSA provenance v1 predicate, in a DSSE envelope. What was trained
on is named by site and dataset; nothing of a patient is in it.
"""

import base64
import json
from collections.abc import Callable
from typing import Any

from cohortium.common.audit.evidence import Evidence, StudyFacts
from cohortium.common.audit.paper import subject
from cohortium.common.audit.paper.account import promise, rows_of
from cohortium.common.audit.paper.text import json_file
from cohortium.common.document import digest
from cohortium.common.identity import VerifyKey

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD = "urn:cohortium:federated-training:v1"
PAYLOAD = "application/vnd.in-toto+json"
MODEL = "model.safetensors"

Values = dict[str, Any]


def provenances(evidence: Evidence) -> dict[str, bytes]:
    """One envelope for each model; without a key to sign with, the bare statement."""
    found = {}
    for folder, facts in subject.folders(evidence):
        statement = payload(evidence, facts)
        if evidence.sign is None:
            found[f"{folder}/model.intoto.json"] = json_file(json.loads(statement))
        else:
            keyid = VerifyKey.from_text(evidence.key).fingerprint
            found[f"{folder}/model.intoto.dsse.json"] = dsse(statement, evidence.sign, keyid)
    return found


def dsse(body: bytes, sign: Callable[[bytes], bytes], keyid: str) -> bytes:
    """An envelope around a statement (DSSE 1.0, envelope.md)."""
    return json_file(
        {
            "payload": base64.b64encode(body).decode(),
            "payloadType": PAYLOAD,
            "signatures": [{"keyid": keyid, "sig": base64.b64encode(sign(pae(body))).decode()}],
        }
    )


def pae(body: bytes) -> bytes:
    """What is signed: the type and the body, each after its length (DSSE 1.0, protocol.md)."""
    kind = PAYLOAD.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)


def payload(evidence: Evidence, facts: StudyFacts) -> bytes:
    """The statement, as the bytes that are signed."""
    assert facts.model is not None
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": MODEL, "digest": {"sha256": facts.model.sha256}}],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": _definition(evidence, facts),
            "runDetails": _details(evidence, facts),
        },
    }
    text = json.dumps(statement, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def _definition(evidence: Evidence, facts: StudyFacts) -> Values:
    study = facts.study
    return {
        "buildType": BUILD,
        "externalParameters": {
            "study": {"name": study.name, "digest": {"sha256": facts.digest}},
            "sites": list(study.sites.names),
        },
        "internalParameters": {
            "rounds": study.rounds_in_all,
            "strategy": study.strategy.name,
            "privacy": promise(facts),
        },
        "resolvedDependencies": [
            {"name": "cohortium", "digest": {"cohortiumCode": evidence.code}},
            *_started_from(facts),
            *(_dataset(evidence, facts, site) for site in subject.sources(facts)),
        ],
    }


def _started_from(facts: StudyFacts) -> list[Values]:
    before = facts.study.continues
    if before is None:
        return []
    return [
        {
            "name": f"{before.name}, model of round {before.round}",
            "digest": {"sha256": before.model},
            "annotations": {"study": before.study},
        }
    ]


def _dataset(evidence: Evidence, facts: StudyFacts, site: str) -> Values:
    """A site's table: by name, by the digest of its public schema, and of the table if logged."""
    name = facts.study.data.dataset
    found: Values = {
        "name": f"{name} of {site}",
        "uri": f"urn:cohortium:dataset:{evidence.consortium}:{site}:{name}",
        "annotations": {"schema": digest(facts.study.data_model), "stayedAt": site},
    }
    logged = [
        thing.h.removeprefix("sha256:")
        for event in evidence.events
        if event.action == "dataset.snapshot"
        and event.src.node == site
        and event.detail.get("dataset") == name
        for thing in event.obj
        if thing.t.startswith("dataset")
    ]
    if logged:
        found["digest"] = {"sha256": logged[-1]}
    return found


def _details(evidence: Evidence, facts: StudyFacts) -> Values:
    started = min(
        (event.ts for event in evidence.events
         if event.action == "run.started" and event.study == facts.digest),
        default=facts.submitted_at,
    )  # fmt: skip
    times = {"startedOn": started, "finishedOn": facts.ended_at}
    return {
        "builder": {
            "id": f"urn:cohortium:coordinator:{evidence.consortium}",
            "version": {"cohortium": evidence.version},
        },
        "metadata": {
            "invocationId": facts.digest,
            **{key: value for key, value in times.items() if value},
        },
        "byproducts": _byproducts(evidence, facts),
    }


def _byproducts(evidence: Evidence, facts: StudyFacts) -> list[Values]:
    """What else came of it: the signed release, and the last ledger row of each site."""
    assert facts.model is not None
    found: list[Values] = []
    if facts.model.release is not None:
        signed = facts.model.release.signed
        found.append({"name": "release, as it was signed", "digest": {"sha256": signed}})
    for site in facts.study.sites.names:
        rows = rows_of(evidence, site, facts.digest)
        if rows and not subject.blinded(facts):
            last = rows[-1]
            found.append(
                {"name": f"privacy ledger row {last.id}", "digest": {"sha256": digest(last)}}
            )
    return found
