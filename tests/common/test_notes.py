"""Notes, checkpoints and cosignatures against C2SP's texts, a real log's, and OpenSSL."""

import base64
import hashlib
import json
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortium.common.audit import names
from cohortium.common.audit.events import DETAIL_KEYS, Actor, Event, Source, Thing, uuid7
from cohortium.common.audit.notes import (
    LOG_KEY,
    WITNESS_KEY,
    Checkpoint,
    Note,
    NoteKey,
    Signature,
    cosign,
    log_key,
    read_note,
    sign_checkpoint,
    witness_key,
)
from cohortium.common.errors import DocumentError, SignatureError
from cohortium.common.identity import SigningKey

DASH = "\u2014"

# The example of C2SP's signed-note.
EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE = (
    "This is an example message.\n\n"
    f"{DASH} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3"
    "mFXmRKuwHjG1Yu72IneyaQM=\n"
)

# A checkpoint that a public log of certificates signed, and witnesses whom we do not know cosigned.
PUBLIC = (
    "arche2025h1.staging.ct.transparency.dev\n"
    "1432088532\n"
    "U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=\n\n"
    f"{DASH} arche2025h1.staging.ct.transparency.dev zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6"
    "hoGREPMHbdQ3urbllzalApkptQIgIpwtEroeW2BXaHAI4kJXFbon5Ch9MNL5zRNZ55lvGt0=\n"
    f"{DASH} arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwh"
    "UkzbC3NygNI75MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=\n"
    f"{DASH} remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVC"
    "IobWX9sXTynk5XeU/zZ0WBxtqB0DrAWfBw==\n"
)
PUBLIC_LOG = (
    "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"
)
PUBLIC_WITNESS = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2"

KEY, WITNESS = SigningKey.generate(), SigningKey.generate()
ORIGIN = names.consortium_log("northgate")
POINT = Checkpoint(ORIGIN, 12, hashlib.sha256(b"root").digest())


# ------------------------------------------------------------------ others' vectors


def test_the_example_of_the_specification_verifies() -> None:
    key, note = NoteKey.parse(EXAMPLE_KEY), read_note(EXAMPLE, "example")
    assert (key.name, key.type, key.id.hex()) == ("example.com/foo", LOG_KEY, "530d903a")
    assert key.text == EXAMPLE_KEY
    assert note.body == "This is an example message.\n"
    assert note.signed_by(key)
    assert note.text == EXAMPLE


def test_a_changed_example_does_not() -> None:
    key = NoteKey.parse(EXAMPLE_KEY)
    with pytest.raises(SignatureError, match="not its own"):
        read_note(EXAMPLE.replace("an example", "an Example"), "example").signed_by(key)


def test_a_real_log_s_checkpoint_and_a_real_witness_s_cosignature_verify() -> None:
    """With signatures of another type (RFC 6962's, 0x05) beside, which are left alone."""
    note = read_note(PUBLIC, "public")
    assert note.text == PUBLIC
    assert note.checkpoint.size == 1_432_088_532
    assert note.signed_by(NoteKey.parse(PUBLIC_LOG))
    witness = NoteKey.parse(PUBLIC_WITNESS)
    assert witness.type == WITNESS_KEY
    assert note.cosigned_at(witness) == 0x6A122120
    other = read_note(PUBLIC.replace("1432088532", "42"), "public")
    for key in (NoteKey.parse(PUBLIC_LOG), witness):
        with pytest.raises(SignatureError):
            other._by(key)


# ------------------------------------------------------------------ the texts of C2SP, read again


def parts(line: str) -> tuple[str, bytes, bytes]:
    """Name, key id and signature of a line, by the text of signed-note."""
    dash, name, encoded = line.removesuffix("\n").split(" ")
    assert dash == "\u2014"
    raw = base64.b64decode(encoded)
    return name, raw[:4], raw[4:]


