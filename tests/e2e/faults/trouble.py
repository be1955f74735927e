"""A study in a deployment that something happens to: the moment to do it, and what came of it."""

import os
import re
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.deployment import APPROVER, Deployment, write_patient_study
from tests.federation import COORDINATOR, clock

from cohortium.client.config import SiteDir
from cohortium.client.database import open_site_database
from cohortium.client.halt import running
from cohortium.client.processes import marker
from cohortium.client.studies import KnownStudy, Studies
from cohortium.common.audit.events import Event
from cohortium.common.audit.log import EventLog
from cohortium.common.daemon import said
from cohortium.common.study import Study
from cohortium.server.config import CoordinatorDir
from cohortium.server.database import open_coordinator_database
from cohortium.server.store import RoundRecord, Store, StudyRow

SITES = ("a", "b", "c")
LOOK_S = 0.05
PATIENCE_S = 90.0
HOLD_S = 4.0  # in which the other sites of a round have replied

# Every site approves such a study by itself, within a second.
RULE = """
[[auto_approve]]
name = "faults"
purposes = ["HMB"]
datasets = ["ward"]
max_epsilon = 1.0
max_rounds = 100
"""

# One private gradient a round, measured at the end only: a held site is held in training.
PRIVATE = """
[training]
rounds = {rounds}
batches = "full"

[strategy]
learning_rate = 2.0

[privacy]
mechanism = "gaussian"
epsilon = 0.5
delta = 1e-5
clip_norm = 1.0

[evaluation]
every = 1000
"""


def let_in(hospitals: Deployment, name: str) -> None:
    """Let a site approve the tests' studies by a rule."""
    with SiteDir(hospitals.site(name)).config.open("a") as file:
        file.write(RULE)


