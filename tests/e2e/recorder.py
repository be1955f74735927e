"""A tap between a site and the coordinator: TLS ends here, and every byte that left is kept.

The test has the consortium's CA key, so that sites take the tap for the coordinator.
"""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cohortium.common import identity
from cohortium.server.config import CoordinatorDir

HOST = "127.0.0.1"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, CONTINUATION = 0, 1, 9
PADDED, PRIORITY = 0x8, 0x20


@dataclass
class Recorder:
    """One listening address whose connections go on to `target`; `sent` has one entry for each."""

    target: str
    address: str = ""
    sent: list[bytearray] = field(default_factory=list)

    def bodies(self) -> Iterator[bytes]:
        """The body of every HTTP/2 stream, whole (RFC 9113, sections 4 and 6.1)."""
        for connection in self.sent:
            streams: dict[int, bytearray] = {}
            for kind, stream, payload in frames(bytes(connection)):
                if kind == DATA:
                    streams.setdefault(stream, bytearray()).extend(payload)
            yield from map(bytes, streams.values())

    def header_blocks(self) -> Iterator[bytes]:
        """Every header block, still coded by HPACK."""
        for connection in self.sent:
            for kind, _, payload in frames(bytes(connection)):
                if kind in (HEADERS, CONTINUATION):
                    yield payload

    def messages(self) -> Iterator[bytes]:
        """Every gRPC message; none is compressed, or a search would find nothing in it."""
        for body in self.bodies():
            place = 0
            while place < len(body):
                assert body[place] == 0, "a compressed message"
                end = place + 5 + int.from_bytes(body[place + 1 : place + 5], "big")
                yield body[place + 5 : end]
                place = end

    def everything(self) -> list[bytes]:
        """What a search must look through: as it was cut on the wire, and put together."""
        return [*map(bytes, self.sent), *self.header_blocks(), *self.messages()]


def frames(sent: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, stream and payload without padding of a client's frames (RFC 9113, section 4.1)."""
    assert sent.startswith(PREFACE)
    place = len(PREFACE)
    while place + 9 <= len(sent):
        length = int.from_bytes(sent[place : place + 3], "big")
        kind, flags = sent[place + 3], sent[place + 4]
        stream = int.from_bytes(sent[place + 5 : place + 9], "big") & 0x7FFFFFFF
        payload = sent[place + 9 : place + 9 + length]
        if flags & PADDED and kind in (DATA, HEADERS):
            payload = payload[1 : len(payload) - payload[0]]
        if flags & PRIORITY and kind == HEADERS:
            payload = payload[5:]
        yield kind, stream, payload
        place += 9 + length


@contextmanager
def recorder(coordinator: Path, folder: Path, target: str) -> Iterator[Recorder]:
    """Record whatever is sent to `target` by way of the address that this listens on.

    Args:
        folder: an own folder below it takes the tap's key.
    """
    made = Recorder(target)
    server, client = _contexts(CoordinatorDir(coordinator), folder / target.replace(":", "-"))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def listen() -> asyncio.Server:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _pass_on(made, client, reader, writer)

        return await asyncio.start_server(accept, HOST, 0, ssl=server)

    async def end(listening: asyncio.Server) -> None:
        listening.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # aborted connections are closed at the loop's next turn

    listening = asyncio.run_coroutine_threadsafe(listen(), loop).result(10)
    made.address = f"{HOST}:{listening.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        asyncio.run_coroutine_threadsafe(end(listening), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def _contexts(files: CoordinatorDir, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    ca = identity.load_certified_key(files.ca_key, files.ca)
    tap = identity.issue_server_certificate(ca, ["localhost"], datetime.now(UTC), 1)
    folder.mkdir()
    key, certificate = folder / "tap.key", folder / "tap.pem"
    tap.save(key, certificate)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    client = ssl.create_default_context(cafile=str(files.ca))
    for context in (server, client):
        context.set_alpn_protocols(["h2"])
    return server, client


async def _pass_on(
    made: Recorder,
    client: ssl.SSLContext,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    record = bytearray()
    made.sent.append(record)
    host, port = made.target.rsplit(":", 1)
    there, onward = await asyncio.open_connection(host, int(port), ssl=client)
    try:
        await asyncio.gather(_pump(reader, onward, record), _pump(there, writer, None))
    except (OSError, asyncio.CancelledError):
        pass  # one side has gone, or the test is over
    finally:
        for end in (writer, onward):
            end.transport.abort()


async def _pump(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, record: bytearray | None
) -> None:
    while chunk := await source.read(2**16):
        if record is not None:
            record += chunk
        sink.write(chunk)
        await sink.drain()
    sink.close()
