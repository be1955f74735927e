"""What lies on the coordinator's disk is full, damaged, old or about to expire."""

import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tests.e2e.deployment import HOST, Deployment, deployment, free_port
from tests.e2e.faults.trouble import (
    SITES,
    assert_paid_once,
    begin,
    kill,
    let_in,
    log_of,
    until,
)
from tests.federation import COORDINATOR

from cohortium.server.config import CoordinatorDir

pytestmark = pytest.mark.slow

VOLUME = "64m"
BALLAST = 1 << 20


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A consortium whose coordinator has a small disk of its own."""
    root = tmp_path_factory.mktemp("disk")
    home = Deployment(root).coordinator
    home.mkdir()
    done = mount("-t", "tmpfs", "-o", f"size={VOLUME}", "tmpfs", str(home))
    if done.returncode:
        pytest.skip(f"no disk of its own can be mounted here: {done.stderr.strip()}")
    try:
        with deployment(root) as made:
            ports = ("--fleet-port", str(free_port()), "--enrolment-port", str(free_port()))
            made.ok("coordinator", "init", home, "--name", COORDINATOR, "--host", HOST, *ports)
            made.start_coordinator()
            made.start_sites(*SITES)
            for name in SITES:
                let_in(made, name)
            yield made
    finally:
        subprocess.run(["umount", "--lazy", str(home)], check=True)


def test_disk_full_at_the_coordinator(hospitals: Deployment, tmp_path: Path) -> None:
    run = begin(hospitals, tmp_path, "disk-full")
    ballast = hospitals.coordinator / "ballast"
    try:
        with run.held("c"):
            fill(ballast)
            finished = len(run.rounds)
        until(lambda: "disk is full" in hospitals.daemons["coordinator"].stderr)
        assert len(run.rounds) == finished
        assert not run.row.ended
    finally:
        ballast.unlink(missing_ok=True)
    run.completes()
    assert_paid_once(run, rounds=4)


def test_read_only_disk_at_the_coordinator(hospitals: Deployment, tmp_path: Path) -> None:
    run = begin(hospitals, tmp_path, "disk-read-only")
    with run.held("c"):
        kill(hospitals, "coordinator")
        remount(hospitals, "ro")
        try:
            said = hospitals.fails(1, "coordinator", "up", "--dir", hospitals.coordinator)
        finally:
            remount(hospitals, "rw")
        assert str(hospitals.coordinator) in said
        hospitals.start_coordinator()
    run.completes()
    assert_paid_once(run, rounds=4)


def test_damaged_checkpoint(hospitals: Deployment, tmp_path: Path) -> None:
    """The round before is asked for again, and costs nobody anything."""
    run = begin(hospitals, tmp_path, "checkpoint-damaged")
    run.wait_round(2)
    with run.held("c"):
        kill(hospitals, "coordinator")
        with changed(hospitals) as database:
            damage = (
                "UPDATE snapshots SET bytes = zeroblob(length(bytes)) WHERE study = ? AND round = "
                "(SELECT max(round) FROM snapshots WHERE study = ?)"
            )
            assert database.execute(damage, (run.digest, run.digest)).rowcount == 1
        hospitals.start_coordinator()
    run.completes()
    assert_paid_once(run, rounds=4)
    assert "is damaged; going back one round" in log_of(hospitals, "coordinator")


def cosigned(hospitals: Deployment, *sites: str) -> int:
    """How much of the log each of these sites has cosigned at least."""
    found = hospitals.at_coordinator("coordinator", "witnesses")["sites"]
    return min(int(found[name]["cosigned"]) for name in sites)


def test_database_restored_from_an_old_backup(hospitals: Deployment, tmp_path: Path) -> None:
    """Sites remember more than the coordinator: it appends nothing until a person has decided.

    And what they have answered they do not train again.
    """
    run = begin(hospitals, tmp_path, "old-backup", rounds=8)
    backup = tmp_path / "backup.db"
    home = CoordinatorDir(hospitals.coordinator)
    until(lambda: run.row.state == "running")
    with closing(sqlite3.connect(home.database)) as source, closing(sqlite3.connect(backup)) as to:
        source.backup(to)
    before = hospitals.at_coordinator("coordinator", "witnesses")["events"]
    run.wait_round(4)
    with run.held("c"):
        until(lambda: cosigned(hospitals, "a", "b") > before)
        kill(hospitals, "coordinator")
        paid = {name: run.paid(name) for name in SITES}
        shutil.copyfile(backup, home.database)
        hospitals.start_coordinator()
    # A site that is asked while it connects again is asked once more half a minute later; a study
    # may meanwhile have learnt from the same sites that its rounds are past.
    until(lambda: "has cosigned more of our log" in log_of(hospitals, "coordinator"), 180.0)
    until(lambda: run.row.ended or "log.behind" in run.row.progress)
    hospitals.at_coordinator("coordinator", "recover-log", "--as", "Dr. M. Lead")
    row = run.wait_end()
    assert row.state == "failed"
    assert "round.past" in row.cause
    assert "b refused" in row.cause
    for name in SITES:
        assert set(run.paid(name)) >= set(paid[name])
        assert len(set(run.paid(name))) == len(run.paid(name))


def test_database_that_is_none(hospitals: Deployment, tmp_path: Path) -> None:
    run = begin(hospitals, tmp_path, "garbage", rounds=3)
    home = CoordinatorDir(hospitals.coordinator)
    with run.held("c"):
        kill(hospitals, "coordinator")
        kept = home.database.read_bytes()
        home.database.write_bytes(b"not a database at all" * 1000)
        said = hospitals.fails(1, "coordinator", "up", "--dir", hospitals.coordinator)
        home.database.write_bytes(kept)
        hospitals.start_coordinator()
    assert str(home.database) in said
    assert "restore it from a backup" in said
    run.completes()
    assert_paid_once(run, rounds=3)


def test_certificate_renewed_amid_a_round(hospitals: Deployment, tmp_path: Path) -> None:
    run = begin(hospitals, tmp_path, "renewed")
    with run.held("c"):
        hospitals.at_coordinator("coordinator", "renew")
        until(lambda: "serving under a new certificate" in log_of(hospitals, "coordinator"))
    run.completes()
    assert_paid_once(run, rounds=4)


def fill(ballast: Path) -> None:
    """Until not a byte more can be written."""
    with ballast.open("wb", buffering=0) as file:
        for size in (BALLAST, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


def mount(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)


def remount(hospitals: Deployment, mode: str) -> None:
    """As soon as nobody writes there."""
    until(lambda: mount("-o", f"remount,{mode}", str(hospitals.coordinator)).returncode == 0)


@contextmanager
def changed(hospitals: Deployment) -> Iterator[sqlite3.Connection]:
    """The database of a coordinator that does not run, to be damaged."""
    path = CoordinatorDir(hospitals.coordinator).database
    with closing(sqlite3.connect(path)) as database, database:
        yield database
