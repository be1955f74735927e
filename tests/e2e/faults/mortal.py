"""A federation whose processes kill themselves at a durable step, each forked from a warm process.

Importing torch takes seconds, forking milliseconds: so every step of a study can be died at. A
step is a commit, a statement that commits by itself, a file made durable, replaced or removed, or
a reply that the coordinator is about to read.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tests.federation import (
    FULL,
    PLAIN,
    Federation,
    InProcessSites,
    approve,
    coordinate,
    federate,
    write_study,
)

from cohortium.client import rounds
from cohortium.client.site import open_site
from cohortium.common.database import Database
from cohortium.common.identity import SigningKey
from cohortium.common.study import load_study
from cohortium.server.coordinator import run_study
from cohortium.server.ending import say_farewell
from cohortium.server.model_file import final_vector
from cohortium.server.sites import Sites

ROOT = Path(__file__).parent.parent.parent.parent
ALL, COORDINATOR = "all", "coordinator"
KEY, MODEL = "coordinator.key", "model.npy"
WRITES = ("INSERT", "UPDATE", "DELETE", "REPLACE", "CREATE", "DROP", "ALTER")
KILLED = -signal.SIGKILL
PR_SET_PDEATHSIG = 1  # prctl(2)
LOOK_S = 0.01

_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class Life:
    """One process: the coordinator with its sites (`all`), the `coordinator`, or a site's name.

    Attributes:
        root: what `found` made.
        die_at: the number, from 1, of the step that it does not survive; 0 for none.
        after: whether that step is done before it dies.
    """

    root: str
    part: str
    die_at: int = 0
    after: bool = False


@dataclass
class Steps:
    """Counts the steps of this process and ends it, as a power cut would, at the one drawn."""

    life: Life
    names: list[str] = field(default_factory=list)

    def take(self, name: str, act: Callable[[], Any]) -> Any:
        self.names.append(name)
        mine = len(self.names) == self.life.die_at
        if mine and not self.life.after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = act()
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def watch(self) -> None:
        """From now on; the process is ours alone, so nothing is ever put back."""
        execute = Database.execute

        def counted(database: Database, sql: str, parameters: Any = ()) -> Any:
            verb = sql.split(maxsplit=1)[0].upper()
            alone = verb in WRITES and not database._connection.in_transaction
            if verb != "COMMIT" and not alone:
                return execute(database, sql, parameters)
            return self.take(" ".join(sql.split()[:3]), lambda: execute(database, sql, parameters))

        Database.execute = counted  # type: ignore[assignment, method-assign]
        for name in ("fsync", "replace", "rename", "unlink"):
            setattr(os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            return self.take(name, lambda: real(*arguments, **options))

        return call

    def write(self) -> None:
        path = Path(self.life.root) / f"{self.life.part}.steps"
        path.write_text(json.dumps(self.names))


@dataclass(frozen=True)
class Heard:
    """`Sites` whose every reply is a step."""

    sites: Sites
    steps: Steps

    def ask(
        self, heads: Mapping[str, bytes], body: Any, deadline_s: float
    ) -> Iterator[tuple[str, bytes]]:
        for name, reply in self.sites.ask(heads, body, deadline_s):
            self.steps.take(f"reply of {name}", lambda: None)
            yield name, reply


@dataclass(frozen=True)
class SiteProcesses:
    """`Sites`, each a process that listens at NAME.sock; one that is dead stays silent."""

    root: Path

    def ask(
        self, heads: Mapping[str, bytes], body: Any, deadline_s: float
    ) -> Iterator[tuple[str, bytes]]:
        for name, head in heads.items():
            reply = self._exchange(name, head + bytes(body))
            if reply:
                yield name, reply
            else:
                time.sleep(LOOK_S)

    def _exchange(self, name: str, request: bytes) -> bytes:
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(f"{name}.sock")
                line.sendall(request)
                line.shutdown(socket.SHUT_WR)
                return _read(line)
        except OSError:
            return b""


@dataclass(frozen=True)
class Nursery:
    """The warm process, as a test sees it."""

    server: "subprocess.Popen[str]"

    def start(self, life: Life) -> int:
        """Fork a process that leads this life; returns its number."""
        return self._order({"start": asdict(life)})

    def wait(self, pid: int) -> int:
        """Its exit code, negative for the signal that ended it."""
        return self._order({"wait": pid})

    def lead(self, life: Life) -> int:
        return self.wait(self.start(life))

    def end(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        assert self.wait(pid) == KILLED

    def _order(self, order: dict[str, Any]) -> int:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())


@contextmanager
def nursery() -> Iterator[Nursery]:
    """Everything that was started in it is gone when it ends."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.faults.mortal"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as server:
        try:
            yield Nursery(server)
        finally:
            server.kill()


def main() -> None:
    """Fork and wait as the test says, until it says no more."""
    _die_with_parent()
    for training in (PLAIN, FULL):
        _warm_up(training)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
        elif pid := os.fork():
            print(pid, flush=True)
        else:
            _live(Life(**order["start"]))


def _warm_up(training: str) -> None:
    """A whole study: whatever is imported late, by torch or by us, is imported now."""
    with tempfile.TemporaryDirectory() as place:
        study = write_study(Path(place), training)
        federation = federate(Path(place), policy={"allow_unprotected": "true"})
        for site in federation.sites.values():
            approve(site, study)
        run_study(study, federation.desk(study))
        federation.close()


def _live(life: Life) -> None:
    """Never returns: this is a fork of the warm process, and ends where it is done."""
    code = 1
    try:
        _die_with_parent()
        os.chdir(life.root)  # the path of a Unix socket may have 107 bytes only
        steps = Steps(life)
        if life.part in (ALL, COORDINATOR):
            _lead_study(Path(life.root), life, steps)
        else:
            _serve(Path(life.root) / life.part, life.part, steps)
        steps.write()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _lead_study(root: Path, life: Life, steps: Steps) -> None:
    """What the daemon does when it starts: the study goes on, or those who missed its end hear."""
    federation = open_federation(root)
    within = InProcessSites(federation.sites) if life.part == ALL else SiteProcesses(root)
    federation.transport = Heard(within, steps)  # type: ignore[assignment]
    study = load_study(root / "study.toml")
    desk = federation.desk(study)
    steps.watch()
    if federation.store.study(study.name).ended:
        say_farewell(study, desk, "completed")
    else:
        run_study(study, desk)
    np.save(MODEL, final_vector(federation.store.study(study.name), federation.store))


def open_federation(root: Path) -> Federation:
    """What `found` made, opened again."""
    study = load_study(root / "study.toml")
    sites = {name: open_site(root / name) for name in study.sites.names}
    return coordinate(root, SigningKey.load(root / KEY), sites)


def _serve(home: Path, name: str, steps: Steps) -> None:
    site = open_site(home)
    with socket.socket(socket.AF_UNIX) as listener:
        Path(f"{name}.sock").unlink(missing_ok=True)
        listener.bind(f"{name}.sock")
        listener.listen()
        steps.watch()
        while True:
            line, _ = listener.accept()
            with line:
                line.sendall(rounds.answer(_read(line), site))
            steps.write()


def _read(line: socket.socket) -> bytes:
    return b"".join(iter(lambda: line.recv(1 << 16), b""))


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
