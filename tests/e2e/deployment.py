"""A whole consortium on this machine, driven as people drive it: by the command line alone."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.federation import COORDINATOR, SCHEMA, set_policy, write_study, write_ward

from cohortium.common.daemon import END_WITH_PARENT
from cohortium.common.study import Study, load_study

HOST = "127.0.0.1"
APPROVER = "Dr. Weiss"
COMMAND_S = 60.0
UP_S = 60.0
STOP_S = 15.0
MARK = "COHORTIUM_TEST_DEPLOYMENT"  # in the environment of all that a test starts

# Even a pytest that is killed takes the command with it; prctl(2) PR_SET_PDEATHSIG outlives exec.
DIE_WITH_US = (
    "import ctypes, os, sys; sys.platform == 'linux' and ctypes.CDLL(None).prctl(1, 9); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
COMMAND = (sys.executable, "-c", DIE_WITH_US, sys.executable, "-m", "cohortium.common.cli")
ALLOW = {"purposes": '["HMB"]', "allow_unprotected": "true"}


@dataclass(frozen=True)
class Result:
    """How a command ended and what it said; `lines` are the JSON documents of its stdout."""

    code: int
    lines: list[dict[str, Any]]
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        """The only document of a command that prints one."""
        assert len(self.lines) == 1, self.lines
        return self.lines[0]


class Running:
    """A command that goes on: its JSON lines as they come, its process group to signal."""

    def __init__(self, place: Path, *arguments: str, json_lines: bool = True) -> None:
        self.lines: list[dict[str, Any]] = []
        self._stderr = place / f"{time.monotonic_ns()}.stderr"
        with self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*COMMAND, *arguments, *(["--json"] if json_lines else [])],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=place,
                env=environment(place),
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def stderr(self) -> str:
        return self._stderr.read_text(encoding="utf-8")

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = UP_S) -> None:
        """Wait until something is so; fail at once if the command ends before."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None or condition(), (self.lines, self.stderr)
            assert time.monotonic() < deadline, (self.lines, self.stderr)
            time.sleep(0.05)

    def wait_state(self, state: str, timeout_s: float = UP_S) -> dict[str, Any]:
        """Wait for the line that says `state`."""
        self.wait_for(lambda: any(line.get("state") == state for line in self.lines), timeout_s)
        return next(line for line in self.lines if line.get("state") == state)

    def end(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = STOP_S) -> int:
        """Signal the process itself and wait for its exit code."""
        self.process.send_signal(number)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = COMMAND_S) -> int:
        code = self.process.wait(timeout_s)
        self._reader.join(5)
        return code

    def kill_group(self) -> None:
        """Nothing of it stays, whatever state it is in."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self._reader.join(5)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            for raw in stdout:
                self.lines.append(json.loads(raw))


@dataclass
class Deployment:
    """A coordinator and sites below `root`; `close` ends whatever still runs."""

    root: Path
    daemons: dict[str, Running] = field(default_factory=dict)

    @property
    def coordinator(self) -> Path:
        return self.root / "coordinator"

    def site(self, name: str) -> Path:
        return self.root / "sites" / name

    def run(self, *arguments: str | Path) -> Result:
        """Run `cohortium ARGUMENTS --json` to its end."""
        return command(self.root, *map(str, arguments))

    def ok(self, *arguments: str | Path) -> dict[str, Any]:
        """The document of a command that must succeed."""
        result = self.run(*arguments)
        assert result.code == 0, result
        return result.document

    def fails(self, code: int, *arguments: str | Path) -> str:
        """What a command says that must fail: in one line, without a traceback."""
        result = self.run(*arguments)
        assert result.code == code, result
        return one_line(result)

    def at_site(self, name: str, *arguments: str | Path) -> dict[str, Any]:
        return self.ok("site", *arguments, "--dir", self.site(name))

    def at_coordinator(self, *arguments: str | Path) -> dict[str, Any]:
        return self.ok(*arguments, "--dir", self.coordinator)

    def start_coordinator(self, settings: str = "") -> Running:
        """Set it up, if nobody has yet, and run it; returns once it says that it is up.

        Args:
            settings: further lines of a new coordinator.toml.
        """
        if not self.coordinator.exists():
            ports = ("--fleet-port", str(free_port()), "--enrolment-port", str(free_port()))
            who = ("--name", COORDINATOR, "--host", HOST)
            self.ok("coordinator", "init", self.coordinator, *who, *ports)
            with (self.coordinator / "coordinator.toml").open("a") as file:
                file.write(settings)
        up = Running(self.root, "coordinator", "up", "--dir", str(self.coordinator))
        self.daemons["coordinator"] = up
        up.wait_state("up")
        return up

    def invite(self, name: str) -> Path:
        path = self.root / f"{name}.invite"
        self.at_coordinator("coordinator", "invite", name, "--out", path)
        return path

    def join(self, name: str) -> None:
        """Invite a site, let it join and allow the test's studies."""
        self.at_site(name, "join", self.invite(name))
        set_policy(self.site(name) / "site.toml", ALLOW)

    def add_ward(self, name: str) -> None:
        """Register the table that the in-process federation's site of that name has."""
        table = write_ward(self.root / f"{name}.csv", seed=sum(map(ord, name)))
        self.add_data(name, "ward", table)

    def add_data(
        self, name: str, dataset: str, table: Path, schema: str = SCHEMA
    ) -> dict[str, Any]:
        schema_file = self.root / f"{name}-{dataset}.schema.toml"
        schema_file.write_text(schema)
        arguments = ("data", "add", dataset, "--path", table, "--schema", schema_file)
        return self.at_site(name, *arguments, "--epsilon-cap", "100")

    def start_site(self, name: str) -> Running:
        """Start a daemon that can be killed alone; does not wait until it is online."""
        self.daemons[name] = Running(self.root, "site", "up", "--dir", str(self.site(name)))
        return self.daemons[name]

    def start_sites(self, *names: str) -> None:
        """Sites that have joined, have the ward's data and are online."""
        each(names, self.join)
        each(names, self.add_ward)
        for name in names:
            self.start_site(name)
        for name in names:
            self.daemons[name].wait_state("online")

    def submit(self, study: Path) -> None:
        self.at_coordinator("study", "submit", study)

    def approve(self, study: str, *names: str, timeout_s: float = UP_S) -> None:
        """Approve at each site as soon as the invitation has reached it."""
        deadline = time.monotonic() + timeout_s

        def sign(name: str) -> None:
            arguments = ("site", "approve", study, "--as", APPROVER, "--dir", self.site(name))
            while "reached this site" in (result := self.run(*arguments)).stderr:
                assert time.monotonic() < deadline, result
            assert result.code == 0, result

        each(names, sign)

    def watch(self, study: str) -> Running:
        """`study watch`, going on; its lines are rounds, then the end."""
        return Running(self.root, "study", "watch", study, "--dir", str(self.coordinator))

    def finish(self, study: str, timeout_s: float = 120.0) -> Result:
        """Watch a study to its end."""
        watching = self.watch(study)
        try:
            code = watching.wait(timeout_s)
        finally:
            watching.kill_group()
        return Result(code, watching.lines, watching.stderr)

    def export(self, study: str, out: Path) -> Path:
        """Release a study's model, over open gates if there are any; its file."""
        opened = [f for f in self.at_coordinator("study", "flags", study)["flags"] if f["open"]]
        over = ("--override", "--reason", "it is a test") if opened else ()
        self.at_coordinator("study", "release", study, "--as", APPROVER, *over)
        return Path(self.at_coordinator("study", "export", study, "--out", out)["model"])

    def wait_told(self, site: str, study: str, outcome: str, timeout_s: float = UP_S) -> None:
        """Wait until a site knows how a study ended; who was away is told within seconds."""
        deadline = time.monotonic() + timeout_s
        while True:
            known = {s["name"]: s for s in self.at_site(site, "studies")["studies"]}
            said = (known[study]["state"], known[study]["note"])
            if said == ("ended", outcome):
                return
            assert time.monotonic() < deadline, said
            time.sleep(0.2)

    def wait_witnessed(
        self, *names: str, more_than: int = 0, timeout_s: float = UP_S
    ) -> dict[str, Any]:
        """What the coordinator says once these sites have cosigned all that is logged.

        Args:
            more_than: how many events there must be, for what has not been logged yet.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            said = self.at_coordinator("coordinator", "witnesses")
            whole = {said["sites"][name]["cosigned"] for name in names} == {said["events"]}
            if whole and said["events"] > more_than:
                return said
            assert time.monotonic() < deadline, said
            time.sleep(0.3)

    def events(self, directory: Path) -> list[dict[str, Any]]:
        """A party's event log, which the command verifies first."""
        result = self.run("audit", "log", "--dir", directory)
        assert result.code == 0, result
        return result.lines

    def close(self) -> None:
        """End all daemons at once, and look that nothing is left."""
        for running in self.daemons.values():
            running.process.send_signal(signal.SIGCONT)
            running.process.terminate()
        deadline = time.monotonic() + STOP_S
        for running in self.daemons.values():
            try:
                running.process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                pass
            running.kill_group()
        assert_nothing_runs(self.root)


