"""What lies on a site's disk is full, or old: nothing it has given is forgotten."""

import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.e2e.deployment import APPROVER, Deployment, deployment
from tests.e2e.faults.trouble import SITES, assert_paid_once, begin, kill, let_in, until

from cohortium.client.config import SiteDir

pytestmark = pytest.mark.slow

VOLUME = "64m"


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A consortium in which site b has a small disk of its own."""
    root = tmp_path_factory.mktemp("records")
    home = Deployment(root).site("b")
    home.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={VOLUME}", "tmpfs", str(home)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no disk of its own can be mounted here: {done.stderr.strip()}")
    try:
        with deployment(root) as made:
            made.start_coordinator()
            made.start_sites(*SITES)
            for name in SITES:
                let_in(made, name)
            yield made
    finally:
        subprocess.run(["umount", "--lazy", str(home)], check=True)


def test_disk_full_at_a_site(hospitals: Deployment, tmp_path: Path) -> None:
    """Its log lies on that disk, too: the reason stands on standard error meanwhile."""
    run = begin(hospitals, tmp_path, "site-disk-full", min_sites=3, on_missing="wait")
    ballast = hospitals.site("b") / "ballast"
    try:
        with run.held("c"):
            ballast.write_bytes(bytes(shutil.disk_usage(ballast.parent).free))
        until(lambda: "the disk is full" in hospitals.daemons["b"].stderr)
        assert not run.row.ended
        assert "Traceback" not in hospitals.daemons["b"].stderr
    finally:
        ballast.unlink(missing_ok=True)
    run.completes()
    assert_paid_once(run, rounds=4)


def test_database_of_a_site_restored_from_an_old_backup(
    hospitals: Deployment, tmp_path: Path
) -> None:
    run = begin(hospitals, tmp_path, "site-old-backup", rounds=6)
    database, backup = SiteDir(hospitals.site("b")).database, tmp_path / "backup.db"
    until(lambda: run.paid("b"))
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(backup)) as to:
        source.backup(to)
    run.wait_round(2)
    with run.held("c"):
        kill(hospitals, "b")
        before = run.paid("b"), spent(hospitals)
        shutil.copyfile(backup, database)
        up = ("site", "up", "--dir", hospitals.site("b"))
        assert "rows of the privacy ledger" in hospitals.fails(1, *up)
        accepted = hospitals.at_site("b", "accept-loss", "--as", APPROVER)
        hospitals.start_site("b").wait_state("online")
    run.completes()
    assert accepted["steps"] == len(before[0]) - len([n for n in run.paid("b") if n > 0])
    assert accepted["studies"] == [run.study.name]
    assert spent(hospitals) == before[1]
    refused = [record.refused["b"] for record in run.rounds if "b" in record.refused]
    assert [reason.split(":")[0] for reason in refused] == ["study.stopped"]
    assert [event.detail["by"] for event in run.events("b", "run.stopped")] == [APPROVER]


def spent(hospitals: Deployment) -> float:
    """Epsilon that the ward at b has given, as `site budget` says."""
    (ward,) = hospitals.at_site("b", "budget")["datasets"]
    return float(ward["epsilon_spent"])
