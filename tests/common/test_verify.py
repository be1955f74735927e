"""The verifier on honest bundles, on any single byte of them, and beside other implementations."""

import base64
import functools
import hashlib
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import bundles
from tests.bundles import BUNDLE, COORDINATOR, POLICY, SITES, made, packed, verified

from cohortium.common.audit import bundle, merkle, verify
from cohortium.common.audit.events import leaf_hash
from cohortium.common.document import canonical
from cohortium.common.errors import CohortiumError, DocumentError, UsageError
from cohortium.common.identity import SigningKey
from cohortium.common.metrics import intervals
from cohortium.common.privacy import accounting
from cohortium.common.privacy.accounting import Mechanism

VERIFIER = Path(verify.__file__)
ALL = made().policy.replace("hospitals 2", "hospitals all")


# ------------------------------------------------------------------ what verifies


def test_an_honest_bundle_verifies_line_by_line(tmp_path: Path) -> None:
    ran = verified(tmp_path, packed(), "--recompute-epsilon")
    lines = ran.out.splitlines()
    assert ran.code == 0
    assert lines[-1] == "RESULT: VERIFIED"
    states = {line[:4].strip() for line in lines[:-1]}
    assert states == {"ok", "note"}
    assert [line[6:8].strip() for line in lines[:-1]] == [
        str(number) for number in range(1, len(verify.CHECKS) + 1)
    ]
    assert "9 rows of the privacy ledger match the log" in ran.out
    assert "18 epsilons computed again from 9 rows" in ran.out


def test_without_a_quorum_it_verifies_and_says_that_nobody_saw_it(tmp_path: Path) -> None:
    ran = verified(tmp_path, packed(cosigners=()))
    assert ran.code == 2
    assert ran.out.splitlines()[-1].startswith("RESULT: VERIFIED, BUT UNWITNESSED: ")


def test_json_is_one_document_with_every_check(tmp_path: Path) -> None:
    ran = verified(tmp_path, packed(), "--json")
    found = json.loads(ran.out)
    assert found["exit_code"] == ran.code == 0
    assert {one["check"] for one in found["checks"]} == set(range(1, len(verify.CHECKS) + 1))
    broken = verified(tmp_path, {**packed(), "report/report.html": b""}, "--json")
    assert json.loads(broken.out)["result"].startswith("NOT VERIFIED: report/report.html: ")


def test_a_wrong_call_is_told_apart_from_too_few_witnesses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        verify.main(["bundle.zip"])
    assert caught.value.code == 64
    assert "NOTHING WAS CHECKED: " in capsys.readouterr().err
    (tmp_path / POLICY).write_text(made().policy)
    absent = [str(tmp_path / "absent.zip"), "--policy", str(tmp_path / POLICY)]
    assert verify.main(absent) == 64
    assert "cannot be read" in capsys.readouterr().out


def test_one_file_and_the_standard_library_are_enough(tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "verify.py").write_bytes(VERIFIER.read_bytes())
    bundle.write(alone / BUNDLE, packed())
    (alone / POLICY).write_text(made().policy)
    command = [sys.executable, "-I", "-S", "-W", "error", "verify.py", BUNDLE, "--policy", POLICY]
    ran = subprocess.run(
        command, cwd=alone, env={"LC_ALL": "C"}, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.endswith("RESULT: VERIFIED\n")
    ran = subprocess.run(
        [*command, "--recompute-epsilon"], cwd=alone, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, "needs the Python package dp-accounting" in ran.stdout) == (64, True)


def test_the_verifier_is_written_for_python_3_9() -> None:
    compile(VERIFIER.read_text(), "verify.py", "exec", dont_inherit=True)
    import ast

    ast.parse(VERIFIER.read_text(), feature_version=(3, 9))
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse(VERIFIER.read_text()))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported <= sys.stdlib_module_names


def test_what_a_bundle_says_cannot_steer_the_terminal(tmp_path: Path) -> None:
    content = {**made().content, "report/a.csv": b""}
    evidence = replace(made().evidence, officer="\x1b[2J all ok")
    manifest = bundle.manifest(evidence, content)
    ran = verified(tmp_path, {**packed(content=content), "manifest.json": manifest})
    assert ran.code == 1
    assert "\x1b" not in ran.out


# ------------------------------------------------------------------ any single byte


@functools.cache
def honest() -> dict[str, bytes]:
    return packed()


