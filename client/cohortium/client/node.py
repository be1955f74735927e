"""This site's node: requests come from Flower's Fleet API, `answer` replies, bytes for bytes.

It speaks the Fleet gRPC protocol itself and never fetches a bundle: what runs is what the
hospital installed. Flower's own node would start a process for each message, end this one by
SIGINT when its key is refused, and retry a wrong CA for ever.
"""

import logging
import queue
import secrets
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flwr.app.error import Error
from flwr.common.constant import ErrorCode

from cohortium.client.fleet import (
    DroppedError,
    Fleet,
    StoppedError,
    SupersededError,
    UnknownError,
)
from cohortium.client.fleet_objects import Delivery
from cohortium.client.line import FleetConnection
from cohortium.common import timeouts
from cohortium.common.errors import CohortiumError, IdentityError
from cohortium.common.parcel import CHUNK_BYTES, Assembly

POLL_SHARE = 0.1  # waiting adds at most this share to the time since the last message
AT_ONCE = 2  # requests in work: a long training of one study does not hold up another's
WAITING = 64  # requests that wait for their turn; the coordinator keeps the others

log = logging.getLogger(__name__)


def serve(
    connection: FleetConnection,
    answer: Callable[[bytes], bytes],
    stop: threading.Event,
    on_state: Callable[[str], None],
    at_once: int = AT_ONCE,
) -> None:
    """Answer the coordinator's requests until `stop` is set, whatever the network does.

    Args:
        answer: turns a request into a reply, for several requests at once. Where it raises, the
            coordinator is told the class of the error and an id that the site's log has too, and
            nothing else.
        stop: once set, an idle node leaves within 2 s, telling the coordinator once.
        on_state: called with "online" or "offline" at each change.
        at_once: requests in work at the same time.

    Raises:
        IdentityError: the server is not the coordinator, or it refuses this site's key.
    """
    _quiet_flower()
    fleet = Fleet(connection, stop, on_state)
    jobs = _Jobs(fleet, answer, at_once)
    try:
        fleet.activate(timeouts.ACTIVATION_S)
        _take_requests(fleet, jobs, stop)
    except StoppedError:
        pass
    finally:
        jobs.end()
        fleet.leave()
    jobs.check()


def _take_requests(fleet: Fleet, jobs: "_Jobs", stop: threading.Event) -> None:
    while not stop.is_set():
        jobs.check()
        try:
            delivery = fleet.receive() if jobs.room() else None
            if delivery is None:
                quiet_s = time.monotonic() - jobs.quiet_since
                stop.wait(
                    min(max(quiet_s * POLL_SHARE, timeouts.NODE_POLL_S[0]), timeouts.NODE_POLL_S[1])
                )
            else:
                jobs.add(delivery)
        except (CohortiumError, StoppedError):
            raise
        except UnknownError:
            fleet.activate(timeouts.REACTIVATION_S)
        except Exception as error:  # the boundary: nothing that a peer sends may end the node
            log.warning("a message was dropped: %s", _place(error))
            stop.wait(timeouts.NODE_POLL_S[1])


@dataclass(eq=False)
class _Job:
    """A request in work.

    Attributes:
        asked: the newest message that asks for it: it gets the answer.
        request: what has arrived of the request.
    """

    asked: Delivery
    request: Assembly | None = None


class _Jobs:
    """Requests in work, each in one of a few threads, and those that wait for one.

    Attributes:
        quiet_since: when a request last came or was answered, in monotonic seconds.
    """

    def __init__(self, fleet: Fleet, answer: Callable[[bytes], bytes], at_once: int) -> None:
        self.quiet_since = time.monotonic()
        self._fleet = fleet
        self._answer = answer
        self._lock = threading.Lock()
        self._jobs: dict[str, _Job] = {}
        self._waiting: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._fatal: CohortiumError | None = None
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(at_once)]
        for thread in self._threads:
            thread.start()

    def add(self, delivery: Delivery) -> None:
        """Take a request, unless the same one is in work: then its answer goes to this one."""
        with self._lock:
            self.quiet_since = time.monotonic()
            job = self._jobs.get(delivery.record_id) if delivery.record_id else None
            if job is not None:
                job.asked = delivery
                return
            job = _Job(delivery)
            self._jobs[delivery.record_id] = job
        self._waiting.put(job)

    def room(self) -> bool:
        return len(self._jobs) < WAITING

    def check(self) -> None:
        """Raise what ends the node, where a thread has met it."""
        if self._fatal is not None:
            raise self._fatal

    def end(self) -> None:
        """Wait for the requests in work; those that wait are left to the coordinator."""
        with self._lock:
            self._jobs.clear()
        self._fleet.interrupt()
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._waiting.get()) is not None:
            if self._jobs.get(job.asked.record_id) is not job:
                continue  # left when the node was stopped
            try:
                self._do(job)
            except StoppedError:
                pass
            except CohortiumError as error:
                self._fatal = error
            except (DroppedError, UnknownError) as error:
                log.info("a request has lapsed: %s", _place(error))
            except Exception as error:  # the boundary: nothing that a peer sends may end the node
                log.warning("a message was dropped: %s", _place(error))
            finally:
                self._forget(job)

    def _do(self, job: _Job) -> None:
        """Fetch, answer, send; what is asked again meanwhile is answered to who asked last."""
        reply: bytes | Error | None = None
        while self._jobs.get(job.asked.record_id) is job:
            asked = job.asked
            try:
                if reply is None:
                    reply = self._reply(job, asked)
                self._fleet.send(asked, reply, lambda: job.asked is not asked)  # noqa: B023
            except SupersededError:
                pass
            except DroppedError:
                if not self._asked_again(job, asked, reply):
                    raise
            else:
                with self._lock:
                    if job.asked is asked:
                        self._jobs.pop(asked.record_id, None)

    def _asked_again(self, job: _Job, asked: Delivery, reply: bytes | Error | None) -> bool:
        """Whether the same is asked anew; after a cut that may take a moment, if it is worth it."""
        large = isinstance(reply, bytes) and len(reply) > CHUNK_BYTES
        patience = time.monotonic() + (timeouts.LINGER_S if large else 0.0)
        while job.asked is asked and time.monotonic() < patience:
            self._fleet.pause(timeouts.NODE_POLL_S[0])
        return job.asked is not asked

    def _reply(self, job: _Job, asked: Delivery) -> bytes | Error:
        try:
            payload = self._answer(self._request(job, asked))
            if not isinstance(payload, bytes):
                raise TypeError("the reply is not one block of bytes")
            return payload
        except (StoppedError, DroppedError, UnknownError, IdentityError):
            raise
        except Exception as error:  # the boundary: no error of ours may end the node
            return _sanitised(error)

    def _request(self, job: _Job, asked: Delivery) -> bytes:
        """The whole request; what had arrived for an earlier message is not fetched again."""
        job.request = job.request or self._fleet.open(asked)
        self._fleet.fill(asked, job.request)
        payload, job.request = job.request.payload(), None
        return payload

    def _forget(self, job: _Job) -> None:
        with self._lock:
            self.quiet_since = time.monotonic()
            if self._jobs.get(job.asked.record_id) is job:
                del self._jobs[job.asked.record_id]


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


def _quiet_flower() -> None:
    """Flower's logger writes to the terminal; its warnings may go where ours go."""
    logger = logging.getLogger("flwr")
    logger.handlers = [logging.NullHandler()]
    logger.setLevel(logging.WARNING)
