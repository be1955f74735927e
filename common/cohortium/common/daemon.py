"""What both daemons share: one instance per directory, a word on how it is, and a clean end."""

import fcntl
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cohortium.common.errors import CohortiumError

END_WITH_PARENT = "COHORTIUM_END_WITH_PARENT"  # holds the process id of who started us
PR_SET_PDEATHSIG = 1  # prctl(2)
LOCK_TRIES = 5
LOCK_PAUSE_S = 0.02


@contextmanager
def only_one(lock: Path, what: str) -> Iterator[None]:
    """Hold a directory's lock; the operating system lets go of it when the process dies.

    Raises:
        CohortiumError: another process holds it, or the directory is not writable.
    """
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise CohortiumError(
            f"{lock}: cannot be written ({error.strerror}); run as the directory's owner"
        ) from None
    try:
        if not _hold(descriptor):
            raise CohortiumError(
                f"{what} already runs in {lock.parent}; stop it before you start another"
            )
        yield
    finally:
        os.close(descriptor)


def _hold(descriptor: int) -> bool:
    """Take the lock; `is_running` asks by holding it for a moment, so one refusal is no answer."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_S)
        else:
            return True
    return False


def is_running(lock: Path) -> bool:
    """Whether a living process holds the lock: never true after it died."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def say(status: Path, **facts: Any) -> None:
    """Replace what the daemon says of itself."""
    draft = status.with_name(f".{status.name}.draft")
    draft.write_text(json.dumps(facts), encoding="utf-8")
    draft.replace(status)


def said(status: Path) -> dict[str, Any]:
    """What the daemon last said; nothing if it never spoke."""
    try:
        facts = json.loads(status.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def end_with_parent() -> None:
    """Where END_WITH_PARENT is set (the demo and tests do), stop when the starting process dies.

    Raises:
        CohortiumError: it is dead already.
    """
    parent = os.environ.get(END_WITH_PARENT)
    if not parent or not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if str(os.getppid()) != parent:  # it may have died before the line above
        raise CohortiumError("the process that started this one has ended")


class _LogFile(logging.FileHandler):
    """A disk that is full ends nothing: what the file cannot take goes to standard error."""

    def handleError(self, record: logging.LogRecord) -> None:
        with suppress(OSError, ValueError):
            print(self.format(record), file=sys.stderr, flush=True)


def log_to(path: Path) -> None:
    """Our own one-liners go to the role's log; third parties' warnings do not.

    Raises:
        CohortiumError: the file cannot be written.
    """
    try:
        handler = _LogFile(path, encoding="utf-8")
    except OSError as error:
        raise CohortiumError(
            f"{path}: cannot be written ({error.strerror}); give this user write access to it"
        ) from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("cohortium")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM, SIGINT and SIGHUP set; a second signal ends the process at once."""
    stop = threading.Event()

    def handle(number: int, _: Any) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, handle)
    return stop
