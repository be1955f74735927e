"""Flower's Fleet API as a site uses it: what it is asked, chunk by chunk, and what it answers.

Each call is repeated until it works, is refused, or the site stops. What is large travels in
chunks (`common/parcel.py`), several at once, each on a connection of its own: after a broken
connection only what did not arrive is sent again.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import grpc
from flwr.app import ConfigRecord
from flwr.app.error import Error
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node

from cohortium.client.channel import explain
from cohortium.client.fleet_objects import Delivery, Reply, delivered
from cohortium.client.lanes import Lanes, Pace
from cohortium.client.line import ClosedError, FleetConnection, Line
from cohortium.common import timeouts
from cohortium.common.envelope import MAX_ENVELOPE_BYTES
from cohortium.common.errors import IdentityError, ProtocolError, UnreachableError
from cohortium.common.parcel import CHUNK_BYTES, Assembly

MAX_TRIES = 8  # where the coordinator answers, but with an error of its own
CHUNK_PATIENCE = 4.0  # times what chunks took lately
ANNOUNCEMENTS = 5


class StoppedError(Exception):
    """`stop` was set while a call was being repeated."""


class DroppedError(Exception):
    """The coordinator takes this call from nobody: the run is over, or it cannot serve it."""


class UnknownError(Exception):
    """The coordinator knows this key or node id no more: it was started again, or we are out."""


class SupersededError(Exception):
    """The same request was sent again: the reply belongs to the newer message."""


class Fleet:
    """This site at the Fleet API; from several threads at once."""

    def __init__(
        self, connection: FleetConnection, stop: threading.Event, on_state: Callable[[str], None]
    ) -> None:
        self._connection = connection
        self._stop = stop
        self._on_state = on_state
        self._state = ""
        self._stating = threading.Lock()
        self._node_id = 0  # until the coordinator has told us
        self._left = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, daemon=True)
        self._line = Line(connection)
        self._extra: WeakSet[Line] = WeakSet()  # what chunks travel on
        self._upload = Pace(connection.upload_mbit_s)
        self._download = Pace(connection.download_mbit_s)
        self._chunk_timeout_s = timeouts.CHUNK_S[1]

    def activate(self, patience_s: float) -> None:
        """Go online, or online again under another node id.

        For a while the coordinator may take a killed predecessor for us, or not know us yet.

        Raises:
            IdentityError: it refused this site's key for so long.
        """
        request = ActivateNodeRequest(
            public_key=self._line.public_key, heartbeat_interval=timeouts.HEARTBEAT_S
        )
        refused_since = None
        while True:
            try:
                reply = self._call(self._line, "ActivateNode", request)
            except (DroppedError, UnknownError):
                refused_since = refused_since or time.monotonic()
                if time.monotonic() - refused_since >= patience_s:
                    raise self._refused() from None
                self._report("offline")
                self.pause(1.0)
            else:
                break
        self._node_id = int(reply.node_id)
        if not self._heartbeat.is_alive():
            self._heartbeat.start()
        self._report("online")

    def leave(self) -> None:
        """Stop the heartbeat, say goodbye once if we ever were online, close the connection."""
        self._left.set()
        if self._node_id:
            self._heartbeat.join(timeouts.FLEET_CALL_S)
            try:
                self._line.call("DeactivateNode", DeactivateNodeRequest(node_id=self._node_id), 1.5)
            except (grpc.RpcError, ClosedError):
                pass  # nobody there to say goodbye to
        self._line.close()
        if self._state == "online":
            self._report("offline")

    def interrupt(self) -> None:
        """End the transfers that are under way, once `stop` is set."""
        for line in list(self._extra):
            line.close()

    def receive(self) -> Delivery | None:
        """The next request that was announced, or None where none waits."""
        request = PullMessagesRequest(node=self._node())
        return delivered(self._call(self._line, "PullMessages", request, timeouts.PULL_S))

    def open(self, delivery: Delivery) -> Assembly:
        """What a request's content is put together in.

        Raises:
            DroppedError: the coordinator has withdrawn it.
            ProtocolError: it is no payload.
        """
        if not delivery.record_id:
            raise ProtocolError("a request is not one block of bytes")
        record = ConfigRecord.inflate(self._pull(self._line, delivery, delivery.record_id))
        return Assembly(dict(record), delivery.chunks, MAX_ENVELOPE_BYTES)

    def fill(self, delivery: Delivery, whole: Assembly) -> None:
        """Fetch the chunks that have not arrived yet.

        Raises:
            DroppedError: the coordinator has withdrawn the request, or never uploaded all of it.
            ProtocolError: something else than a chunk came.
        """

        def move(line: Line, name: str) -> None:
            self.pause(self._download.wait_s(CHUNK_BYTES))
            whole.put(name, self._pull(line, delivery, name))

        self._lanes(move).carry(whole.missing())

    def send(
        self, delivery: Delivery, answer: bytes | Error, superseded: Callable[[], bool]
    ) -> None:
        """Announce the reply to a request, then upload what the coordinator does not have yet.

        Raises:
            DroppedError: the coordinator takes no reply to it.
            SupersededError: `superseded` became true before everything was uploaded.
        """
        reply = Reply(delivery.message, answer)
        request = PushMessagesRequest(
            node=self._node(), messages_list=[reply.proto], message_object_trees=[reply.tree]
        )
        for first in (True, *[False] * ANNOUNCEMENTS):
            announced = self._call(self._line, "PushMessages", request)
            upload = _Upload(self, reply, str(announced.session_id), superseded)
            wanted = set(announced.objects_to_push)
            if first and reply.id not in wanted:
                break  # the request has lapsed there, else it would want the reply to it
            for name in [name for name in reply.objects if name in wanted]:
                upload.move(self._line, name)
            chunks = [name for name in reply.chunks.names() if name in wanted]
            self._lanes(upload.move).carry(chunks)
            if not upload.refused:
                return
        raise DroppedError("the coordinator did not take the reply")

    def _lanes(self, move: Callable[[Line, str], None]) -> Lanes[Line, str]:
        return Lanes(self._another_line, move)

    def _another_line(self) -> Line:
        line = Line(self._connection)
        self._extra.add(line)
        return line

    def _pull(self, line: Line, delivery: Delivery, object_id: str) -> bytes:
        """Wait for an object and fetch it."""
        request = PullObjectRequest(
            node=self._node(), run_id=delivery.message.metadata.run_id, object_id=object_id
        )
        delay, deadline = timeouts.ANNOUNCED_AGAIN_S[0], time.monotonic() + timeouts.ANNOUNCED_S
        while True:
            reply = self._call_for_chunk(line, "PullObject", request)
            if reply.object_available:
                return bytes(reply.object_content)
            if not reply.object_found or time.monotonic() > deadline:
                raise DroppedError("the coordinator has withdrawn its request")
            self.pause(delay)
            delay = min(2 * delay, timeouts.ANNOUNCED_AGAIN_S[1])

    def push(self, line: Line, run_id: int, object_id: str, content: bytes, session: str) -> bool:
        """False where the coordinator has it already, or the announcement is forgotten."""
        if len(content) > CHUNK_BYTES:
            self.pause(self._upload.wait_s(len(content)))
        request = PushObjectRequest(
            node=self._node(),
            run_id=run_id,
            object_id=object_id,
            object_content=content,
            session_id=session,
        )
        return bool(self._call_for_chunk(line, "PushObject", request).stored)

    def _node(self) -> Node:
        return Node(node_id=self._node_id)

    def _call_for_chunk(self, line: Line, method: str, request: Any) -> Any:
        """A chunk over a narrow link takes its time; one over a dead connection for ever."""
        while True:
            timeout_s, started = self._chunk_timeout_s, time.monotonic()
            try:
                reply = self._call(line, method, request, timeout_s, repeat_late=False)
            except _LateError:
                self._chunk_timeout_s = min(2 * timeout_s, timeouts.CHUNK_S[2])
                self.pause(0.0)
            else:
                took_s = time.monotonic() - started
                least_s = max(timeouts.CHUNK_S[0], CHUNK_PATIENCE * took_s)
                self._chunk_timeout_s = max(least_s, 0.9 * self._chunk_timeout_s)
                return reply

    def _call(
        self,
        line: Line,
        method: str,
        request: Any,
        timeout_s: float = timeouts.FLEET_CALL_S,
        repeat_late: bool = True,
    ) -> Any:
        """Call until it works.

        Raises:
            IdentityError: a wrong CA or clock: trying again would not help.
            UnknownError: the coordinator does not know this node.
            DroppedError: the coordinator answers, but not this call.
        """
        delay, answered = timeouts.RECONNECT_S[0], 0
        while True:
            try:
                reply = line.call(method, request, timeout_s)
            except ClosedError:
                raise StoppedError from None
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED and not repeat_late:
                    raise _LateError from None
                answered += self._was_answered(error)
                if answered >= MAX_TRIES:
                    raise DroppedError(error.code().name) from None
                self.pause(delay)
                delay = min(2 * delay, timeouts.RECONNECT_S[1])
            else:
                if self._node_id:
                    self._report("online")
                return reply

    def _was_answered(self, error: grpc.RpcError) -> bool:
        """Whether the coordinator is there; raises where trying again would not help."""
        code = error.code()
        if code == grpc.StatusCode.UNAUTHENTICATED:
            if "timestamp" in (error.details() or ""):
                raise self._wrong_clock() from None
            raise UnknownError from None
        if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.FAILED_PRECONDITION):
            raise DroppedError(code.name) from None
        if code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return True
        explained = explain(error, self._connection.address)
        if not isinstance(explained, UnreachableError):
            raise explained from None
        self._report("offline")
        return False

    def _wrong_clock(self) -> IdentityError:
        return IdentityError(
            f"{self._connection.address}: the coordinator refuses this site's messages: the two "
            "clocks differ by more than 5 s; set this machine's clock (NTP)"
        )

    def _refused(self) -> IdentityError:
        return IdentityError(
            f"{self._connection.address}: the coordinator refuses the key of "
            f"{self._connection.name} ({self._connection.node_key}); "
            "ask the coordinator whether the site was revoked, and for a new invitation"
        )

    def _beat(self) -> None:
        while not self._left.wait(timeouts.HEARTBEAT_S / 2):
            request = SendNodeHeartbeatRequest(
                node=self._node(), heartbeat_interval=timeouts.HEARTBEAT_S
            )
            try:
                self._line.call("SendNodeHeartbeat", request, timeouts.FLEET_CALL_S)
            except (grpc.RpcError, ClosedError):
                pass  # the main loop sees the same, and it can act

    def pause(self, seconds: float) -> None:
        """Sleep; StoppedError once `stop` is set."""
        if self._stop.wait(seconds):
            raise StoppedError

    def _report(self, state: str) -> None:
        with self._stating:
            if state != self._state:
                self._state = state
                self._on_state(state)


class _LateError(Exception):
    """No answer in time."""


@dataclass(eq=False)
class _Upload:
    """One announcement's objects on their way.

    Attributes:
        refused: what was not stored; another announcement says what is still wanted.
    """

    fleet: Fleet
    reply: Reply
    session: str
    superseded: Callable[[], bool]
    refused: list[str] = field(default_factory=list)

    def move(self, line: Line, name: str) -> None:
        if self.superseded():
            raise SupersededError
        content = self.reply.objects.get(name) or self.reply.chunks.content(name)
        if not self.fleet.push(line, self.reply.run_id, name, content, self.session):
            self.refused.append(name)