@contextmanager
def deployment(root: Path) -> Iterator[Deployment]:
    made = Deployment(root)
    try:
        yield made
    finally:
        made.close()


def write_patient_study(
    directory: Path, *parts: str, name: str, changes: Mapping[str, str] | None = None
) -> Study:
    """A study.toml whose sites get five minutes to approve; `changes` replaces other text of it."""
    write_study(directory, *parts, name=name)
    path = directory / "study.toml"
    text = path.read_text()
    slower = {"approval_deadline = 5.0": "approval_deadline = 300.0"}
    for old, new in {**slower, **(changes or {})}.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return load_study(path)


def command(place: Path, *arguments: str, before: tuple[str, ...] = ()) -> Result:
    """Run `cohortium ARGUMENTS --json` to its end, with the words `before` in front."""
    done = subprocess.run(
        [*before, *COMMAND, *arguments, "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=place,
        env=environment(place),
        timeout=COMMAND_S,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
    return Result(done.returncode, lines, done.stderr.decode())


def one_line(result: Result) -> str:
    """The one line that a failed command says, the same to people and to machines."""
    (line,) = result.stderr.splitlines() if result.stderr.count("\n") == 1 else [result.stderr]
    message = str(result.document["error"])
    assert line == f"error: {message}", result.stderr
    assert result.document["exit_code"] == result.code
    return message


def environment(place: Path) -> dict[str, str]:
    own = {END_WITH_PARENT: str(os.getpid()), MARK: str(place), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own}


def each(names: tuple[str, ...], work: Callable[[str], object]) -> None:
    """Do something for all names, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, names))


def processes_of(place: Path) -> list[str]:
    """Command lines of the living processes that a test in `place` started, or they started."""
    return [
        (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        for process in Path("/proc").glob("[0-9]*")
        if _belongs(process, place)
    ]


def _belongs(process: Path, place: Path) -> bool:
    """By environment or by working directory: a child may have been given only one of them."""
    try:
        marks = (process / "environ").read_bytes().split(b"\0")
        where = Path(os.readlink(process / "cwd"))
    except OSError:
        return False  # it has ended, or is somebody else's
    return f"{MARK}={place}".encode() in marks or where.is_relative_to(place)


def assert_nothing_runs(place: Path, within_s: float = 1.0) -> None:
    """No process that was started for `place` is left, or will be in a moment."""
    deadline = time.monotonic() + within_s
    while left := processes_of(place):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
