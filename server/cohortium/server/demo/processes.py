"""The demonstration's processes: each party is one, started as people would, and ends with us."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cohortium.common.daemon import END_WITH_PARENT
from cohortium.common.errors import CohortiumError, UnreachableError

COMMAND = (sys.executable, "-m", "cohortium.common.cli")
STOP_S = 10.0
COMMAND_S = 120.0

ENVIRONMENT = {
    END_WITH_PARENT: str(os.getpid()),
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}


def command(*arguments: str) -> dict[str, Any]:
    """Run `cohortium ARGUMENTS --json` to its end and return its document.

    Raises:
        CohortiumError: it failed; the message is its own.
        UnreachableError: it did not end in time.
    """
    try:
        done = subprocess.run(
            [*COMMAND, *arguments, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **ENVIRONMENT},
            timeout=COMMAND_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnreachableError(f"cohortium {arguments[0]} {arguments[1]} does not end") from None
    lines = done.stdout.decode().splitlines()
    document: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    if done.returncode:
        raise CohortiumError(str(document.get("error", f"exit code {done.returncode}")))
    return document


class Daemon:
    """One long-running `cohortium ... up --json`, in a process group of its own."""

    def __init__(self, *arguments: str, log: Path) -> None:
        self.log = log
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [*COMMAND, *arguments, "--json"],
                stdout=subprocess.PIPE,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **ENVIRONMENT},
                start_new_session=True,
            )
        self._states: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def wait_until(self, state: str, timeout_s: float) -> dict[str, Any]:
        """Wait for a line that says so.

        Raises:
            CohortiumError: the process ended first; the message is its own.
            UnreachableError: it took too long.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._find(state) or self._ended(), timeout_s)
            found = self._find(state)
            if found:
                return found
            errors = [line["error"] for line in self._states if "error" in line]
        if errors or self._ended():
            raise CohortiumError(errors[0] if errors else f"it ended early; see {self.log}")
        raise UnreachableError(f'not "{state}" after {timeout_s:g} s; see {self.log}')

    def stop(self) -> None:
        """Ask it to end, insist after a while; nothing of its group stays."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            try:
                line = json.loads(raw)
            except ValueError:
                continue
            with self._changed:
                self._states.append(line)
                self._changed.notify_all()
        self._process.stdout.close()
        self._process.wait()
        with self._changed:
            self._changed.notify_all()

    def _find(self, state: str) -> dict[str, Any] | None:
        return next((line for line in self._states if line.get("state") == state), None)

    def _ended(self) -> bool:
        return self._process.poll() is not None


def stop_all(daemons: Sequence[Daemon]) -> None:
    """Stop several at once: each may take its time, together they take the longest."""
    threads = [threading.Thread(target=daemon.stop) for daemon in daemons]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