def openssl_verifies(public: bytes, message: bytes, signature: bytes, folder: Path) -> bool:
    """What another implementation of Ed25519 says (RFC 8410 for the form of the key)."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    pem = base64.b64encode(bytes.fromhex("302a300506032b6570032100") + public).decode()
    (folder / "key.pem").write_text(
        f"-----BEGIN PUBLIC KEY-----\n{pem}\n-----END PUBLIC KEY-----\n"
    )
    (folder / "message").write_bytes(message)
    (folder / "signature").write_bytes(signature)
    command = "openssl pkeyutl -verify -pubin -inkey key.pem -rawin -in message -sigfile signature"
    done = subprocess.run(command.split(), cwd=folder, capture_output=True, check=False)
    return done.returncode == 0


def test_our_checkpoint_is_what_the_specification_says_to_the_byte(tmp_path: Path) -> None:
    note = sign_checkpoint(POINT, KEY)
    root = base64.b64encode(POINT.root).decode()
    text, _, signatures = note.text.rpartition("\n\n")
    message = text + "\n"
    assert message == f"northgate.cohortium/log\n12\n{root}\n"
    name, key_id, signature = parts(signatures)
    assert name == ORIGIN
    public = KEY.public.raw
    assert key_id == hashlib.sha256(name.encode() + b"\n\x01" + public).digest()[:4]
    assert len(signature) == 64
    assert openssl_verifies(public, message.encode(), signature, tmp_path)
    assert not openssl_verifies(public, message.encode() + b"\n", signature, tmp_path)


def test_our_cosignature_is_what_the_specification_says_to_the_byte(tmp_path: Path) -> None:
    name = names.witness("northgate", "a")
    line = cosign(POINT.body, name, WITNESS, 1_679_315_147).line
    found, key_id, raw = parts(line)
    assert found == "northgate.cohortium/a/witness"
    public = WITNESS.public.raw
    assert key_id == hashlib.sha256(found.encode() + b"\n\x04" + public).digest()[:4]
    assert len(raw) == 8 + 64
    assert int.from_bytes(raw[:8], "big") == 1_679_315_147
    root = base64.b64encode(POINT.root).decode()
    message = f"cosignature/v1\ntime 1679315147\nnorthgate.cohortium/log\n12\n{root}\n".encode()
    assert openssl_verifies(public, message, raw[8:], tmp_path)
    assert not openssl_verifies(public, POINT.body.encode(), raw[8:], tmp_path)


def test_a_name_and_a_type_give_the_same_key_another_id() -> None:
    ids = {
        log_key("x", KEY.public).id,
        log_key("y", KEY.public).id,
        witness_key("x", KEY.public).id,
        log_key("x", WITNESS.public).id,
    }
    assert len(ids) == 4


# ------------------------------------------------------------------ forgers


def cosigned() -> Note:
    note = sign_checkpoint(POINT, KEY)
    return note.with_([cosign(note.body, names.witness("northgate", "a"), WITNESS, 1000)])


def test_a_note_comes_back_from_its_text_with_both_signatures() -> None:
    note = read_note(cosigned().text, "note")
    assert note == cosigned()
    assert note.checkpoint == POINT
    assert note.signed_by(log_key(ORIGIN, KEY.public))
    assert note.cosigned_at(witness_key(names.witness("northgate", "a"), WITNESS.public)) == 1000


def test_who_is_not_known_is_left_alone_and_who_did_not_sign_is_not_said_to() -> None:
    note = read_note(cosigned().text, "note")
    assert not note.signed_by(log_key(ORIGIN, WITNESS.public))
    assert not note.signed_by(log_key("other/log", KEY.public))
    assert note.cosigned_at(witness_key(names.witness("northgate", "b"), WITNESS.public)) is None
    assert note.cosigned_at(witness_key(names.witness("northgate", "a"), KEY.public)) is None
    later = Signature("northgate.cohortium/a/witness", b"\x06\x00\x00\x06", bytes(8 + 2420))
    more = read_note(note.with_([later]).text, "note")  # ML-DSA-44, of which we know nothing
    assert more.signed_by(log_key(ORIGIN, KEY.public))


@pytest.mark.parametrize(
    "raw",
    [b"\x00" * 72, b"\x00" * 71, b"\x00" * 7, b"\x00", b"\xff" * 72],
)
def test_a_signature_in_a_known_name_that_is_not_its_own_is_an_error(raw: bytes) -> None:
    key = witness_key("northgate.cohortium/a/witness", WITNESS.public)
    note = sign_checkpoint(POINT, KEY).with_([Signature(key.name, key.id, raw)])
    with pytest.raises(SignatureError, match="not its own"):
        note.cosigned_at(key)


def test_a_cosignature_holds_for_its_time_and_its_checkpoint_alone() -> None:
    key = witness_key(names.witness("northgate", "a"), WITNESS.public)
    note = cosigned()
    line = note.signatures[1]
    moved = Signature(line.name, line.key_id, struct.pack(">Q", 1001) + line.raw[8:])
    grown = Checkpoint(ORIGIN, 13, POINT.root).body
    for forged in (Note(note.body, (moved,)), Note(grown, (line,))):
        with pytest.raises(SignatureError):
            forged.cosigned_at(key)


def test_a_time_that_no_witness_may_give_is_no_cosignature() -> None:
    key = witness_key("w", WITNESS.public)
    with pytest.raises(SignatureError):
        Note(POINT.body, (cosign(POINT.body, "w", WITNESS, 2**63),)).cosigned_at(key)


def test_a_log_s_signature_does_not_pass_for_a_cosignature_nor_the_other_way() -> None:
    name = "northgate.cohortium/log"
    plain = sign_checkpoint(POINT, KEY).signatures[0]
    timed = cosign(POINT.body, name, KEY, 1000)
    as_timed = Signature(name, timed.key_id, struct.pack(">Q", 1000) + plain.raw)
    as_plain = Signature(name, plain.key_id, timed.raw[8:])
    with pytest.raises(SignatureError):
        Note(POINT.body, (as_timed,)).cosigned_at(witness_key(name, KEY.public))
    with pytest.raises(SignatureError):
        Note(POINT.body, (as_plain,)).signed_by(log_key(name, KEY.public))


def test_of_two_signatures_by_one_key_the_first_is_kept() -> None:
    name = names.witness("northgate", "a")
    twice = cosigned().with_([cosign(POINT.body, name, WITNESS, 2000)])
    assert len(twice.signatures) == 2
    assert twice.cosigned_at(witness_key(name, WITNESS.public)) == 1000


LINE = f"{DASH} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2A==\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "text\n",
        "text\n\n",
        "text\n\nno signature\n",
        f"text\n{LINE}",
        f"text\n\n{LINE[:-1]}",
        f"text\n\n{LINE}\n",
        f"text\n\n{LINE.replace(DASH, '-')}",
        f"text\n\n{LINE.replace('==', '=')}",
        f"text\n\n{LINE.replace('==', '')}",
        f"text\n\n{LINE.replace('A==', 'B==')}",  # bits that base64 does not use
        f"text\n\n{LINE.replace('example.com/foo ', '')}",
        f"text\n\n{LINE.replace('example.com/foo', '')}",
        f"text\n\n{LINE.replace(' Uw', '  Uw')}",
        f"text\n\n{LINE.rstrip()} \n",
        f"text\n\n{DASH} a AAAA\n",
        f"text\n\n{DASH} a AAAAAA==\n",  # a key id and no signature
        f"te\rxt\n\n{LINE}",
        f"te\0xt\n\n{LINE}",
        f"text\n\n{LINE}\x0b{LINE}",
        f"text\n\n{LINE[:-1]}\u2028{LINE}",
        f"{'x' * 70_000}\n\n{LINE}",
    ],
)
def test_what_is_no_signed_note_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(DocumentError, match=r"^here: ") as caught:
        read_note(text, "here")
    assert "\n" not in str(caught.value)


def test_a_note_may_hold_empty_lines_and_sixteen_signatures() -> None:
    note = read_note(f"one\n\ntwo\n\n{LINE * 16}", "note")
    assert note.body == "one\n\ntwo\n"
    assert len(note.signatures) == 16


ROOT = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "body",
    [
        "",
        "log\n",
        f"log\n1\n{ROOT}",
        f"\n1\n{ROOT}\n",
        f"log\n01\n{ROOT}\n",
        f"log\n-1\n{ROOT}\n",
        f"log\n+1\n{ROOT}\n",
        f"log\n1_0\n{ROOT}\n",
        f"log\n\u0661\n{ROOT}\n",
        f"log\n{'9' * 5000}\n{ROOT}\n",
        f"log\n 1\n{ROOT}\n",
        f"log\n1\n{ROOT[:-1]}\n",
        f"log\n1\n{ROOT[:-2]}B=\n",
        "log\n1\nAAAA\n",
        f"log\n1\n{ROOT}\nmore",
        f"log\n1\n{ROOT}\n\nmore\n",
        f"log\n1\n{ROOT} \n",
    ],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(body: str) -> None:
    with pytest.raises(DocumentError) as caught:
        Checkpoint.parse(body)
    assert "\n" not in str(caught.value)


@given(st.integers(0, 10**19 - 1), st.binary(min_size=32, max_size=32))
def test_a_checkpoint_comes_back_from_its_body(size: int, root: bytes) -> None:
    point = Checkpoint("example.com/log", size, root)
    assert Checkpoint.parse(point.body) == point
    assert Checkpoint.parse(point.body + "an extension\n") == point


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com/foo",
        EXAMPLE_KEY.replace("530d903a", "530d903b"),
        EXAMPLE_KEY.replace("530d903a", "530D903A"),
        EXAMPLE_KEY.replace("example.com/foo", "example.com/fop"),
        EXAMPLE_KEY[:-1],
        EXAMPLE_KEY.replace("+Ae", "+Be"),
        EXAMPLE_KEY.replace("+Ae", "+Bu"),
        EXAMPLE_KEY.replace("example.com/foo", "example .com/foo"),
    ],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(DocumentError):
        NoteKey.parse(text)


@given(st.binary(min_size=32, max_size=32), st.sampled_from([LOG_KEY, WITNESS_KEY]))
def test_a_key_comes_back_from_its_text_whatever_plus_signs_are_in_it(
    raw: bytes, kind: int
) -> None:
    key = NoteKey("example.com/x", LOG_KEY if kind == LOG_KEY else WITNESS_KEY, raw)
    assert NoteKey.parse(key.text) == key


# ------------------------------------------------------------------ lines of events (RFC 8785)

VISIBLE = st.characters(exclude_categories=("C", "Z"))
TEXT = st.text(VISIBLE, min_size=1, max_size=20)
COUNT = st.integers(0, 2**53 - 1)


@settings(max_examples=40)
@given(st.data())
def test_every_event_line_is_canonical_json_as_rfc_8785_has_it(data: st.DataObject) -> None:
    action = data.draw(st.sampled_from(sorted(DETAIL_KEYS)))
    keys = st.sampled_from(sorted(DETAIL_KEYS[action]) or [""])
    event = Event(
        id=uuid7(data.draw(COUNT) >> 5, bytes(10)),
        ts="2026-11-22T14:03:42.000Z",
        src=Source(org=data.draw(TEXT), node=data.draw(TEXT), seq=data.draw(COUNT)),
        actor=Actor(type="person", id=data.draw(TEXT), auth="os-user"),
        action=action,
        outcome="denied",
        reason=data.draw(TEXT),
        round=data.draw(st.none() | COUNT),
        obj=(Thing(t="x", h="sha256:" + "a" * 64, bytes=data.draw(COUNT)),),
        detail=data.draw(st.dictionaries(keys, TEXT)) if DETAIL_KEYS[action] else {},
        salt="0" * 32,
    )
    assert rfc8785.dumps(json.loads(event.line)) == event.line.encode()
