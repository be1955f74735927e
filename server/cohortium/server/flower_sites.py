"""Flower as one implementation of `Sites`: bytes to each site, bytes back as they arrive.

A run of the SuperLink is claimed by this process itself, as Flower's own executor would claim
it for a child process. No bundle is unpacked and nothing is started. A payload travels as one
`ConfigRecord` with one bytes value: one object, where an array would be one per 5 MB.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import TypeVar

import httpx
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import SubStatus
from flwr.common.serde import run_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.runtime_pb2 import (
    ClaimTaskRequest,
    PullAppMessagesRequest,
    PullPendingTasksRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectUnavailableError,
    inflate_object_from_contents,
)
from flwr.supercore.interceptors import (
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.interceptors.superexec_auth_interceptor import RUNTIME_SUPEREXEC_METHODS
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid import HttpGrid

from cohortium.common.errors import UnreachableError
from cohortium.server.superlink import SuperLink

PAYLOAD = "payload"  # the record's name and its only key, at both ends
MESSAGE_TYPE = "query.cohortium"
MAX_OBJECTS = 3  # Flower's message, its record dictionary, and the record
HEARTBEAT_S = 10.0
CLAIM_TIMEOUT_S = 20.0
BLIP_S = 2.0  # a call that fails for longer is reported; `ask` goes on until its deadline
LATE_S = 10.0  # a reply is kept that much longer than asked for
POLL_S = (0.05, 0.5)  # at first and at most
POLL_SHARE = 0.05  # waiting adds at most this share to the time that the sites took
BATCH_BYTES = 1_000_000  # larger requests are pushed one at a time, to save memory

T = TypeVar("T")


class FlowerSites:
    """The sites of one study, reached through one run of the SuperLink.

    Use it from one thread; several at once, each in its own thread, do not disturb each other.

    Args:
        superlink: started and healthy.
        node_ids: Flower's node id of each site's name.

    Attributes:
        failures: why a site's last request ended without a reply: Flower's words, at most 200
            characters of them.

    Raises:
        UnreachableError: the run could not be started.
    """

    def __init__(self, superlink: SuperLink, node_ids: Mapping[str, int]) -> None:
        _quiet_flower()
        self.failures: dict[str, str] = {}
        self._superlink = superlink
        self._node_ids = dict(node_ids)
        self._closed = threading.Event()
        self._hurried = threading.Event()
        self._ended = False
        self.run_id = superlink.start_run()
        self._grid = _grid(superlink.runtime_address, self._claim())
        self._heartbeat = threading.Thread(target=self._beat, daemon=True)
        self._begin()

    def ask(self, requests: Mapping[str, bytes], deadline_s: float) -> Iterator[tuple[str, bytes]]:
        """Send each site its request; yield (site, reply) in the order of arrival.

        Ends when every site has replied or failed, and silently at the deadline. A site that
        failed is skipped and its reason put into `failures`. An identical request that is
        sent again is delivered again.

        Args:
            requests: by site name; every name is one of `node_ids`.
            deadline_s: seconds from now.

        Raises:
            UnreachableError: the run was stopped, or the SuperLink was away until the deadline.
        """
        started = time.monotonic()
        deadline = started + deadline_s
        for site in requests:
            self.failures.pop(site, None)
        size = max(map(len, requests.values()), default=0)
        pending: dict[str, str] = {}
        for batch in _batches(list(requests), size):
            part = {site: requests[site] for site in batch}
            pending |= self._push(part, deadline_s + LATE_S, deadline)
        announced: dict[str, ObjectTree] = {}
        while pending:
            announced |= self._announced(list(pending.keys() - announced.keys()), deadline)
            arrived = 0
            for message_id, tree in list(announced.items()):
                try:
                    reply = self._fetch(pending[message_id], tree, deadline)
                except ObjectUnavailableError:
                    continue  # announced, and still being uploaded: others come first
                del announced[message_id]
                arrived += 1
                site = pending.pop(message_id)
                if reply is not None:
                    yield site, reply
            if time.monotonic() >= deadline or self._hurried.is_set():
                self._hurried.clear()
                return
            if pending and not arrived:
                self._pause(time.monotonic() - started, deadline)

    def hurry(self) -> None:
        """Make a running `ask`, or the next one, end early, as at its deadline; from any thread."""
        self._hurried.set()

    def close(self, completed: bool) -> None:
        """End the run, as completed or as failed; idempotent."""
        if self._closed.is_set():
            return
        self._closed.set()
        outcome = SubStatus.COMPLETED if completed else SubStatus.FAILED
        try:
            self._grid._runtime_client.PushTaskOutput(
                PushTaskOutputRequest(context=None, sub_status=outcome, details="")
            )
        except httpx.HTTPError:
            pass  # the run ended before we did, or the SuperLink is away
        self._heartbeat.join(BLIP_S)
        self._grid.close()

    def _claim(self) -> str:
        """Take our run's pending task; returns the token that speaks for it."""
        client = RuntimeHttpClient.from_server_address(
            server_address=self._superlink.runtime_address,
            insecure=True,
            root_certificates=None,
            retry_invoker=_retry(),
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperExec"),
                SuperExecAuthHttpInterceptor(
                    master_secret=self._superlink.runtime_secret,
                    protected_methods=RUNTIME_SUPEREXEC_METHODS,
                ),
            ],
        )
        deadline = time.monotonic() + CLAIM_TIMEOUT_S
        with client:
            while time.monotonic() < deadline:
                tasks = _translate(lambda: client.PullPendingTasks(PullPendingTasksRequest()))
                for task in tasks.tasks:
                    if task.run_id == self.run_id:
                        return self._claim_task(client, task.task_id)
                time.sleep(POLL_S[0])
        raise UnreachableError("the SuperLink offers no task for the run that it just started")

    def _claim_task(self, client: RuntimeHttpClient, task_id: int) -> str:
        reply = _translate(lambda: client.ClaimTask(ClaimTaskRequest(task_id=task_id)))
        return str(reply.token)

    def _begin(self) -> None:
        client = self._grid._runtime_client
        task = _translate(lambda: client.PullTaskInput(PullTaskInputRequest()))
        self._grid.set_run(run_from_proto(task.run))
        self._heartbeat.start()

    def _beat(self) -> None:
        """Without a sign of life Flower fails a run after about a minute."""
        while not self._closed.wait(HEARTBEAT_S):
            try:
                client = self._grid._runtime_client
                alive = client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success
            except httpx.TransportError:
                continue  # the SuperLink may come back in time
            except httpx.HTTPError:
                alive = False
            if not alive:
                self._ended = True
                return

    def _push(self, requests: Mapping[str, bytes], ttl_s: float, deadline: float) -> dict[str, str]:
        """Returns the site of each message id; a request that Flower refuses is a failure."""

        def push() -> list[str]:
            # Made anew at each try, as Flower takes no message twice.
            made = [_message(self._node_ids[s], body, ttl_s) for s, body in requests.items()]
            return list(self._grid.push_messages(made))

        ids = self._until(deadline, push) or [""] * len(requests)
        sent = dict(zip(ids, requests, strict=True))
        for message_id, site in zip(ids, requests, strict=True):
            if not message_id:
                self.failures[site] = "the SuperLink did not take the request"
        sent.pop("", None)
        return sent

    def _announced(self, message_ids: list[str], deadline: float) -> dict[str, ObjectTree]:
        """The objects of each reply that has arrived, by the id of the request it answers.

        The SuperLink's own record says which request that is, not the reply, which a hostile
        site may have written as it likes.
        """
        if not message_ids:
            return {}
        request = PullAppMessagesRequest(message_ids=message_ids)
        client = self._grid._runtime_client
        reply = self._until(deadline, lambda: client.PullMessages(request))
        trees = zip(reply.messages_list, reply.message_object_trees, strict=True)
        return {str(proto.metadata.reply_to_message_id): tree for proto, tree in trees}

    def _fetch(self, site: str, tree: ObjectTree, deadline: float) -> bytes | None:
        """Fetch one reply, or note in `failures` why there is none.

        Raises:
            ObjectUnavailableError: the site has not uploaded all of it yet.
        """
        ids = [one.object_id for one in islice(iterate_object_tree(tree), MAX_OBJECTS + 1)]
        if len(ids) > MAX_OBJECTS:
            self.failures[site] = "the reply is not one block of bytes"
            return None
        client, run_id = self._grid._runtime_client, self.run_id
        pull = make_pull_object_fn_protobuf(client.PullObject, self._grid.node, run_id)
        try:
            contents = {one: self._until(deadline, partial(pull, one)) for one in ids}
            received = ConfirmMessageReceivedRequest(
                node=self._grid.node, run_id=run_id, message_object_id=tree.object_id
            )
            self._until(deadline, lambda: client.ConfirmMessageReceived(received))
            message = inflate_object_from_contents(tree.object_id, contents)
        except (UnreachableError, ObjectUnavailableError):
            raise
        except Exception as error:  # the boundary: a hostile site may upload anything
            self.failures[site] = f"the reply cannot be read ({type(error).__name__})"
            return None
        return self._open(site, message)

    def _pause(self, waited_s: float, deadline: float) -> None:
        pause_s = min(max(waited_s * POLL_SHARE, POLL_S[0]), POLL_S[1])
        self._closed.wait(min(pause_s, max(deadline - time.monotonic(), 0.0)))

    def _until(self, deadline: float, call: Callable[[], T]) -> T:
        """Repeat a call while the SuperLink is away, until the deadline."""
        while True:
            if self._ended or self._closed.is_set():
                raise _RunEndedError
            try:
                return _translate(call)
            except _RunEndedError:
                raise
            except UnreachableError:
                if time.monotonic() >= deadline or self._ended:
                    raise
                self._closed.wait(POLL_S[1])

    def _open(self, site: str, message: object) -> bytes | None:
        if isinstance(message, Message) and message.has_error():
            self.failures[site] = _one_line(f"{message.error.code}: {message.error.reason}")
            return None
        try:
            reply = message.content[PAYLOAD][PAYLOAD] if isinstance(message, Message) else None
        except (KeyError, TypeError, ValueError):
            reply = None
        if isinstance(reply, bytes):
            return reply
        self.failures[site] = "the reply is not one block of bytes"
        return None


