"""A SIEM's syslog receiver on this machine, with real TLS: well behaved, or not."""

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cohortium.common import identity
from cohortium.common.identity import CertifiedKey

HOST = "127.0.0.1"
Manner = Literal[
    "answers",
    "closes",
    "resets",
    "never ends",
    "never reads",
    "never shakes hands",
    "refuses late",
]
LATE_S = 0.2


class Receiver:
    """Takes octet-counted frames (RFC 5425) and keeps their messages, read by its own parser.

    Args:
        manner: what it does at the end of a connection: `answers` it as the RFC says, only
            `closes` as rsyslog does, `resets`, or `never ends` it; or how it hangs before.
        dies_after: so many messages; then it is gone in the middle of what it was reading.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        manner: Manner = "answers",
        port: int = 0,
        dies_after: int | None = None,
        host: str = HOST,
    ) -> None:
        self.messages: list[bytes] = []
        self.connections = 0
        self._context = context
        self._manner = manner
        self._dies_after = dies_after
        self._over = threading.Event()
        self._listener = socket.create_server((host, port))
        self._listener.settimeout(0.02)
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def kill(self) -> None:
        """As kill -9 would: what was not read is lost, and connections are reset."""
        self._over.set()
        for thread in self._threads:
            thread.join(5.0)

    def _accept(self) -> None:
        with self._listener:
            while not self._over.is_set():
                try:
                    plain, _ = self._listener.accept()
                except TimeoutError:
                    continue
                self.connections += 1
                thread = threading.Thread(target=self._serve, args=(plain,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, plain: socket.socket) -> None:
        if self._manner == "never shakes hands":
            self._over.wait(60.0)
            plain.close()
            return
        plain.settimeout(2.0)
        if self._manner == "refuses late":
            with plain:
                refuse_late(plain, self._context)
            return
        try:
            secured = self._context.wrap_socket(plain, server_side=True)
        except OSError:
            plain.close()
            return
        with secured:
            try:
                self._read(secured)
            except OSError:
                pass

    def _read(self, secured: ssl.SSLSocket) -> None:
        if self._manner == "never reads":
            self._over.wait(60.0)
            return
        secured.settimeout(0.02)
        buffered = b""
        while not self._over.is_set():
            try:
                got = secured.recv(1024)
            except TimeoutError:
                continue
            if not got:
                self._end(secured)
                return
            buffered = self._take(buffered + got)
        reset(secured)

    def _take(self, buffered: bytes) -> bytes:
        """Keep the whole messages at the front; returns the rest."""
        while not self._over.is_set():
            length, space, rest = buffered.partition(b" ")
            if not space or len(rest) < int(length):
                break
            assert not length.startswith(b"0"), "MSG-LEN begins with a nonzero digit"
            self.messages.append(rest[: int(length)])
            buffered = rest[int(length) :]
            if len(self.messages) == self._dies_after:
                self._over.set()
        return buffered

    def _end(self, secured: ssl.SSLSocket) -> None:
        if self._manner == "answers":
            secured.unwrap()
        elif self._manner == "resets":
            reset(secured)
        elif self._manner == "never ends":
            self._over.wait(60.0)


def refuse_late(plain: socket.socket, context: ssl.SSLContext) -> None:
    """Look at the client's certificate only when it has sent its lines and ended: then a fatal
    alert answers its end, and the lines are thrown away (TLS 1.3 lets a client send that early).
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    for pause_s in (0.0, LATE_S):
        time.sleep(pause_s)
        incoming.write(plain.recv(2**16))
        try:
            tls.do_handshake()
        except ssl.SSLError:  # the first time for want of more, then because it refuses
            plain.sendall(outgoing.read())


def reset(secured: ssl.SSLSocket) -> None:
    secured.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    secured.close()


class Trust:
    """A test CA in a directory, and receivers' contexts with certificates from it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ca = identity.make_ca("SIEM CA", datetime.now(UTC) - timedelta(days=100))
        (root / "siem-ca.pem").write_bytes(self.ca.certificate_pem)

    def context(
        self, hosts: tuple[str, ...] = ("siem.example.org",), age_days: int = 0
    ) -> ssl.SSLContext:
        issued = datetime.now(UTC) - timedelta(days=age_days)
        return self.context_of(identity.issue_server_certificate(self.ca, hosts, issued, 30))

    def issue_client(self, name: str) -> CertifiedKey:
        """A certificate with which a client shows who it is."""
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.ca.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        )
        return CertifiedKey(key, builder.sign(self.ca.key, hashes.SHA256()))

    def context_of(self, certified: CertifiedKey) -> ssl.SSLContext:
        key, certificate = self.root / "siem.key", self.root / "siem.pem"
        key.unlink(missing_ok=True)
        certificate.unlink(missing_ok=True)
        certified.save(key, certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        return context


@contextmanager
def receiving(context: ssl.SSLContext, **how: object) -> Iterator[Receiver]:
    receiver = Receiver(context, **how)  # type: ignore[arg-type]
    try:
        yield receiver
    finally:
        receiver.kill()


def until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait for something that another thread brings about."""
    waiting = threading.Event()
    for _ in range(int(within_s / 0.02)):
        if condition():
            return
        waiting.wait(0.02)
    raise AssertionError("it never came about")
