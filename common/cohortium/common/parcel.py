"""How a payload travels: what does not fill a chunk goes first, then chunks of one size.

    payload = first | chunk | chunk | ...

What differs from site to site, an envelope's head, is at the start: the chunks of a body that goes
to several sites are the same for all, and a store that names what it holds by its hash takes them
once. A chunk is an object of Flower's (`ArrayChunk`): `kind, space, no children, space, length,
NUL, bytes`, named by its SHA-256. Beside `first` travels the list of the chunks' names.
"""

import hashlib
import io
import threading
from collections.abc import Iterable, Mapping

from cohortium.common.envelope import MAX_ENVELOPE_BYTES
from cohortium.common.errors import ProtocolError

CHUNK_BYTES = 2**20  # a lost connection costs at most one for each lane; an object costs 10 ms
MIN_CHUNK_BYTES = 2**19  # of a peer; smaller ones would only keep the store busy
MAX_CHUNKS = MAX_ENVELOPE_BYTES // MIN_CHUNK_BYTES
ID_BYTES = 32

FIRST = "payload"
IDS = "chunks"
SIZE = "chunk_bytes"


class Chunks:
    """A body taken apart, without a copy of it.

    Attributes:
        body: itself.
        rest: the start of the body, which does not fill a chunk.
        ids: the name of each chunk, in order; equal chunks have one name.
    """

    def __init__(self, body: bytes) -> None:
        length = len(body) % CHUNK_BYTES
        self.body = body
        self.rest = body[:length]
        self._view = memoryview(body)
        starts = range(length, len(body), CHUNK_BYTES)
        self.ids = tuple(self._name(start) for start in starts)
        self._starts = dict(zip(self.ids, starts, strict=True))

    def names(self) -> list[str]:
        """Each name once, in the order in which the chunks are wanted."""
        return list(self._starts)

    def content(self, name: str) -> bytes:
        """The object of that name, as the store takes it."""
        start = self._starts[name]
        return b"".join((_prefix(CHUNK_BYTES), self._view[start : start + CHUNK_BYTES]))

    def record(self, head: bytes = b"") -> dict[str, bytes | int]:
        """What travels in the message itself: the payload's start, and which chunks follow."""
        first = head + self.rest
        if not self.ids:
            return {FIRST: first}
        return {FIRST: first, IDS: bytes.fromhex("".join(self.ids)), SIZE: CHUNK_BYTES}

    def _name(self, start: int) -> str:
        name = hashlib.sha256(_prefix(CHUNK_BYTES))
        name.update(self._view[start : start + CHUNK_BYTES])
        return name.hexdigest()


class Assembly:
    """A payload that is put together again, in one buffer, whatever order chunks come in.

    Attributes:
        names: each chunk's, once, in the order in which they are wanted.

    Args:
        record: what the message itself carried; from a peer, so anything.
        offered: names of the chunks that the peer announced.
        max_bytes: of the whole payload.

    Raises:
        ProtocolError: not the record of a payload, too large, or of chunks that nobody announced.
    """

    def __init__(self, record: Mapping[str, object], offered: Iterable[str], max_bytes: int):
        first, ids, size = record.get(FIRST), record.get(IDS, b""), record.get(SIZE, CHUNK_BYTES)
        if not (isinstance(first, bytes) and isinstance(ids, bytes) and type(size) is int):
            raise ProtocolError("a payload is not one block of bytes")
        names = [ids[at : at + ID_BYTES].hex() for at in range(0, len(ids), ID_BYTES)]
        if len(ids) % ID_BYTES or set(names) != set(offered):
            raise ProtocolError("a payload's list of chunks is not what was announced")
        if (names and size < MIN_CHUNK_BYTES) or len(first) + len(names) * size > max_bytes:
            raise ProtocolError("a payload is larger than this message may be")
        self.names = list(dict.fromkeys(names))
        self._size = size
        self._first = first
        self._length = len(first) + len(names) * size
        self._starts: dict[str, list[int]] = {}
        for number, name in enumerate(names):
            self._starts.setdefault(name, []).append(len(first) + number * size)
        self._arrived: set[str] = set()
        self._lock = threading.Lock()
        self._buffer = io.BytesIO()  # empty until the first chunk is here: a peer may promise much

    def put(self, name: str, content: bytes) -> None:
        """Take one chunk's object, at most once each; from any thread.

        Raises:
            ProtocolError: not a chunk of the announced size.
        """
        prefix = _prefix(self._size)
        if len(content) != len(prefix) + self._size or not content.startswith(prefix):
            raise ProtocolError("a chunk of a payload is not of the announced size")
        with self._lock:
            self._reserve()
        with self._buffer.getbuffer() as whole:
            for start in self._starts[name]:
                whole[start : start + self._size] = memoryview(content)[len(prefix) :]
        self._arrived.add(name)

    def missing(self) -> list[str]:
        """The names of the chunks that were not put yet, in the order in which they are wanted."""
        return [name for name in self.names if name not in self._arrived]

    def payload(self) -> bytes:
        """The whole; once every chunk was put. The buffer itself, not a copy of it."""
        return self._buffer.getvalue() if self.names else self._first

    def _reserve(self) -> None:
        if not self._buffer.tell():
            self._buffer.seek(self._length - 1)
            self._buffer.write(b"\0")
            with self._buffer.getbuffer() as whole:
                whole[: len(self._first)] = self._first


def _prefix(size: int) -> bytes:
    return f"ArrayChunk  {size}\0".encode()
