"""Payloads in chunks: whole again in any order, and nothing of what a hostile peer promises."""

import os
import random

import pytest

from cohortium.common.errors import ProtocolError
from cohortium.common.parcel import CHUNK_BYTES, ID_BYTES, Assembly, Chunks

NO_LIMIT = 2**31 - 1


def assembled(chunks: Chunks, head: bytes, order: list[str]) -> bytes:
    whole = Assembly(chunks.record(head), chunks.names(), NO_LIMIT)
    for name in order:
        whole.put(name, chunks.content(name))
    return whole.payload()


@pytest.mark.parametrize("length", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 3 * CHUNK_BYTES + 7])
def test_a_body_that_came_in_any_order_is_the_body(length: int) -> None:
    body = os.urandom(length)
    chunks = Chunks(body)
    order = chunks.names()
    random.Random(1).shuffle(order)
    assert assembled(chunks, b"head", order) == b"head" + body
    assert len(chunks.ids) == length // CHUNK_BYTES


def test_equal_chunks_travel_once_and_are_put_everywhere() -> None:
    body = b"first" + bytes(3 * CHUNK_BYTES)
    chunks = Chunks(body)
    assert len(chunks.names()) == 1
    assert len(chunks.ids) == 3
    assert assembled(chunks, b"", chunks.names()) == body


def test_two_sites_heads_leave_the_chunks_the_same() -> None:
    body = os.urandom(CHUNK_BYTES + 99)
    north, south = Chunks(body).record(b"north"), Chunks(body).record(b"to the south")
    assert north["chunks"] == south["chunks"]
    assert north["payload"] == b"north" + body[:99]


@pytest.mark.parametrize(
    "change",
    [
        {"payload": "text"},
        {"payload": None},
        {"chunks": b"x" * (ID_BYTES - 1)},
        {"chunks": b"x" * ID_BYTES},  # not what was announced
        {"chunks": [1, 2]},
        {"chunk_bytes": 1},  # 2 GB of chunks that small would be two thousand million objects
        {"chunk_bytes": -CHUNK_BYTES},
        {"chunk_bytes": True},
        {"chunk_bytes": 2**40},
    ],
)
def test_a_record_that_is_not_a_payloads_is_refused(change: dict[str, object]) -> None:
    chunks = Chunks(os.urandom(2 * CHUNK_BYTES))
    with pytest.raises(ProtocolError):
        Assembly(chunks.record() | change, chunks.names(), NO_LIMIT)


def test_one_chunk_named_a_thousand_times_is_refused_by_what_it_would_become() -> None:
    chunks = Chunks(os.urandom(CHUNK_BYTES))
    bomb = chunks.record() | {"chunks": bytes.fromhex(chunks.ids[0]) * 1000}
    with pytest.raises(ProtocolError, match="larger than this message may be"):
        Assembly(bomb, chunks.names(), max_bytes=100 * CHUNK_BYTES)


def test_a_chunk_of_another_size_or_kind_is_refused() -> None:
    chunks = Chunks(os.urandom(CHUNK_BYTES))
    (name,) = chunks.names()
    whole = Assembly(chunks.record(), chunks.names(), NO_LIMIT)
    right = chunks.content(name)
    for wrong in (right[:-1], right + b"x", b"ConfigRecx" + right[10:]):
        with pytest.raises(ProtocolError, match="not of the announced size"):
            whole.put(name, wrong)
