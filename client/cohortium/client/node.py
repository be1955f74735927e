"""This site's node: requests come from Flower's Fleet API, `answer` replies, bytes for bytes.

It speaks the Fleet gRPC protocol itself and never fetches a bundle: what runs is what the
hospital installed. Flower's own node would start a process for each message, end this one by
SIGINT when its key is refused, and retry a wrong CA for ever.
"""

import logging
import secrets
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.error import Error
from flwr.app.message import remove_content_from_message
from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
)
from flwr.proto.fleet_pb2_grpc import FleetStub
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    pull_and_inflate_object_from_tree,
    push_objects,
)
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata

from cohortium.client.channel import explain, open_channel
from cohortium.common.errors import CohortiumError, IdentityError, UnreachableError
from cohortium.common.identity import load_node_key, node_public_pem

PAYLOAD = "payload"  # the record's name and its only key, at both ends
HEARTBEAT_S = 10.0  # the least that Flower allows; a silent node is dead after twice that
ACTIVATION_PATIENCE_S = 2 * HEARTBEAT_S + 5.0
REACTIVATION_PATIENCE_S = 10.0  # a coordinator that was started again lets its sites in anew
POLL_S = (0.1, 1.0)  # right after a message, and when long idle
POLL_SHARE = 0.1  # waiting adds at most this share to the time since the last message
RECONNECT_S = (0.2, 5.0)
MAX_TRIES = 5  # where the coordinator answers, but with an error of its own
CALL_TIMEOUT_S = 5.0
OBJECT_TIMEOUT_S = 600.0
PULL_PATIENCE_S = 60.0  # for what was announced; a coordinator that died never uploads it
PULL_BACKOFF_S = (0.05, 2.0)  # Flower's own starts at 1 s

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FleetConnection:
    """Where the coordinator's Fleet API is, whom to trust there, and who we are.

    Attributes:
        address: `host:port`.
        ca_certificate: PEM of the only CA that the server's certificate may come from.
        node_key: file of the EC P-384 key that was registered at enrolment.
        name: the site's own name, for log lines.
    """

    address: str
    ca_certificate: bytes
    node_key: Path
    name: str


def serve(
    connection: FleetConnection,
    answer: Callable[[bytes], bytes],
    stop: threading.Event,
    on_state: Callable[[str], None],
) -> None:
    """Answer the coordinator's requests until `stop` is set, whatever the network does.

    Args:
        answer: turns a request into a reply. Where it raises, the coordinator is told the class
            of the error and an id that the site's log has too, and nothing else.
        stop: once set, an idle node leaves within 2 s, telling the coordinator once.
        on_state: called with "online" or "offline" at each change.

    Raises:
        IdentityError: the server is not the coordinator, or it refuses this site's key.
    """
    _quiet_flower()
    fleet = _Fleet(connection, stop, on_state)
    try:
        fleet.activate(ACTIVATION_PATIENCE_S)
        _answer_requests(fleet, answer, stop)
    except _StoppedError:
        pass
    finally:
        fleet.leave()


def _answer_requests(
    fleet: "_Fleet", answer: Callable[[bytes], bytes], stop: threading.Event
) -> None:
    last_message = time.monotonic()
    while not stop.is_set():
        try:
            message = fleet.receive()
            if message is None:
                idle = time.monotonic() - last_message
                stop.wait(min(max(idle * POLL_SHARE, POLL_S[0]), POLL_S[1]))
                continue
            fleet.send(_reply(message, answer))
        except (CohortiumError, _StoppedError):
            raise
        except _UnknownError:
            fleet.activate(REACTIVATION_PATIENCE_S)
        except Exception as error:  # the boundary: nothing that a peer sends may end the node
            log.warning("a message was dropped: %s", _place(error))
            stop.wait(POLL_S[1])
        last_message = time.monotonic()


def _reply(message: Message, answer: Callable[[bytes], bytes]) -> Message:
    try:
        request = message.content[PAYLOAD][PAYLOAD]
        if not isinstance(request, bytes):
            raise TypeError("the request is not one block of bytes")
        payload = answer(request)
    except Exception as error:  # the boundary: no error of ours may end the node
        return Message(_sanitised(error), reply_to=message)
    return Message(RecordDict({PAYLOAD: ConfigRecord({PAYLOAD: payload})}), reply_to=message)


def _sanitised(error: Exception) -> Error:
    """An error's text may hold a patient's value: neither the log nor the peer gets it."""
    correlation = secrets.token_hex(4)
    log.error("answering failed: %s [%s]", _place(error), correlation)
    reason = f"{type(error).__name__} [{correlation}]"
    return Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason)


