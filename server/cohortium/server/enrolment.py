"""The one door for strangers: a gRPC service over TLS that trades a token for membership.

A stranger learns nothing but "refused"; the reason goes to the coordinator's log. Bodies are
JSON (`cohortium.common.invitation`), at most 16 KiB.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import grpc

from cohortium.common import timeouts
from cohortium.common.errors import CohortiumError, IdentityError, UnreachableError
from cohortium.common.identity import check_certificate
from cohortium.common.invitation import (
    MAX_MESSAGE_BYTES,
    VERSION,
    JoinReply,
    JoinRequest,
    decode_request,
    encode,
)
from cohortium.server.superlink import TlsFiles

SERVICE = "cohortium.Enrolment"
REFUSED = (
    "refused: the invitation is not valid, was used or has expired; "
    "ask the coordinator for a new one"
)
FAILURES_ALLOWED = 5  # per peer and window
MAX_PEERS = 10_000
WORKERS = 4

log = logging.getLogger(__name__)


class EnrolmentService:
    """Answers `/cohortium.Enrolment/Join`, and `/Time` to a site's doctor.

    Args:
        host, port: where strangers knock; port 0 picks a free one.
        tls: the coordinator's server certificate, the same as the Fleet API's.
        admit: checks the token, uses it up and registers the keys; raises IdentityError to
            refuse. Called from several threads.
    """

    def __init__(
        self,
        host: str,
        port: int,
        tls: TlsFiles,
        admit: Callable[[JoinRequest], JoinReply],
    ) -> None:
        self._host = f"[{host}]" if ":" in host else host
        self._tls = tls
        self._admit = admit
        self._failures = FailureLimit()
        self._server: grpc.Server | None = None
        self.port = port

    def start(self) -> None:
        """Open the port.

        Raises:
            IdentityError: the server certificate cannot be read or is not valid today.
            UnreachableError: the port is in use or the host is not one of this machine's.
        """
        try:
            certificate = self._tls.certificate.read_bytes()
            key = self._tls.key.read_bytes()
        except OSError as error:
            raise IdentityError(f"{error.filename}: cannot be read ({error.strerror})") from None
        check_certificate(certificate, datetime.now(UTC))
        server = grpc.server(
            ThreadPoolExecutor(WORKERS),
            handlers=[self._handler()],
            maximum_concurrent_rpcs=4 * WORKERS,
            options=(
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
            ),
        )
        credentials = grpc.ssl_server_credentials([(key, certificate)])
        try:
            self.port = server.add_secure_port(f"{self._host}:{self.port}", credentials)
        except RuntimeError:
            raise UnreachableError(
                f"{self._host}:{self.port} cannot be opened for enrolment: the port is in use or "
                "the host is not this machine; set another enrolment host or port"
            ) from None
        server.start()
        self._server = server

    def stop(self) -> None:
        """Close the port, letting a join that runs finish for a second; idempotent."""
        if self._server is not None:
            self._server.stop(grace=1.0).wait()
            self._server = None

    def _handler(self) -> grpc.GenericRpcHandler:
        join = grpc.unary_unary_rpc_method_handler(self._join)
        tell_time = grpc.unary_unary_rpc_method_handler(self._time)
        methods = {"Join": join, "Time": tell_time}
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _time(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        """Milliseconds since 1970 in UTC, in decimal digits: no secret, every server tells it."""
        return str(time.time_ns() // 1_000_000).encode()

    def _join(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        peer = _host_of(context.peer())
        if self._failures.too_many(peer):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "refused: try again in a minute")
        try:
            request = decode_request(body)
            if request.version != VERSION:
                raise IdentityError(f"it speaks enrolment version {request.version}")
            return encode(self._admit(request))
        except CohortiumError as error:
            log.warning("enrolment from %s refused: %s", peer, error)
        except Exception as error:  # the boundary: a stranger sees no traceback
            log.error("enrolment from %s failed: %s", peer, type(error).__name__)
        self._failures.add(peer)
        context.abort(grpc.StatusCode.PERMISSION_DENIED, REFUSED)
        raise AssertionError("abort always raises")


class FailureLimit:
    """Remembers who failed and when, so that nobody can try tokens at leisure."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._times: dict[str, deque[float]] = {}

    def too_many(self, peer: str) -> bool:
        """Whether `peer` failed as often as is allowed within the last minute."""
        with self._lock:
            return len(self._recent(peer)) >= FAILURES_ALLOWED

    def add(self, peer: str) -> None:
        """Count one failure; the longest known peer is forgotten where there are too many."""
        with self._lock:
            times = self._recent(peer)
            times.append(self._clock())
            self._times[peer] = times
            if len(self._times) > MAX_PEERS:
                del self._times[next(iter(self._times))]

    def _recent(self, peer: str) -> deque[float]:
        times = self._times.pop(peer, deque())
        while times and times[0] <= self._clock() - timeouts.JOINS_WINDOW_S:
            times.popleft()
        if times:
            self._times[peer] = times
        return times


def _host_of(peer: str) -> str:
    """gRPC's `ipv4:192.0.2.7:50123` without the port, which changes with each try."""
    return peer.rpartition(":")[0] or peer
