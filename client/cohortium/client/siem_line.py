"""One TLS connection from a site to its SIEM."""

import fcntl
import socket
import ssl
import struct
import sys
import termios
import time
from pathlib import Path
from typing import NoReturn

from cohortium.common import timeouts
from cohortium.common.audit.siem import SiemConfig
from cohortium.common.errors import IdentityError, UnreachableError

# OpenSSL's X509_V_ERR_*, see openssl-verification-options(1).
_DISTRUST = {
    9: "is not valid yet",
    10: "has expired",
    62: "is for another host name than [siem] host",
    64: "is for another address than [siem] host",
}
_WANTS_CERTIFICATE = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE")
ACKNOWLEDGED_S = 1.0  # within which the receiver's machine has acknowledged what it took


def open_line(config: SiemConfig, root: Path) -> "TlsLine":
    """Connect, shake hands, and see that it is the receiver; nothing is sent.

    Args:
        root: from where the files of the configuration are found.

    Raises:
        UnreachableError: nobody answers there, or speaks no TLS.
        IdentityError: somebody answers in the receiver's place, or a file is no certificate.
    """
    context = _context(config, root)
    try:
        plain = socket.create_connection((config.host, config.port), timeouts.SIEM_CONNECT_S)
    except (socket.gaierror, UnicodeError):
        raise UnreachableError(f'"{config.host}" has no address; correct [siem] host') from None
    except OSError as error:
        why = error.strerror or "timeout"
        raise UnreachableError(f"does not answer ({why}); ask who runs it") from None
    try:
        return TlsLine(plain, context, config.host)
    except ssl.SSLCertVerificationError as error:
        plain.close()
        what = _DISTRUST.get(error.verify_code, "is not from an authority that [siem] ca trusts")
        raise IdentityError(f"the receiver's certificate {what}; nothing is sent") from None
    except (OSError, ValueError) as error:
        plain.close()
        _broken("no TLS", error)


def _context(config: SiemConfig, root: Path) -> ssl.SSLContext:
    """The receiver must have a certificate for its name; TLS 1.2 or later (RFC 9662)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if config.ca is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(root / config.ca)
        if config.certificate is not None and config.key is not None:
            context.load_cert_chain(root / config.certificate, root / config.key)
    except (OSError, ValueError):
        raise IdentityError(
            "a file of [siem] ca, certificate or key is absent or not in PEM form; correct it"
        ) from None
    return context


class TlsLine:
    """A connection after the handshake; `stream.Line` says what its methods promise.

    TLS runs in memory and the socket beside it, because `SSLSocket.unwrap` takes a fatal alert,
    with which a receiver throws away what it got, for the answer to our end.
    """

    def __init__(self, plain: socket.socket, context: ssl.SSLContext, host: str) -> None:
        self._socket = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._socket.settimeout(timeouts.SIEM_CONNECT_S)
        try:
            while not self._shaken():
                self._flush()
                self._receive()
        finally:
            self._flush()

    def send(self, data: bytes) -> None:
        try:
            self._look()
            self._socket.settimeout(timeouts.SIEM_SEND_S)
            left = memoryview(data)
            while left:
                left = left[self._tls.write(left) :]
                self._flush()
        except (OSError, ValueError) as error:
            _broken("the connection broke while lines were sent", error)

    def finish(self) -> None:
        """Our close_notify, then theirs (RFC 5425, section 4.4).

        Some receivers only close. Then all was read if their machine has acknowledged every byte
        and did not reset: a socket that is closed before all is read resets.
        """
        try:
            self._look()
            self._socket.settimeout(timeouts.SIEM_CLOSE_S)
            try:
                self._tls.unwrap()
            except ssl.SSLWantReadError:
                pass  # it waits for theirs
            self._flush()
            while not self._ended():
                self._receive()
        except ssl.SSLEOFError as error:
            if not self._acknowledged():
                _broken("the connection broke at its end", error)
        except (OSError, ValueError) as error:
            _broken("does not answer the end of a connection (RFC 5425, 4.4)", error)

    def abort(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended already

    def close(self) -> None:
        self._socket.close()

    def _shaken(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def _look(self) -> None:
        """Raise OSError where the receiver has ended the connection already."""
        self._socket.settimeout(0)
        try:
            while True:
                self._receive()
                if self._ended():
                    raise ConnectionResetError("closed by the receiver")
        except BlockingIOError:
            return

    def _ended(self) -> bool:
        """Whether their close_notify is there; an alert, or an end without one, raises."""
        try:
            while self._tls.read(4096):
                pass
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLZeroReturnError:
            pass
        return True

    def _receive(self) -> None:
        got = self._socket.recv(2**16)
        if got:
            self._incoming.write(got)
        else:
            self._incoming.write_eof()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._socket.sendall(self._outgoing.read())

    def _acknowledged(self) -> bool:
        """Whether every byte that we sent has reached the receiver's machine (tcp(7), SIOCOUTQ)."""
        if not sys.platform.startswith("linux"):
            return False
        until = time.monotonic() + ACKNOWLEDGED_S
        while time.monotonic() < until:
            (unacknowledged,) = struct.unpack(
                "i", fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4))
            )
            if not unacknowledged:
                return True
            time.sleep(0.01)
        return False


def _broken(what: str, error: Exception) -> NoReturn:
    """Say it in one line, with what the other side said of it."""
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    if isinstance(error, TimeoutError):
        raise UnreachableError(f"{what}: takes too long; ask who runs it") from None
    if any(sign in str(reason) for sign in _WANTS_CERTIFICATE):
        asks = "it asks for a certificate of ours; set [siem] certificate and key"
        raise IdentityError(f"{what}: {asks}") from None
    raise UnreachableError(f"{what} ({str(reason)[:100]}); ask who runs it") from None
