"""Keys, certificates and fingerprints: what must not be accepted, overwritten or readable."""

import hashlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from cohortium.common import identity
from cohortium.common.errors import IdentityError, SignatureError
from cohortium.common.identity import SigningKey, VerifyKey

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

# RFC 8032, section 7.1, test 2.
RFC_PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
RFC_SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def test_verification_is_the_ed25519_of_rfc_8032() -> None:
    VerifyKey(RFC_PUBLIC).verify(RFC_SIGNATURE, b"\x72")


@pytest.mark.parametrize("message", [b"", b"\x73", b"\x72\x00"])
def test_a_changed_message_is_not_taken_for_signed(message: bytes) -> None:
    with pytest.raises(SignatureError, match="not signed by SHA256:"):
        VerifyKey(RFC_PUBLIC).verify(RFC_SIGNATURE, message)


@pytest.mark.parametrize("signature", [b"", b"\0" * 64, RFC_SIGNATURE[:-1]])
def test_no_signature_at_all_is_refused_like_a_wrong_one(signature: bytes) -> None:
    with pytest.raises(SignatureError):
        VerifyKey(RFC_PUBLIC).verify(signature, b"\x72")


def test_another_key_did_not_sign() -> None:
    signature = SigningKey.generate().sign(b"update")
    with pytest.raises(SignatureError):
        SigningKey.generate().public.verify(signature, b"update")


def test_a_key_is_the_same_after_text_and_file(tmp_path: Path) -> None:
    key = SigningKey.generate()
    key.save(tmp_path / "signing.pem")
    again = SigningKey.load(tmp_path / "signing.pem")
    assert again.public == key.public == VerifyKey.from_text(key.public.text)
    assert len({again.public, key.public}) == 1
    again.public.verify(key.sign(b"m"), b"m")


@pytest.mark.parametrize("text", ["", "AAAA", "é" * 44, "A" * 42 + "B=", "A" * 43 + "=\n"])
def test_a_key_has_one_text_form_only(text: str) -> None:
    with pytest.raises(IdentityError, match="base64 of 32 bytes"):
        VerifyKey.from_text(text)


def test_a_private_key_never_appears_in_its_repr() -> None:
    assert repr(SigningKey.generate()) == "SigningKey()"


def test_a_key_file_belongs_to_its_owner_alone(tmp_path: Path) -> None:
    SigningKey.generate().save(tmp_path / "signing.pem")
    identity.make_node_key(tmp_path / "node.key")
    assert [p.stat().st_mode & 0o777 for p in sorted(tmp_path.iterdir())] == [0o600, 0o600]


def test_a_key_that_others_can_read_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    path = tmp_path / "signing.pem"
    SigningKey.generate().save(path)
    path.chmod(0o640)
    with pytest.raises(IdentityError, match=f"chmod 600 {path}"):
        SigningKey.load(path)


def test_saving_twice_keeps_the_first_key(tmp_path: Path) -> None:
    first = SigningKey.generate()
    first.save(tmp_path / "signing.pem")
    with pytest.raises(IdentityError, match="exists already"):
        SigningKey.generate().save(tmp_path / "signing.pem")
    assert SigningKey.load(tmp_path / "signing.pem").public == first.public
    assert len(list(tmp_path.iterdir())) == 1


def test_a_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="cannot be written"):
        SigningKey.generate().save(tmp_path / "absent" / "signing.pem")
    with pytest.raises(IdentityError, match="cannot be read"):
        SigningKey.load(tmp_path / "absent")


def test_a_node_key_is_not_taken_for_a_signing_key_nor_the_other_way_round(tmp_path: Path) -> None:
    pem = identity.make_node_key(tmp_path / "node.key")
    SigningKey.generate().save(tmp_path / "signing.pem")
    assert identity.node_public_pem(identity.load_node_key(tmp_path / "node.key")) == pem
    identity.check_node_public_key(pem)
    with pytest.raises(IdentityError, match="Ed25519"):
        SigningKey.load(tmp_path / "node.key")
    with pytest.raises(IdentityError, match="P-384"):
        identity.load_node_key(tmp_path / "signing.pem")
    with pytest.raises(IdentityError, match="P-384"):
        identity.check_node_public_key(b"-----BEGIN PUBLIC KEY-----")


def test_a_certificate_names_every_host_and_always_this_machine() -> None:
    ca = identity.make_ca("North CA", NOW)
    leaf = identity.issue_server_certificate(ca, ["fl.example.org", "10.0.0.7"], NOW, days=30)
    names = leaf.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fl.example.org", "localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == [
        "10.0.0.7",
        "127.0.0.1",
    ]
    leaf.certificate.verify_directly_issued_by(ca.certificate)


@pytest.mark.parametrize("host", ["", "a b", "-x", "https://fl.example.org", "fl.example.org:9092"])
def test_a_host_that_nobody_can_dial_gets_no_certificate(host: str) -> None:
    ca = identity.make_ca("North CA", NOW)
    with pytest.raises(IdentityError, match="neither a DNS name nor an IP address"):
        identity.issue_server_certificate(ca, [host], NOW, days=30)


def test_an_expired_certificate_says_since_when() -> None:
    leaf = identity.issue_server_certificate(identity.make_ca("North CA", NOW), [], NOW, days=30)
    identity.check_certificate(leaf.certificate_pem, NOW + timedelta(days=29))
    with pytest.raises(IdentityError, match="expired on 2026-03-31; the coordinator"):
        identity.check_certificate(leaf.certificate_pem, NOW + timedelta(days=31))
    with pytest.raises(IdentityError, match="only from 2026-02-28 12:00 UTC; check"):
        identity.check_certificate(leaf.certificate_pem, NOW - timedelta(days=2))


def test_a_fingerprint_is_that_of_the_der_form() -> None:
    pem = identity.make_ca("North CA", NOW).certificate_pem
    by_hand = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode())).hexdigest().upper()
    assert identity.certificate_fingerprint(pem).replace(":", "") == by_hand


def test_a_saved_ca_can_issue_again(tmp_path: Path) -> None:
    identity.make_ca("North CA", NOW).save(tmp_path / "ca.key", tmp_path / "ca.pem")
    ca = identity.load_certified_key(tmp_path / "ca.key", tmp_path / "ca.pem")
    leaf = identity.issue_server_certificate(ca, [], NOW, days=1)
    leaf.certificate.verify_directly_issued_by(ca.certificate)
    assert identity.certificate_expiry(leaf.certificate_pem) == NOW + timedelta(days=1)


def test_a_key_beside_a_foreign_certificate_is_noticed(tmp_path: Path) -> None:
    identity.make_ca("North CA", NOW).save(tmp_path / "a.key", tmp_path / "a.pem")
    identity.make_ca("South CA", NOW).save(tmp_path / "b.key", tmp_path / "b.pem")
    with pytest.raises(IdentityError, match="belongs to another key"):
        identity.load_certified_key(tmp_path / "a.key", tmp_path / "b.pem")
