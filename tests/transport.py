"""A real SuperLink over TLS with real nodes, for tests; everything dies with the test."""

import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cohortium.client.line import FleetConnection
from cohortium.client.node import serve
from cohortium.common import identity
from cohortium.common.errors import CohortiumError
from cohortium.server.superlink import SuperLink, TlsFiles


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_tls(
    folder: Path, now: datetime | None = None, days: int = 30, host: str = "localhost"
) -> TlsFiles:
    """A CA and a server certificate for 127.0.0.1 and `host` in `folder`."""
    now = now or datetime.now(UTC)
    ca = identity.make_ca("Test CA", now)
    ca.save(folder / "ca.key", folder / "ca.pem")
    server = identity.issue_server_certificate(ca, [host], now, days)
    server.save(folder / "server.key", folder / "server.pem")
    return TlsFiles(folder / "ca.pem", folder / "server.pem", folder / "server.key")


def wait_for(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@dataclass
class NodeThread:
    """`serve` in a thread, with what it said and how it ended."""

    connection: FleetConnection
    answer: Callable[[bytes], bytes]
    states: list[str] = field(default_factory=list)
    error: CohortiumError | None = None

    def __post_init__(self) -> None:
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            serve(self.connection, self.answer, self.stop, self.states.append)
        except CohortiumError as error:
            self.error = error

    def wait_online(self, timeout_s: float = 20.0) -> None:
        wait_for(lambda: self.states[-1:] == ["online"] or self.error is not None, timeout_s)
        assert self.error is None, self.error

    def end(self) -> None:
        self.stop.set()
        self.thread.join(10)
        assert not self.thread.is_alive()


@dataclass
class Federation:
    """One SuperLink and the nodes that a test adds."""

    folder: Path
    tls: TlsFiles
    superlink: SuperLink
    port: int
    host: str = "127.0.0.1"
    node_ids: dict[str, int] = field(default_factory=dict)
    nodes: dict[str, NodeThread] = field(default_factory=dict)

    def connection(self, name: str) -> FleetConnection:
        address = f"{self.host}:{self.port}"
        return FleetConnection(address, self.tls.ca.read_bytes(), self.folder / f"{name}.key", name)

    def enrol(self, name: str) -> FleetConnection:
        """Make a node key and let it in."""
        public = identity.make_node_key(self.folder / f"{name}.key")
        self.node_ids[name] = self.superlink.register_node(public)
        return self.connection(name)

    def add(self, name: str, answer: Callable[[bytes], bytes]) -> NodeThread:
        """Enrol a site and run its node in a thread until the test ends."""
        self.nodes[name] = NodeThread(self.enrol(name), answer)
        self.nodes[name].wait_online()
        return self.nodes[name]


@contextmanager
def federation(folder: Path, host: str = "127.0.0.1") -> Iterator[Federation]:
    tls, port = make_tls(folder, host=host), free_port()
    superlink = SuperLink(folder / "state", tls, host, port, folder / "superlink.log")
    superlink.start()
    made = Federation(folder, tls, superlink, port, host)
    try:
        yield made
    finally:
        for node in made.nodes.values():
            node.end()
        superlink.stop()


class Relay:
    """Forwards TCP connections to a port, counts what passes, and can be cut.

    Attributes:
        port: where to connect to.
        up, down: bytes forwarded to the port and from it.
    """

    def __init__(self, target: int) -> None:
        self.up = self.down = 0
        self._target = target
        self._open: list[socket.socket] = []
        self._cut_until = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, seconds: float) -> None:
        """Break every connection, and refuse new ones for a while."""
        self._cut_until = time.monotonic() + seconds
        for end in self._open:
            _break(end)
        self._open.clear()

    def close(self) -> None:
        _break(self._listener)
        self.cut(1e9)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if time.monotonic() < self._cut_until:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._target))
            self._open += [near, far]
            for pair in ((near, far), (far, near)):
                threading.Thread(
                    target=self._forward, args=(*pair, pair[0] is near), daemon=True
                ).start()

    def _forward(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        try:
            while data := source.recv(2**16):
                sink.sendall(data)
                if up:
                    self.up += len(data)
                else:
                    self.down += len(data)
        except OSError:
            pass
        _break(source)
        _break(sink)


def _break(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    end.close()


def node_process(
    connection: FleetConnection, prefix: bytes, seconds: float = 0.0
) -> multiprocessing.Process:
    """A node in a process of its own that answers `prefix` + request; kill it as you like.

    Without a prefix it answers the request turned round, which shares no chunk with it.
    """
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=echo_for_ever, args=(connection, prefix, seconds), daemon=True)
    process.start()
    return process  # type: ignore[return-value]


def echo_for_ever(connection: FleetConnection, prefix: bytes, seconds: float) -> None:
    def answer(request: bytes) -> bytes:
        time.sleep(seconds)
        return prefix + request if prefix else request[::-1]

    serve(connection, answer, threading.Event(), lambda _: None)