@given(data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_single_byte_changed_is_caught(tmp_path: Path, data: st.DataObject) -> None:
    files = dict(honest())
    name = data.draw(st.sampled_from(sorted(files)))
    place = data.draw(st.integers(0, len(files[name]) - 1))
    bits = data.draw(st.integers(1, 255))
    raw = bytearray(files[name])
    raw[place] ^= bits
    ran = verified(tmp_path, {**files, name: bytes(raw)}, policy=ALL)
    assert ran.code in (1, 2), f"{name} byte {place} ^ {bits}"


@given(data=st.data())
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_single_byte_of_the_zip_changed_is_caught(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / BUNDLE
    bundle.write(path, honest())
    raw = bytearray(path.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    ran = bundles.verified_file(tmp_path, path, policy=ALL)
    same = ran.code == 0 and bundle.read(path) == honest()  # another way to compress the same
    assert ran.code in (1, 2) or same


# ------------------------------------------------------------------ the bundle


def test_the_same_evidence_gives_the_same_bytes(tmp_path: Path) -> None:
    one = bundle.write(tmp_path / "a.zip", packed())
    other = bundle.write(tmp_path / "b.zip", dict(reversed(packed().items())))
    assert one == other == hashlib.sha256((tmp_path / "a.zip").read_bytes()).hexdigest()
    assert bundle.read(tmp_path / "a.zip") == packed()


def test_what_is_kept_how_long() -> None:
    found = json.loads(
        bundle.manifest(made().evidence, {"README.txt": b"", "model/x/card.md": b""})
    )
    readme, card = found["files"]
    assert (readme["class"], card["class"]) == ("record", "technical-documentation")
    assert readme["retain_until"] == "2032-11-22T15:00:00.000Z"
    assert bundle.retain_until("2028-02-29T10:00:00.000Z", 10) == "2038-02-28T10:00:00.000Z"
    with pytest.raises(UsageError, match="a year or longer"):
        bundle.retain_until("2028-02-29T10:00:00.000Z", 0)


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "log/x", "manifest.json"])
def test_a_name_that_no_bundle_may_hold_is_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        bundle.manifest(made().evidence, {name: b""})
    if not name.startswith(("log", "man")):
        with pytest.raises(UsageError):
            bundle.write(tmp_path / "x.zip", {name: b""})
        assert list(tmp_path.iterdir()) == []


def test_a_log_shorter_than_its_checkpoint_is_not_exported() -> None:
    one = made()
    note = bundles.signed("x", one.lines, one.keys[COORDINATOR])
    with pytest.raises(CohortiumError, match="fewer events than its checkpoint"):
        bundle.log_files(bundles.entries(one.lines[:-1]), note)


def test_a_file_that_is_no_bundle_is_one_line_of_error(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("no zip")
    with pytest.raises(DocumentError, match="not a whole zip file"):
        bundle.read(tmp_path / "x")


# ------------------------------------------------------------------ beside other implementations


def by_the_text_of_c2sp(note: str, vkey: str) -> int | None:
    """signed-note and tlog-cosignature read again: when the key signed, 0 for a log, None if not.

    Text up to and with the newline before the last empty line; lines of em dash, space, name,
    space, base64 of key id and signature; key id the first four bytes of SHA-256 of name, newline,
    type and key.
    """
    name, key_id, key = vkey.split("+", 2)
    kind, public = base64.b64decode(key)[:1], base64.b64decode(key)[1:]
    assert hashlib.sha256(name.encode() + b"\n" + kind + public).hexdigest()[:8] == key_id
    end = note.rindex("\n\n")
    text, lines = note[: end + 1], note[end + 2 :].split("\n")
    for line in lines:
        if not line.startswith(f"\u2014 {name} "):
            continue
        raw = base64.b64decode(line.split(" ")[2])
        if raw[:4].hex() != key_id:
            continue
        message, signature, when = text.encode(), raw[4:], 0
        if kind == b"\x04":
            when = int.from_bytes(raw[4:12], "big")
            message, signature = f"cosignature/v1\ntime {when}\n{text}".encode(), raw[12:]
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
        except InvalidSignature:
            return None
        return when
    return None


def test_checkpoint_and_cosignatures_by_a_second_reading_of_the_c2sp_texts() -> None:
    note = packed()["log/checkpoint"].decode()
    keys = [line.split()[-1] for line in made().policy.splitlines() if line[:3] in ("log", "wit")]
    log, *others = keys
    assert by_the_text_of_c2sp(note, log) == 0
    seconds = int(bundles.BEGIN.timestamp()) + 7200
    witnesses = [key for key in others if "/witness+" in key]
    assert [by_the_text_of_c2sp(note, key) for key in witnesses] == [seconds] * 3
    origin, size, root = note.split("\n")[:3]
    leaves = [
        hashlib.sha256(b"\0" + line.split(b"\t", 1)[1]).digest()
        for line in packed()["log/events.jsonl"].splitlines()
    ]
    assert (origin, int(size)) == (f"{COORDINATOR}.cohortium/log", len(leaves))
    assert base64.b64decode(root) == recursively(leaves)
    assert by_the_text_of_c2sp(note.replace(f"\n{size}\n", "\n1\n"), log) is None


def recursively(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, as it is defined there."""
    if len(leaves) == 1:
        return leaves[0]
    k = 2 ** math.ceil(math.log2(len(leaves)) - 1)
    left, right = recursively(leaves[:k]), recursively(leaves[k:])
    return hashlib.sha256(b"\x01" + left + right).digest()


def test_the_example_of_the_cosignature_specification_verifies() -> None:
    """https://c2sp.org/tlog-cosignature; its keys are not given, so that the form alone is read."""
    text = (
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
        "\u2014 example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7"
        "u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
        "\u2014 witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dl"
        "rDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
    )
    note = verify.read_note(text.encode(), "example")
    assert (note.origin, note.size) == ("example.com/behind-the-sofa", 20852163)
    assert int.from_bytes(note.signatures[1][2][:8], "big") == 1679315147


@given(message=st.binary(max_size=200), place=st.integers(0, 63), bits=st.integers(1, 255))
@settings(max_examples=25, deadline=None)
def test_ed25519_is_that_of_another_library(message: bytes, place: int, bits: int) -> None:
    key = SigningKey.generate()
    signature = bytearray(key.sign(message))
    assert verify.ed25519_verifies(key.public.raw, message, bytes(signature))
    signature[place] ^= bits
    assert not verify.ed25519_verifies(key.public.raw, message, bytes(signature))
    assert not verify.ed25519_verifies(key.public.raw, message + b"x", key.sign(message))


def test_ed25519_of_rfc_8032() -> None:
    """Section 7.1, test 3."""
    public = bytes.fromhex("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025")
    signature = bytes.fromhex(
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
    )
    assert verify.ed25519_verifies(public, bytes.fromhex("af82"), signature)


def test_ed25519_takes_no_second_form_of_a_signature_and_no_weak_key() -> None:
    key = SigningKey.generate()
    signature = key.sign(b"x")
    s = int.from_bytes(signature[32:], "little") + verify.ORDER
    assert not verify.ed25519_verifies(
        key.public.raw, b"x", signature[:32] + s.to_bytes(32, "little")
    )
    neutral = (1).to_bytes(32, "little")
    assert not verify.ed25519_verifies(neutral, b"x", neutral + bytes(32))
    assert not verify.ed25519_verifies(bytes([255] * 32), b"x", signature)


@given(size=st.integers(0, 70), data=st.data())
@settings(max_examples=40, deadline=None)
def test_roots_and_inclusion_are_those_of_the_log_itself(size: int, data: st.DataObject) -> None:
    leaves = [leaf_hash(str(number)) for number in range(size)]
    root = merkle.root_of(leaves)
    assert verify.root_of(leaves) == root
    if size:
        index = data.draw(st.integers(0, size - 1))
        path = list(merkle.inclusion(index, size, merkle.nodes_of(leaves)))
        assert verify.includes(leaves[index], index, size, path, root)
        assert not verify.includes(leaves[index], (index + 1) % size, size, path, root) or size == 1


@given(n=st.integers(1, 5000), m=st.integers(1, 5000), data=st.data())
def test_intervals_are_those_of_the_platform(n: int, m: int, data: st.DataObject) -> None:
    k, j = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    assert verify.wilson(k, n) == pytest.approx(intervals.wilson(k, n), abs=1e-12)
    assert verify.newcombe(k, n, j, m) == pytest.approx(
        intervals.newcombe((k, n), (j, m)), abs=1e-12
    )


def test_epsilons_are_those_of_the_platform() -> None:
    from dp_accounting.pld import privacy_loss_distribution as pld

    sampled = Mechanism(sampler="poisson", sample_rate=0.05, noise_multiplier=1.2, steps=60)
    full = Mechanism(sampler="full-batch", sample_rate=1.0, noise_multiplier=4.0, steps=3)
    composer = verify.Composer(pld)
    for ran in ([sampled], [full], [sampled, full]):
        counts: Any = {(m.sample_rate, m.noise_multiplier): m.steps for m in ran}
        found = composer.epsilon(counts, 1e-5, 2.0)
        assert found == pytest.approx(accounting.epsilon(ran, 1e-5), rel=2e-3)


def test_the_seal_is_signed_as_the_verifier_reads_it() -> None:
    seal = json.loads(packed()["log/seal.json"])
    text = canonical(bundles.esignature(packed()["manifest.json"], made().keys[COORDINATOR]))
    assert json.loads(text).keys() == seal.keys() == set(verify.SEAL.split())
    assert set(SITES) < set(made().keys)