def _place(error: Exception) -> str:
    """An error's class and where it was raised; never its text."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}"


class _StoppedError(Exception):
    """`stop` was set while a call was being repeated."""


class _DroppedError(Exception):
    """The coordinator takes this call from nobody: the run is over, or it cannot serve it."""


class _UnknownError(Exception):
    """The coordinator knows this key or node id no more: it was started again, or we are out."""


class _Fleet:
    """The Fleet API; each call is repeated until it works, is refused, or `stop` is set."""

    def __init__(
        self, connection: FleetConnection, stop: threading.Event, on_state: Callable[[str], None]
    ) -> None:
        key = load_node_key(connection.node_key)
        self._connection = connection
        self._public_key = node_public_pem(key)
        self._stop = stop
        self._on_state = on_state
        self._state = ""
        self._node_id = 0  # until the coordinator has told us
        self._left = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, daemon=True)
        self._version = RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata()
        self._channel = open_channel(connection.address, connection.ca_certificate)
        self._stub = FleetStub(
            grpc.intercept_channel(self._channel, NodeAuthClientInterceptor(key, key.public_key()))
        )

    def activate(self, patience_s: float) -> None:
        """Go online, or online again under another node id.

        For a while the coordinator may take a killed predecessor for us, or not know us yet.

        Raises:
            IdentityError: it refused this site's key for so long.
        """
        request = ActivateNodeRequest(public_key=self._public_key, heartbeat_interval=HEARTBEAT_S)
        refused_since = None
        while True:
            try:
                reply = self._call(self._stub.ActivateNode, request)
            except (_DroppedError, _UnknownError):
                refused_since = refused_since or time.monotonic()
                if time.monotonic() - refused_since >= patience_s:
                    raise self._refused() from None
                self._report("offline")
                self._pause(1.0)
            else:
                break
        self._node_id = int(reply.node_id)
        if not self._heartbeat.is_alive():
            self._heartbeat.start()
        self._report("online")

    def leave(self) -> None:
        """Stop the heartbeat, say goodbye once if we ever were online, close the channel."""
        self._left.set()
        if self._node_id:
            self._heartbeat.join(CALL_TIMEOUT_S)
            try:
                request = DeactivateNodeRequest(node_id=self._node_id)
                self._stub.DeactivateNode(request, timeout=1.5, metadata=self._version)
            except grpc.RpcError:
                pass  # nobody there to say goodbye to
        self._channel.close()
        if self._state == "online":
            self._report("offline")

    def receive(self) -> Message | None:
        """The next message with its content, or None where none waits."""
        reply: PullMessagesResponse = self._call(
            self._stub.PullMessages, PullMessagesRequest(node=self._node())
        )
        if not reply.messages_list:
            return None
        run_id = reply.messages_list[0].metadata.run_id
        tree = reply.message_object_trees[0]
        pull = make_pull_object_fn_protobuf(
            self._objects(self._stub.PullObject), self._node(), run_id
        )

        def pull_unless_stopped(object_id: str) -> bytes:
            self._pause(0.0)
            return pull(object_id)

        message = pull_and_inflate_object_from_tree(
            tree,
            pull_unless_stopped,
            make_confirm_message_received_fn_protobuf(
                self._objects(self._stub.ConfirmMessageReceived), self._node(), run_id
            ),
            return_type=Message,
            max_time=PULL_PATIENCE_S,
            initial_backoff=PULL_BACKOFF_S[0],
            backoff_cap=PULL_BACKOFF_S[1],
        )
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message

    def send(self, reply: Message) -> None:
        """Announce the reply, then upload what the coordinator does not have yet."""
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            request = PushMessagesRequest(
                node=self._node(),
                messages_list=[message_to_proto(_without_content(reply))],
                message_object_trees=[get_object_tree(reply)],
            )
            wanted = self._call(self._stub.PushMessages, request)
            push = make_push_object_fn_protobuf(
                self._objects(self._stub.PushObject),
                self._node(),
                reply.metadata.run_id,
                wanted.session_id,
            )
            push_objects(
                get_all_nested_objects(reply), push, object_ids_to_push=set(wanted.objects_to_push)
            )

    def _node(self) -> Node:
        return Node(node_id=self._node_id)

    def _objects(self, method: Callable[..., Any]) -> Callable[[Any], Any]:
        return lambda request: self._call(method, request, OBJECT_TIMEOUT_S)

    def _call(
        self, method: Callable[..., Any], request: Any, timeout_s: float = CALL_TIMEOUT_S
    ) -> Any:
        """Call until it works.

        Raises:
            IdentityError: a wrong CA or clock: trying again would not help.
            _UnknownError: the coordinator does not know this node.
            _DroppedError: the coordinator answers, but not this call.
        """
        delay, answered = RECONNECT_S[0], 0
        while True:
            try:
                reply = method(request, timeout=timeout_s, metadata=self._version)
            except grpc.RpcError as error:
                answered += self._was_answered(error)
                if answered >= MAX_TRIES:
                    raise _DroppedError(error.code().name) from None
                self._pause(delay)
                delay = min(2 * delay, RECONNECT_S[1])
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
            raise _UnknownError from None
        if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.FAILED_PRECONDITION):
            raise _DroppedError(code.name) from None
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
        while not self._left.wait(HEARTBEAT_S / 2):
            request = SendNodeHeartbeatRequest(node=self._node(), heartbeat_interval=HEARTBEAT_S)
            try:
                self._stub.SendNodeHeartbeat(
                    request, timeout=CALL_TIMEOUT_S, metadata=self._version
                )
            except grpc.RpcError:
                pass  # the main loop sees the same, and it can act

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise _StoppedError

    def _report(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._on_state(state)


def _without_content(message: Message) -> Message:
    return remove_content_from_message(message) if message.has_content() else message


def _quiet_flower() -> None:
    """Flower's logger writes to the terminal; its warnings may go where ours go."""
    logger = logging.getLogger("flwr")
    logger.handlers = [logging.NullHandler()]
    logger.setLevel(logging.WARNING)
