"""Who somebody is: signing keys, Flower node keys, the coordinator's own CA, fingerprints.

Signatures are Ed25519 (RFC 8032), node keys EC P-384 in OpenSSH form (what Flower's Fleet API
asks for), certificates X.509 (RFC 5280) under one CA that the coordinator makes for itself.
A private key is born on the machine that uses it, in a file that only its owner can read.
"""

import base64
import binascii
import hashlib
import ipaddress
import os
import re
import secrets
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cohortium.common.errors import IdentityError, SignatureError

CA_DAYS = 3650
CLOCK_SKEW = timedelta(days=1)  # a certificate is valid from a day ago: hospital clocks drift
ALWAYS_HOSTS = ("localhost", "127.0.0.1")
_HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")


@dataclass(frozen=True)
class VerifyKey:
    """The public half of a signing key: 32 raw bytes (RFC 8032, section 5.1.5)."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != 32:
            raise IdentityError("a verify key has 32 bytes; ask its owner to send it again")

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read the base64 form. Raises IdentityError unless it is exactly what `text` writes."""
        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) != 32 or base64.b64encode(raw).decode() != text:
            raise IdentityError(
                "a verify key is the base64 of 32 bytes, and this is not; "
                "ask its owner to send it again"
            )
        return cls(raw)

    @property
    def text(self) -> str:
        """Base64 of the raw key, 44 characters."""
        return base64.b64encode(self.raw).decode()

    @property
    def fingerprint(self) -> str:
        """`SHA256:` and the unpadded base64 of the raw key's digest: what people read out."""
        digest = hashlib.sha256(self.raw).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raise SignatureError unless this key's owner signed exactly `message`."""
        try:
            ed25519.Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            raise SignatureError(
                f"not signed by {self.fingerprint}; compare the key's fingerprint with its owner"
            ) from None


