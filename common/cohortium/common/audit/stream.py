"""The stream of a party's events to its SIEM: each at least once, in order, never in the way.

The log itself is the spool. Syslog over TLS knows no acknowledgement, but a receiver answers the
end of a connection once it has read all that came before it (RFC 5425, section 4.4). So a
connection is ended after so many lines or seconds, and only its answered end moves the cursor:
what a connection that broke carried is sent again, and the receiver drops what it has by its id.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Protocol

from cohortium.common import timeouts
from cohortium.common.audit import siem
from cohortium.common.audit.log import EventLog
from cohortium.common.audit.siem import Cursor, SiemConfig
from cohortium.common.audit.syslog import frame
from cohortium.common.database import Database
from cohortium.common.errors import CohortiumError

WINDOW = 1000  # lines that may be on the way unconfirmed
BATCH = 100

logger = logging.getLogger("cohortium.siem")


class Line(Protocol):
    """One connection to a receiver. Every method raises CohortiumError where it is broken."""

    def send(self, data: bytes) -> None:
        """Hand bytes over, unless the receiver is gone."""

    def finish(self) -> None:
        """End it in order; returns only if the receiver answered: it has read everything."""

    def abort(self) -> None:
        """Drop it at once, from any thread: whoever is in `send` or `finish` is set free."""

    def close(self) -> None:
        """Let go of it, however it ended."""


class Stream:
    """A thread that sends a log's events as they come.

    Args:
        log: the events; those whose text was erased are passed over.
        dial: makes a connection to the receiver.
        on_state: told what keeps the stream from going on when that changes, "" for nothing.
    """

    def __init__(
        self,
        config: SiemConfig,
        log: EventLog,
        database: Database,
        dial: Callable[[], Line],
        on_state: Callable[[str], None],
    ) -> None:
        self._config = config
        self._log = log
        self._cursor = Cursor(database, config.target)
        self._dial = dial
        self._on_state = on_state
        self._trouble: str | None = None
        self._stop = threading.Event()
        self._left = threading.Event()  # nobody waits any more: the database may be closed
        self._line: Line | None = None
        self._thread = threading.Thread(target=self._run, name="siem", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the connection in order if the receiver answers at once; never takes long."""
        self._stop.set()
        self._thread.join(timeouts.SIEM_STOP_S)
        self._left.set()
        line = self._line
        if self._thread.is_alive() and line is not None:
            line.abort()
            self._thread.join(timeouts.SIEM_ABORT_S)

    def _run(self) -> None:
        """Nothing that goes wrong here may reach the daemon's work."""
        first, most = timeouts.SIEM_AGAIN_S
        pause = first
        while not self._stop.is_set():
            try:
                if self._sent_some():
                    pause = first
                    self._tell("")
                else:
                    self._stop.wait(timeouts.SIEM_POLL_S)
            except Exception as error:
                self._tell(_said(error))
                self._stop.wait(pause)
                pause = min(2 * pause, most)

    def _sent_some(self) -> bool:
        """One connection, if there is anything to send: from the cursor on, to its answered end."""
        begin = self._cursor.next()
        if next(self._log.events(begin), None) is None:
            return False
        self._line = line = self._dial()
        try:
            end = self._send_from(begin, line)
            line.finish()
        finally:
            self._line = None
            line.close()
        if not self._left.is_set():
            self._cursor.advance(end)
        return True

    def _send_from(self, begin: int, line: Line) -> int:
        """Send what is there, and what comes while a connection lasts; returns the next event.

        The first connection, and the first after trouble, ends when all is sent: then we know.
        """
        here = begin
        lasts_s = 0.0 if self._trouble is None or self._trouble else timeouts.SIEM_CONFIRM_S
        until = time.monotonic() + lasts_s
        while not self._stop.is_set() and here - begin < WINDOW:
            events = list(islice(self._log.events(here), BATCH))
            if events:
                line.send(b"".join(frame(event, self._config.format) for event in events))
                here = events[-1].src.seq + 1
            elif time.monotonic() >= until:
                break
            else:
                self._stop.wait(timeouts.SIEM_POLL_S)
        return here

    def _tell(self, trouble: str) -> None:
        if trouble != self._trouble and not self._left.is_set():
            self._trouble = trouble
            self._on_state(trouble)


@contextmanager
def streaming(
    config: SiemConfig | None,
    log: EventLog,
    database: Database,
    dial: Callable[[SiemConfig, Path], Line],
    root: Path,
) -> Iterator[None]:
    """Stream beside the block what is logged; do nothing where there is no `[siem]`.

    Args:
        root: the state directory: certificates are found from there, and the state is said there.
    """
    if config is None:
        yield
        return

    def tell(trouble: str) -> None:
        if trouble:
            logger.warning("SIEM %s: %s", config.target, trouble)
        else:
            logger.info("SIEM %s: has read what was sent", config.target)
        siem.say(root / siem.STATE_FILE, config.target, trouble)

    siem.say(root / siem.STATE_FILE, config.target, "")
    stream = Stream(config, log, database, lambda: dial(config, root), tell)
    stream.start()
    try:
        yield
    finally:
        stream.stop()


def _said(error: Exception) -> str:
    """Our own lines as they are; of anything else only the class: its text may hold anything."""
    return str(error) if isinstance(error, CohortiumError) else f"unexpected {type(error).__name__}"