def _batches(items: list[str], largest_bytes: int) -> list[list[str]]:
    """All at once while they are small, one at a time where memory would count."""
    if largest_bytes <= BATCH_BYTES:
        return [items] if items else []
    return [[item] for item in items]


def _message(node_id: int, payload: bytes, ttl_s: float) -> Message:
    content = RecordDict({PAYLOAD: ConfigRecord({PAYLOAD: payload})})
    return Message(content, dst_node_id=node_id, message_type=MESSAGE_TYPE, ttl=ttl_s)


def _grid(address: str, token: str) -> HttpGrid:
    grid = HttpGrid(runtime_api_address=address, insecure=True, token=token)
    grid._retry_invoker = _retry()
    return grid


def _retry() -> RetryInvoker:
    """Bridge a short absence. Flower's own never ends and raises SIGINT in our process."""
    return RetryInvoker(
        wait_gen_factory=lambda: exponential(base_delay=0.1, max_delay=1),
        recoverable_exceptions=httpx.TransportError,
        max_tries=None,
        max_time=BLIP_S,
    )


def _translate(call: Callable[[], T]) -> T:
    """Run a call of Flower's; only our own errors come out."""
    try:
        return call()
    except httpx.HTTPStatusError as error:
        if error.response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise _RunEndedError from None
        raise UnreachableError(
            f"the SuperLink answered {error.response.status_code}; see its log file"
        ) from None
    except httpx.HTTPError as error:
        raise UnreachableError(
            f"the SuperLink does not answer ({type(error).__name__}); "
            "the coordinator must start it again"
        ) from None


class _RunEndedError(UnreachableError):
    """Asking again would not help."""

    def __init__(self) -> None:
        super().__init__("the run was stopped at the SuperLink; resume the study in a new run")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def _quiet_flower() -> None:
    """Keep Flower off the terminal; its warnings may go where ours go."""
    logger = logging.getLogger("flwr")
    logger.handlers = [logging.NullHandler()]
    logger.setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