@dataclass(frozen=True, eq=False)
class SigningKey:
    """An Ed25519 private key; never printed, never sent."""

    _key: ed25519.Ed25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> Self:
        return cls(ed25519.Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a PKCS8 PEM file. Raises IdentityError: absent, readable by others, another kind."""
        pem = read_private(path)
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise _not_a_key(path, "an Ed25519 key in PEM form") from None
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise _not_a_key(path, "an Ed25519 key in PEM form")
        return cls(key)

    def save(self, path: Path) -> None:
        """Write a PKCS8 PEM file with mode 0600. Raises IdentityError where one is already."""
        write_private(path, _private_pem(self._key))

    @property
    def public(self) -> VerifyKey:
        return VerifyKey(self._key.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of the signature."""
        return self._key.sign(message)


def make_node_key(path: Path) -> bytes:
    """Make the EC P-384 key that Flower knows this site by; save it in OpenSSH form.

    Returns:
        The public key as PEM (SubjectPublicKeyInfo): what Flower's RegisterNode wants.

    Raises:
        IdentityError: there is a file at `path` already, or it cannot be written.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    write_private(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        ),
    )
    return node_public_pem(key)


def load_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read what `make_node_key` wrote. Raises IdentityError like `SigningKey.load`."""
    pem = read_private(path)
    try:
        key = serialization.load_ssh_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _not_a_key(path, "an EC P-384 key in OpenSSH form") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        raise _not_a_key(path, "an EC P-384 key in OpenSSH form")
    return key


def node_public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public half of a node key as PEM (SubjectPublicKeyInfo)."""
    return _public_pem(key.public_key())


def _public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def check_node_public_key(pem: bytes) -> None:
    """Raise IdentityError unless `pem` is an EC P-384 key exactly as `node_public_pem` writes it.

    Two spellings of one key would pass for two keys where keys are compared.
    """
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise IdentityError("a node key is the PEM of an EC P-384 public key, and this is not")
    if _public_pem(key) != pem:
        raise IdentityError("a node key's PEM is not in its one form; send it as it was made")


class CertifiedKey(NamedTuple):
    """A private key and the certificate of its public half."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def key_pem(self) -> bytes:
        return _private_pem(self.key)

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def save(self, key_path: Path, certificate_path: Path) -> None:
        """Write the key with mode 0600 and the certificate for everybody; overwrite neither."""
        write_private(key_path, self.key_pem)
        _create(certificate_path, self.certificate_pem, mode=0o644)


def load_certified_key(key_path: Path, certificate_path: Path) -> CertifiedKey:
    """Read a CA or a server's key with its certificate.

    Raises:
        IdentityError: a file is absent or no such thing, or the two do not belong together.
    """
    pem = read_private(key_path)
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _not_a_key(key_path, "an EC key in PEM form") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _not_a_key(key_path, "an EC key in PEM form")
    certificate = _certificate(_read(certificate_path))
    if certificate.public_key() != key.public_key():
        raise IdentityError(f"{certificate_path}: belongs to another key than {key_path}")
    return CertifiedKey(key, certificate)


def make_ca(name: str, now: datetime) -> CertifiedKey:
    """Make a CA that signs server certificates and nothing below them, valid for ten years."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _common_name(name)
    builder = (
        _certificate_builder(subject, subject, key, now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return CertifiedKey(key, builder.sign(key, hashes.SHA256()))


def issue_server_certificate(
    ca: CertifiedKey, hosts: Iterable[str], now: datetime, days: int
) -> CertifiedKey:
    """Issue a TLS server certificate for `hosts`, localhost and 127.0.0.1.

    Args:
        hosts: DNS names and IP addresses; the first is the certificate's common name.
        days: how long it is valid from `now` on.

    Raises:
        IdentityError: a host is neither a DNS name nor an IP address.
    """
    names = list(dict.fromkeys((*hosts, *ALWAYS_HOSTS)))
    key = ec.generate_private_key(ec.SECP256R1())
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    builder = (
        _certificate_builder(_common_name(names[0]), ca.certificate.subject, key, now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.SubjectAlternativeName(map(_host_name, names)), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(authority, critical=False)
    )
    return CertifiedKey(key, builder.sign(ca.key, hashes.SHA256()))


def certificate_fingerprint(pem: bytes) -> str:
    """SHA-256 of a certificate's DER form: 32 upper-case hex pairs with colons between."""
    digest = _certificate(pem).fingerprint(hashes.SHA256())
    return digest.hex(":").upper()


def certificate_expiry(pem: bytes) -> datetime:
    """The last moment (UTC) at which a certificate is valid."""
    return _certificate(pem).not_valid_after_utc


def check_certificate(pem: bytes, now: datetime) -> None:
    """Raise IdentityError, with the date and what to do, unless the certificate is valid at `now`.

    Args:
        now: an aware time.
    """
    certificate = _certificate(pem)
    whose = certificate.subject.rfc4514_string()
    if now > certificate.not_valid_after_utc:
        raise IdentityError(
            f"the certificate of {whose} expired on {certificate.not_valid_after_utc:%Y-%m-%d}; "
            "the coordinator must issue a new one"
        )
    if now < certificate.not_valid_before_utc:
        raise IdentityError(
            f"the certificate of {whose} is valid only from "
            f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; check this machine's clock"
        )


def write_private(path: Path, content: bytes) -> None:
    """Create a file with mode 0600, whole or not at all; never overwrite one."""
    _create(path, content, mode=0o600)


def read_private(path: Path) -> bytes:
    """Read a file that holds a secret. Raises IdentityError where others can read it too."""
    content = _read(path)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise IdentityError(f"{path}: others can read this secret; run: chmod 600 {path}")
    return content


def _create(path: Path, content: bytes, mode: int) -> None:
    """Write beside `path`, then link: a crash leaves no half key, and a second caller loses."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        raise IdentityError(
            f"{path}: exists already and is not overwritten; move it away first"
        ) from None
    except OSError as error:
        raise IdentityError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        draft.unlink(missing_ok=True)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise IdentityError(f"{path}: cannot be read ({error.strerror})") from None


def _not_a_key(path: Path, wanted: str) -> IdentityError:
    return IdentityError(f"{path}: is not {wanted}; restore it from a backup or enrol again")


def _private_pem(key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _certificate(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise IdentityError(
            "a certificate is a PEM block, and this is not; ask the coordinator for it again"
        ) from None


def _common_name(name: str) -> x509.Name:
    """RFC 5280, appendix A.1: a common name has at most 64 characters."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64] or "cohortium")])


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not _HOST.fullmatch(host):
            raise IdentityError(
                f'"{host}" is neither a DNS name nor an IP address; give the name that sites dial'
            ) from None
        return x509.DNSName(host)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _certificate_builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
    )
