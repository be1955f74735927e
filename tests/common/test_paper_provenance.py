"""How a model came to be: signed so that code which shares nothing with ours verifies it."""

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tests import evidence_samples as samples

from cohortium.common.audit.paper.provenance import provenances
from cohortium.common.identity import SigningKey

PATH = "model/made-up/model.intoto.dsse.json"
KEY = SigningKey.generate()


def envelope(**more: Any) -> dict[str, Any]:
    made = provenances(samples.signing(samples.evidence(samples.facts(**more)), KEY))
    found: dict[str, Any] = json.loads(made[PATH])
    return found


def verify(found: dict[str, Any]) -> dict[str, Any]:
    """As envelope.md and protocol.md of DSSE 1.0 say; the statement, or InvalidSignature."""
    body = base64.b64decode(found["payload"], validate=True)
    kind = found["payloadType"]
    signed = " ".join(["DSSEv1", str(len(kind.encode())), kind, str(len(body))]).encode() + b" "
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(KEY.public.text))
    key.verify(base64.b64decode(found["signatures"][0]["sig"], validate=True), signed + body)
    statement: dict[str, Any] = json.loads(body)
    return statement


def test_the_envelope_verifies_and_names_the_key() -> None:
    found = envelope()
    assert verify(found)["subject"][0]["digest"]["sha256"] == samples.MODEL
    assert found["signatures"][0]["keyid"] == KEY.public.fingerprint
    assert set(found) == {"payload", "payloadType", "signatures"}


@pytest.mark.parametrize("part", ["payload", "payloadType"])
def test_an_envelope_of_which_a_part_was_changed_does_not_verify(part: str) -> None:
    found = envelope()
    if part == "payload":
        body = base64.b64decode(found["payload"]).replace(b"north", b"nowhr")
        found["payload"] = base64.b64encode(body).decode()
    else:
        found["payloadType"] = "application/json"
    with pytest.raises(InvalidSignature):
        verify(found)


def test_the_same_evidence_is_signed_the_same_way() -> None:
    assert envelope() == envelope()


def test_the_statement_is_slsa_provenance_of_the_study() -> None:
    facts = samples.facts()
    statement = verify(envelope())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    definition = statement["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["study"]["digest"]["sha256"] == facts.digest
    names = [one["name"] for one in definition["resolvedDependencies"]]
    assert names == ["cohortium", "ward of north", "ward of south", "ward of west"]
    run = statement["predicate"]["runDetails"]
    assert run["metadata"]["finishedOn"] == facts.ended_at
    assert [one["name"] for one in run["byproducts"]][1:] == [
        "privacy ledger row north-4",
        "privacy ledger row south-4",
        "privacy ledger row west-4",
    ]


def test_a_model_that_goes_on_from_another_names_it() -> None:
    before = {"name": "first", "study": "1" * 64, "round": 3, "model": "2" * 64}
    statement = verify(envelope(of=samples.study(continues=before)))
    found = statement["predicate"]["buildDefinition"]["resolvedDependencies"][1]
    assert found["digest"] == {"sha256": "2" * 64}


def test_who_did_not_train_is_no_source_of_the_model_unless_that_is_not_said() -> None:
    for blinded, sources in ((False, 2), (True, 3)):
        facts = samples.facts(samples.study(blinded=blinded))
        away = tuple(replace(one, replied=("north", "south")) for one in facts.rounds)
        statement = verify(envelope(of=facts.study, rounds=away))
        dependencies = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        assert len(dependencies) == 1 + sources


def test_without_a_key_there_is_a_bare_statement_and_no_envelope() -> None:
    assert list(provenances(samples.evidence())) == ["model/made-up/model.intoto.json"]
