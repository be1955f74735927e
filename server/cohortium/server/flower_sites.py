"""Flower as one implementation of `Sites`: bytes to each site, bytes back as they arrive.

A run of the SuperLink is claimed by this process itself, as Flower's own executor would claim
it for a child process. No bundle is unpacked and nothing is started. A payload travels as one
`ConfigRecord` with one bytes value: one object, where an array would be one per 5 MB.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import httpx
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import SubStatus
from flwr.common.serde import run_from_proto
from flwr.proto.runtime_pb2 import (
    ClaimTaskRequest,
    PullPendingTasksRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.inflatable import inflatable_utils
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
HEARTBEAT_S = 10.0
CLAIM_TIMEOUT_S = 20.0
BLIP_S = 5.0  # a call that fails for longer is reported; `ask` goes on until its deadline
LATE_S = 10.0  # a reply is kept that much longer than asked for
POLL_S = (0.05, 0.5)  # at first and at most
POLL_SHARE = 0.05  # waiting adds at most this share to the time that the sites took
BATCH_BYTES = 1_000_000  # larger messages are moved one at a time, to save memory

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
        while pending:
            arrived = 0
            for batch in _batches(list(pending), size):
                for message in self._pull(batch, deadline):
                    arrived += 1
                    site = pending.pop(message.metadata.reply_to_message_id)
                    reply = self._open(site, message)
                    if reply is not None:
                        yield site, reply
            if time.monotonic() >= deadline:
                return
            if pending and not arrived:
                self._pause(time.monotonic() - started, deadline)

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

    def _pull(self, message_ids: list[str], deadline: float) -> Iterator[Message]:
        """Replies that are there; each is forgotten here before the next is asked for."""
        messages = self._until(deadline, lambda: list(self._grid.pull_messages(message_ids)))
        while messages:
            yield messages.pop()

    def _pause(self, waited_s: float, deadline: float) -> None:
        pause_s = min(max(waited_s * POLL_SHARE, POLL_S[0]), POLL_S[1])
        self._closed.wait(min(pause_s, max(deadline - time.monotonic(), 0.0)))

    def _until(self, deadline: float, call: Callable[[], T]) -> T:
        """Repeat a call while the SuperLink is away, until the deadline."""
        while True:
            if self._ended or self._closed.is_set():
                raise _ended()
            try:
                return _translate(call)
            except UnreachableError:
                if time.monotonic() >= deadline or self._ended:
                    raise
                self._closed.wait(POLL_S[1])

    def _open(self, site: str, message: Message) -> bytes | None:
        if message.has_error():
            self.failures[site] = _one_line(f"{message.error.code}: {message.error.reason}")
            return None
        try:
            reply = message.content[PAYLOAD][PAYLOAD]
        except KeyError:
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
            raise _ended() from None
        raise UnreachableError(
            f"the SuperLink answered {error.response.status_code}; see its log file"
        ) from None
    except httpx.HTTPError as error:
        raise UnreachableError(
            f"the SuperLink does not answer ({type(error).__name__}); "
            "the coordinator must start it again"
        ) from None


def _ended() -> UnreachableError:
    return UnreachableError("the run was stopped at the SuperLink; resume the study in a new run")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def _quiet_flower() -> None:
    """Keep Flower off the terminal, and let a receiver look for an object every 0.05 s at first.

    Flower sleeps 1 s, 2 s, 4 s when an object that was announced is not there yet, and has no
    option for it.
    """
    logger = logging.getLogger("flwr")
    logger.handlers = [logging.NullHandler()]
    logger.setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    defaults = inflatable_utils.pull_objects.__kwdefaults__ or {}
    defaults.update(initial_backoff=POLL_S[0], backoff_cap=2.0)
