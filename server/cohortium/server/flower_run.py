"""One run of the SuperLink, the bracket around a study's messages, spoken for by this process.

The run is claimed as Flower's own executor would claim it for a child process. No bundle is
unpacked and nothing is started.
"""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import httpx
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import (
    ClaimTaskRequest,
    PullPendingTasksRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.interceptors.superexec_auth_interceptor import RUNTIME_SUPEREXEC_METHODS
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient

from cohortium.common import timeouts
from cohortium.common.errors import UnreachableError
from cohortium.server.superlink import SuperLink

T = TypeVar("T")


class RunEndedError(UnreachableError):
    """Asking again would not help."""

    def __init__(self) -> None:
        super().__init__("the run was stopped at the SuperLink; resume the study in a new run")


class Run:
    """A run that was started and claimed; usable from several threads at once.

    Raises:
        UnreachableError: it could not be started.
    """

    def __init__(self, superlink: SuperLink) -> None:
        self._closed = threading.Event()
        self._ended = False
        self.id = superlink.start_run()
        token = _claim(superlink, self.id)
        self._client = _client(
            superlink.runtime_address,
            RuntimeVersionHttpInterceptor(component_name="flwr-serverapp"),
            RuntimeTokenHttpInterceptor(token=token),
        )
        _translate(lambda: self._client.PullTaskInput(PullTaskInputRequest()))
        self._heartbeat = threading.Thread(target=self._beat, daemon=True)
        self._heartbeat.start()

    def call(self, method: str, request: Any, deadline: float) -> Any:
        """One call of the Runtime API, repeated while the SuperLink is away.

        Args:
            deadline: monotonic seconds.

        Raises:
            UnreachableError: the run has ended, or the SuperLink was away until the deadline.
        """
        while True:
            if self._ended or self._closed.is_set():
                raise RunEndedError
            try:
                return _translate(lambda: getattr(self._client, method)(request))
            except RunEndedError:
                raise
            except UnreachableError:
                if time.monotonic() >= deadline or self._ended:
                    raise
                self.wait(timeouts.AWAY_S)

    def wait(self, seconds: float) -> None:
        """Sleep, but not beyond `close`."""
        self._closed.wait(seconds)

    def close(self, completed: bool) -> None:
        """End the run, as completed or as failed; idempotent."""
        if self._closed.is_set():
            return
        self._closed.set()
        outcome = SubStatus.COMPLETED if completed else SubStatus.FAILED
        try:
            self._client.PushTaskOutput(
                PushTaskOutputRequest(context=None, sub_status=outcome, details="")
            )
        except httpx.HTTPError:
            pass  # the run ended before we did, or the SuperLink is away
        self._heartbeat.join(timeouts.BLIP_S)
        self._client.close()

    def _beat(self) -> None:
        """Without a sign of life Flower fails a run after about a minute."""
        while not self._closed.wait(timeouts.RUN_HEARTBEAT_S):
            try:
                alive = self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success
            except httpx.TransportError:
                continue  # the SuperLink may come back in time
            except httpx.HTTPError:
                alive = False
            if not alive:
                self._ended = True
                return


def _claim(superlink: SuperLink, run_id: int) -> str:
    """Take the run's pending task; returns the token that speaks for it."""
    client = _client(
        superlink.runtime_address,
        RuntimeVersionHttpInterceptor(component_name="SuperExec"),
        SuperExecAuthHttpInterceptor(
            master_secret=superlink.runtime_secret, protected_methods=RUNTIME_SUPEREXEC_METHODS
        ),
    )
    deadline = time.monotonic() + timeouts.CLAIM_S
    with client:
        while time.monotonic() < deadline:
            tasks = _translate(lambda: client.PullPendingTasks(PullPendingTasksRequest()))
            for task in tasks.tasks:
                if task.run_id == run_id:
                    claim = partial(client.ClaimTask, ClaimTaskRequest(task_id=task.task_id))
                    return str(_translate(claim).token)
            time.sleep(timeouts.CLAIM_POLL_S)
    raise UnreachableError("the SuperLink offers no task for the run that it just started")


def _client(address: str, *interceptors: ProtobufClientInterceptor) -> RuntimeHttpClient:
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=list(interceptors),
        retry_invoker=RetryInvoker(
            wait_gen_factory=lambda: exponential(base_delay=0.1, max_delay=1),
            recoverable_exceptions=httpx.TransportError,
            max_tries=None,
            max_time=timeouts.BLIP_S,
        ),
    )


def _translate(call: Callable[[], T]) -> T:
    """Run a call of Flower's; only our own errors come out."""
    try:
        return call()
    except httpx.HTTPStatusError as error:
        if error.response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise RunEndedError from None
        raise UnreachableError(
            f"the SuperLink answered {error.response.status_code}; see its log file"
        ) from None
    except httpx.HTTPError as error:
        raise UnreachableError(
            f"the SuperLink does not answer ({type(error).__name__}); "
            "the coordinator must start it again"
        ) from None