def until(condition: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
    """Wait for something that is true in the end; returns it."""
    found = within(timeout_s, condition)
    assert found, f"it did not happen in {timeout_s:g} s"
    return found


def within(timeout_s: float, condition: Callable[[], Any]) -> Any:
    """What a condition says as soon as that is true, or at last."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(LOOK_S)
    return found


@dataclass(frozen=True)
class Run:
    """One study in a deployment, seen through both sides' databases."""

    hospitals: Deployment
    study: Study

    @property
    def digest(self) -> str:
        return self.study.digest

    @contextmanager
    def store(self) -> Iterator[Store]:
        path = CoordinatorDir(self.hospitals.coordinator).database
        with open_coordinator_database(path) as database:
            yield Store(database)

    @property
    def row(self) -> StudyRow:
        with self.store() as store:
            return store.study(self.study.name)

    @property
    def rounds(self) -> list[RoundRecord]:
        with self.store() as store:
            return store.rounds(self.digest)

    def reached(self, site: str) -> bool:
        """Whether the invitation has reached a site."""
        with open_site_database(SiteDir(self.hospitals.site(site)).database) as database:
            return self.digest in {known.digest for known in Studies(database).all()}

    def known(self, site: str) -> KnownStudy:
        """What a site holds of the study."""
        with open_site_database(SiteDir(self.hospitals.site(site)).database) as database:
            return Studies(database).by_digest(self.digest)

    def sign(self, site: str) -> None:
        """A person approves, once the invitation is there."""
        until(lambda: self.reached(site))
        self.hospitals.at_site(site, "approve", self.study.name, "--as", APPROVER)

    def tells(self, outcome: str, *sites: str) -> None:
        """In the end sites know how the study ended, and train it no more."""
        for site in sites or SITES:
            self._tells(outcome, site)

    def _tells(self, outcome: str, site: str) -> None:
        until(lambda: self.known(site).state == "ended")
        assert self.known(site).note == outcome, site
        until(lambda: self.worker(site) is None)

    def paid(self, site: str) -> list[int]:
        """The rounds in a site's ledger."""
        path = SiteDir(self.hospitals.site(site)).database
        with closing(sqlite3.connect(path)) as database:
            sql = "SELECT round FROM ledger WHERE study = ? ORDER BY id"
            return [round for (round,) in database.execute(sql, (self.digest,))]

    def events(self, party: str, action: str) -> list[Event]:
        """A site's or the coordinator's events about the study, from a log that holds together."""
        if party == "coordinator":
            name = COORDINATOR
            database = open_coordinator_database(
                CoordinatorDir(self.hospitals.coordinator).database
            )
        else:
            name, database = party, open_site_database(SiteDir(self.hospitals.site(party)).database)
        with database:
            log = EventLog(database, name, name, clock)
            log.verify()
            return [e for e in log.events() if (e.action, e.study) == (action, self.digest)]

    def worker(self, site: str) -> int | None:
        """The study's training process at a site, if it lives."""
        return running(marker(self.hospitals.site(site), self.digest))

    def wait_round(self, number: int) -> None:
        until(lambda: len(self.rounds) >= number)

    def wait_end(self, timeout_s: float = PATIENCE_S) -> StudyRow:
        until(lambda: self.row.ended, timeout_s)
        return self.row

    def completes(self, timeout_s: float = PATIENCE_S) -> None:
        row = self.wait_end(timeout_s)
        assert (row.state, row.cause) == ("completed", "")

    @contextmanager
    def held(self, site: str, doing: str = "training") -> Iterator[int]:
        """For the block, a round waits for one site alone, whose training process stands still."""
        rounds = self.study.training.rounds if doing == "evaluating" else 0
        until(lambda: self.row.progress.startswith("round") and len(self.paid(site)) >= rounds)
        waiting = re.compile(rf"{doing}(: waiting for {site})?$")
        while True:
            pid: int = until(lambda: self.worker(site))
            os.kill(pid, signal.SIGSTOP)
            if within(HOLD_S, lambda: waiting.search(self.row.progress)):
                break
            release(pid)  # it was held between two rounds, or had answered
        try:
            yield pid
        finally:
            release(pid)


def release(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        pass  # it did not outlive what the test did


def begin(
    hospitals: Deployment,
    place: Path,
    name: str,
    *,
    rounds: int = 4,
    training: str = PRIVATE,
    min_sites: int = 2,
    round_deadline: str = "60.0",
    on_missing: str = "continue",
    changes: Mapping[str, str] | None = None,
) -> Run:
    """Submit a study; as it stands, its sites approve it by their rule."""
    who = f'min_sites = {min_sites}\non_missing = "{on_missing}"'
    study = write_patient_study(
        place,
        training.format(rounds=rounds),
        name=name,
        changes={
            "min_sites = 2": who,
            "round_deadline = 60.0": f"round_deadline = {round_deadline}",
            "approval_deadline = 300.0": "approval_deadline = 180.0",
            **(changes or {}),
        },
    )
    hospitals.submit(place / "study.toml")
    return Run(hospitals, study)


def assert_paid_once(run: Run, *sites: str, rounds: int) -> None:
    """The ledger, the event log and the coordinator agree: one payment for each round."""
    for site in sites or SITES:
        paid = run.paid(site)
        assert paid == list(range(1, rounds + 1)), site
        assert [event.round for event in run.events(site, "privacy.spent")] == paid, site
    assert [len(record.spent) for record in run.rounds] == [len(sites or SITES)] * rounds


def freeze(hospitals: Deployment, *names: str) -> None:
    """Hold daemons still: their machines answer TCP, and nothing else."""
    for name in names:
        hospitals.daemons[name].process.send_signal(signal.SIGSTOP)


def thaw(hospitals: Deployment, *names: str) -> None:
    for name in names:
        hospitals.daemons[name].process.send_signal(signal.SIGCONT)


def kill(hospitals: Deployment, *names: str) -> None:
    """SIGKILL daemons with all that they started, as a power cut does."""
    for name in names:
        hospitals.daemons[name].kill_group()


def superlink_of(hospitals: Deployment) -> int:
    """The process id of the coordinator's SuperLink."""
    (found,) = superlinks_of(hospitals)
    return found


def superlinks_of(hospitals: Deployment) -> list[int]:
    """One, or none while another is being started."""
    coordinator = hospitals.daemons["coordinator"].process.pid
    children = Path(f"/proc/{coordinator}/task/{coordinator}/children").read_text().split()
    return [int(child) for child in children if b"superlink_process" in _command(child)]


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""  # it has just ended


def kill_superlink(hospitals: Deployment) -> None:
    os.kill(superlink_of(hospitals), signal.SIGKILL)


def online(hospitals: Deployment) -> set[str]:
    """The sites that the coordinator says are there, as `coordinator sites` would show it."""
    found: dict[str, bool] = said(CoordinatorDir(hospitals.coordinator).status).get("online", {})
    return {name for name, here in found.items() if here}


def log_of(hospitals: Deployment, party: str) -> str:
    """What people read: coordinator.log, or a site's site.log."""
    place = hospitals.coordinator if party == "coordinator" else hospitals.site(party)
    return (place / f"{'coordinator' if party == 'coordinator' else 'site'}.log").read_text()
