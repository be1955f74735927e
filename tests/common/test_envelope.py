"""Nothing in an envelope can be changed, swapped or cut without being noticed."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohortium.common.envelope import MAGIC, MAX_HEADER_BYTES, Header, seal, unseal
from cohortium.common.errors import CohortiumError, ProtocolError, SignatureError
from cohortium.common.identity import SigningKey

KEY, OTHER = SigningKey.generate(), SigningKey.generate()
HEADER = Header(
    kind="train",
    study="5" * 64,
    round=3,
    message_id="0f" * 16,
    sender="consortium",
    recipient="north",
    sent_ms=1_700_000_000_000,
)
BODY = bytes(range(64))
SEALED = seal(HEADER, BODY, KEY)
BODY_AT = len(SEALED) - len(BODY)


def changed(**values: object) -> Header:
    return HEADER.model_copy(update=values)


def test_what_was_sealed_comes_out_as_it_was() -> None:
    header, body = unseal(SEALED, KEY.public)
    assert header == HEADER
    assert bytes(body) == BODY


def test_an_empty_body_is_a_body() -> None:
    assert bytes(unseal(seal(HEADER, b"", KEY), KEY.public)[1]) == b""


def test_every_single_flipped_bit_is_noticed() -> None:
    for bit in range(8 * len(SEALED)):
        raw = bytearray(SEALED)
        raw[bit // 8] ^= 1 << bit % 8
        with pytest.raises((SignatureError, ProtocolError)):
            unseal(bytes(raw), KEY.public)


def test_every_truncation_and_every_appended_byte_is_noticed() -> None:
    for raw in (*(SEALED[:end] for end in range(len(SEALED))), SEALED + b"\0"):
        with pytest.raises(CohortiumError):
            unseal(raw, KEY.public)


@given(raw=st.binary(max_size=300), magic=st.booleans())
def test_no_bytes_make_it_raise_anything_but_our_errors(raw: bytes, magic: bool) -> None:
    with pytest.raises(CohortiumError):
        unseal(MAGIC + raw if magic else raw, KEY.public)


def test_another_key_than_the_enrolled_one_is_refused() -> None:
    with pytest.raises(SignatureError, match="not signed by the enrolled key"):
        unseal(seal(HEADER, BODY, OTHER), KEY.public)


@pytest.mark.parametrize(
    "header",
    [
        changed(round=4),
        changed(kind="evaluate"),
        changed(study="6" * 64),
        changed(message_id="1f" * 16),
        changed(sender="south"),
        changed(recipient="south"),
        changed(sent_ms=1),
    ],
    ids=lambda header: str(header)[:30],
)
def test_a_header_moved_to_another_envelope_is_noticed(header: Header) -> None:
    twin = seal(header, BODY, KEY)
    start = len(MAGIC) + 4
    (length,) = struct.unpack(">I", twin[len(MAGIC) : start])
    ours = struct.unpack(">I", SEALED[len(MAGIC) : start])[0]
    mixed = twin[: start + length] + SEALED[start + ours :]
    with pytest.raises(SignatureError):
        unseal(mixed, KEY.public)


def test_a_body_moved_to_another_envelope_is_noticed() -> None:
    other = seal(changed(round=4), BODY[::-1], KEY)
    with pytest.raises(SignatureError):
        unseal(SEALED[:BODY_AT] + other[-len(BODY) :], KEY.public)


def test_a_byte_moved_from_header_to_body_is_noticed() -> None:
    start = len(MAGIC)
    (length,) = struct.unpack(">I", SEALED[start : start + 4])
    for shift in (-1, 1):
        raw = SEALED[:start] + struct.pack(">I", length + shift) + SEALED[start + 4 :]
        with pytest.raises(CohortiumError):
            unseal(raw, KEY.public)


def test_a_header_that_claims_to_be_huge_is_refused_before_it_is_read() -> None:
    for length in (MAX_HEADER_BYTES + 1, 2**32 - 1):
        with pytest.raises(ProtocolError, match="header is too long"):
            unseal(MAGIC + struct.pack(">I", length) + bytes(10_000), KEY.public)


def sealed_text(head: bytes) -> bytes:
    """An envelope with any bytes for a header, rightly signed."""
    import hashlib

    from cohortium.common.envelope import CONTEXT

    size = struct.pack(">I", len(head))
    signature = KEY.sign(CONTEXT + size + head + hashlib.sha256(BODY).digest())
    return MAGIC + size + head + signature + BODY


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"{}",
        b"not json",
        HEADER.model_dump_json().encode(),  # another order of keys
        HEADER.model_dump_json().replace('"v":1', '"v":2').encode(),
        HEADER.model_dump_json().replace('"round":3', '"round":-1').encode(),
        HEADER.model_dump_json().replace('"round":3', '"round":2147483648').encode(),
        HEADER.model_dump_json().replace('"round":3', '"round":3.5').encode(),
        HEADER.model_dump_json().replace('"v":1', '"v":1,"extra":1').encode(),
    ],
)
def test_a_rightly_signed_header_that_the_protocol_does_not_know_is_refused(head: bytes) -> None:
    with pytest.raises(ProtocolError):
        unseal(sealed_text(head), KEY.public)
