"""Signed envelopes: who says what to whom, in which study and round.

Flower authenticates a connection but not the sender of a reply, so both ends sign what they send
and verify what they get. An envelope is one byte string:

    magic (4) | header length (4, big-endian) | header (canonical JSON) | signature (64) | body

The Ed25519 signature (RFC 8032) covers a context string, the header and the SHA-256 of the body;
nothing in the header or body can be changed, nor a body moved to another header.
"""

import hashlib
import struct
from typing import Annotated, Literal

from pydantic import Field

from cohortium.common.document import Document, canonical, parse_json
from cohortium.common.errors import ProtocolError, SignatureError
from cohortium.common.identity import SigningKey, VerifyKey

MAGIC = b"CHT1"
CONTEXT = b"cohortium-envelope-v1\n"
SIGNATURE_BYTES = 64
MAX_HEADER_BYTES = 4096
MAX_ENVELOPE_BYTES = 2**31 - 1

Text = Annotated[str, Field(max_length=200)]


class Header(Document):
    """What the signature binds a body to.

    study: the study's digest. message_id: fresh for each request; a reply repeats it, so that an
    old reply cannot answer a new request. sent_ms: Unix time in milliseconds at the sender.
    """

    v: Literal[1] = 1
    kind: Text
    study: Text
    round: Annotated[int, Field(ge=0, lt=2**31)]
    message_id: Text
    sender: Text
    recipient: Text
    sent_ms: int


def seal(header: Header, body: bytes, key: SigningKey) -> bytes:
    """Sign a body under its header."""
    return seal_head(header, digest(body), key) + body


def seal_head(header: Header, body_digest: bytes, key: SigningKey) -> bytes:
    """An envelope without its body: what differs where one body goes to several recipients.

    Args:
        body_digest: `digest` of the body that will follow.
    """
    head = canonical(header)
    signature = key.sign(_signed(head, body_digest))
    return b"".join((MAGIC, struct.pack(">I", len(head)), head, signature))


def digest(body: bytes | memoryview) -> bytes:
    """SHA-256, 32 bytes."""
    return hashlib.sha256(body).digest()


def unseal(raw: bytes, key: VerifyKey) -> tuple[Header, memoryview]:
    """Verify an envelope and take it apart; the body is a view, not a copy.

    Raises:
        ProtocolError: not an envelope, or a header that the protocol does not know.
        SignatureError: not signed by `key`, or changed since.
    """
    head, signature, body = _split(raw)
    try:
        key.verify(signature, _signed(head, digest(body)))
    except SignatureError:
        raise SignatureError(
            "an envelope is not signed by the enrolled key of its sender"
        ) from None
    header = parse_json(head, Header, "envelope header")
    if canonical(header) != head:
        raise ProtocolError("an envelope's header is not in canonical form")
    return header, body


def _split(raw: bytes) -> tuple[bytes, bytes, memoryview]:
    start = len(MAGIC) + 4
    if not start <= len(raw) <= MAX_ENVELOPE_BYTES or raw[: len(MAGIC)] != MAGIC:
        raise ProtocolError("not an envelope of this protocol version")
    (length,) = struct.unpack(">I", raw[len(MAGIC) : start])
    if length > MAX_HEADER_BYTES or start + length + SIGNATURE_BYTES > len(raw):
        raise ProtocolError("an envelope is cut short or its header is too long")
    body_at = start + length + SIGNATURE_BYTES
    return raw[start : start + length], raw[start + length : body_at], memoryview(raw)[body_at:]


def _signed(head: bytes, body_digest: bytes) -> bytes:
    return CONTEXT + struct.pack(">I", len(head)) + head + body_digest
