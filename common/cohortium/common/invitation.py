"""Enrolment: the invitation that a coordinator hands out, and the two messages that use it up.

The invitation travels by a way that people trust (in person, encrypted mail). It carries the
coordinator's CA, so that the site's first connection is already verified, and a token that lets
one site in, once.
"""

import hashlib
import hmac
import json
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Self, TypeVar

import tomli_w
from pydantic import AwareDatetime, Field

from cohortium.common import document
from cohortium.common.document import Document
from cohortium.common.errors import DocumentError, IdentityError, ProtocolError
from cohortium.common.identity import certificate_fingerprint, check_certificate, write_private
from cohortium.common.schema import Name

M = TypeVar("M", bound=Document)

VERSION = 1  # of the two messages below
TOKEN_BYTES = 32
MAX_MESSAGE_BYTES = 16_384

Address = Annotated[str, Field(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]{1,253}):[0-9]{1,5}$")]
Token = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$")]
Pem = Annotated[str, Field(max_length=8192)]
Title = Annotated[str, Field(min_length=1, max_length=200)]


class Invitation(Document):
    """What a site needs to join a consortium; valid once and until `expires`."""

    coordinator: Title
    site: Name
    enrolment_address: Address
    fleet_address: Address
    ca_certificate: Pem
    ca_fingerprint: Annotated[str, Field(pattern=r"^([0-9A-F]{2}:){31}[0-9A-F]{2}$")]
    token: Token
    expires: AwareDatetime

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the TOML form. Raises DocumentError with file and key."""
        return document.load(path, cls)

    def write(self, path: Path) -> None:
        """Write the TOML form with mode 0600. Raises IdentityError where a file is already."""
        write_private(path, tomli_w.dumps(self.model_dump(), multiline_strings=True).encode())

    def check(self, now: datetime) -> None:
        """Raise IdentityError unless CA and fingerprint belong together and nothing has expired.

        Args:
            now: an aware time.
        """
        pem = self.ca_certificate.encode()
        if certificate_fingerprint(pem) != self.ca_fingerprint:
            raise IdentityError(
                "ca_fingerprint: the invitation holds another CA certificate than it says; "
                "do not use it, and ask the coordinator for a new one"
            )
        if now > self.expires:
            raise IdentityError(
                f"expires: the invitation was valid until "
                f"{self.expires.astimezone(UTC):%Y-%m-%d %H:%M} UTC; "
                "ask the coordinator for a new one"
            )
        check_certificate(pem, now)


class JoinRequest(Document):
    """What a site sends once: its token and the public halves of its two keys."""

    version: int = VERSION
    token: Token
    site: Name
    node_key: Pem  # EC P-384, what Flower knows the site by
    signing_key: Annotated[str, Field(max_length=64)]  # Ed25519, `VerifyKey.text`


class JoinReply(Document):
    """What the coordinator answers: who it is and where its Fleet API is."""

    coordinator_name: Title
    fleet_address: Address
    coordinator_signing_key: Annotated[str, Field(max_length=64)]


def encode(message: JoinRequest | JoinReply) -> bytes:
    """The JSON form on the wire."""
    return document.canonical(message)


def decode_request(body: bytes) -> JoinRequest:
    """Raises ProtocolError for anything that is not a join request."""
    return _decode(body, JoinRequest)


def decode_reply(body: bytes) -> JoinReply:
    """Raises ProtocolError for anything that is not a join reply."""
    return _decode(body, JoinReply)


def new_token() -> str:
    """32 random bytes, 43 characters of URL-safe base64."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def token_hash(token: str) -> str:
    """SHA-256 in hex: what the coordinator keeps, so that its database opens no door."""
    return hashlib.sha256(token.encode()).hexdigest()


def is_token(token: str, expected_hash: str) -> bool:
    """Whether `token` is the one that was hashed; takes as long for a near miss as for any."""
    return hmac.compare_digest(token_hash(token).encode(), expected_hash.encode())


def _decode(body: bytes, kind: type[M]) -> M:
    try:
        values = json.loads(body)
        if not isinstance(values, dict):
            raise ValueError("not an object")
        return document.parse(values, kind, kind.__name__)
    except (ValueError, RecursionError, DocumentError):
        raise ProtocolError(f"the peer's {kind.__name__} is malformed; update both sides") from None
