"""A TCP line that a test cuts and mends, between one site and the coordinator."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

from tests.e2e.deployment import HOST

CHUNK = 1 << 16
RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: a close is a reset


class Link:
    """Forwards `port` to the coordinator's.

    Cut, it keeps connections open and lets nothing through, as a firewall that drops or a cable
    pulled out: what was sent arrives when it is mended, if the ends have waited.
    """

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._flows = threading.Event()
        self._flows.set()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self._run(self._accept)

    def cut(self) -> None:
        self._flows.clear()

    def mend(self) -> None:
        self._flows.set()

    def reset(self) -> None:
        """Break every connection; new ones are served."""
        for end in list(self._sockets):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.mend()
        self.reset()
        for thread in list(self._threads):
            thread.join(5.0)
        for end in (self._listener, *self._sockets):
            end.close()

    def _run(self, work: object, *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(near)
            try:
                far = socket.create_connection((HOST, self._upstream))
            except OSError:
                near.shutdown(socket.SHUT_RDWR)
                continue
            self._sockets.append(far)
            self._run(self._pump, near, far)
            self._run(self._pump, far, near)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                self._flows.wait()
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def links(names: tuple[str, ...], upstream: int) -> Iterator[dict[str, Link]]:
    """One line for each name."""
    made = {name: Link(upstream) for name in names}
    try:
        yield made
    finally:
        for link in made.values():
            link.close()
