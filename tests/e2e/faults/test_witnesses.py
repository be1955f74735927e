"""The log is witnessed over restarts, kills and a coordinator whose database is an old backup."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from tests.e2e.deployment import APPROVER, Deployment, deployment, write_patient_study
from tests.federation import PLAIN

SITES = ("a", "b")


@pytest.mark.slow
def test_witnessing_goes_on_over_restarts_kills_and_an_old_backup(tmp_path: Path) -> None:
    with deployment(tmp_path / "here") as made:
        made.root.mkdir()
        made.start_coordinator()
        made.start_sites(*SITES)
        first = made.wait_witnessed(*SITES)["events"]

        made.daemons["coordinator"].end()
        backup = tmp_path / "backup.db"
        shutil.copy(made.coordinator / "coordinator.db", backup)
        made.start_coordinator()
        second = made.wait_witnessed(*SITES, more_than=first)["events"]

        made.daemons["a"].kill_group()
        made.at_site("a", "pause", "--as", APPROVER)
        made.start_site("a").wait_state("online")
        made.at_site("a", "resume", "--as", APPROVER)
        made.invite("c")  # what a site did by itself is fetched when the log grows
        third = made.wait_witnessed(*SITES, more_than=second)
        assert third["sites"]["a"]["events"] > third["sites"]["b"]["events"]

        made.daemons["coordinator"].end()
        shutil.copy(backup, made.coordinator / "coordinator.db")
        (made.root / "c.invite").unlink()
        up = made.start_coordinator()
        up.wait_for(lambda: len(_behind(made)) == 2)
        study = tmp_path / "study"
        study.mkdir()
        sites = {'names = ["a", "b", "c"]': 'names = ["a", "b"]'}
        write_patient_study(study, PLAIN, name="late", changes=sites)
        where = ("--dir", made.coordinator)
        said = made.fails(1, "study", "submit", study / "study.toml", *where)
        assert said.startswith("log.behind: ")
        assert "recover-log" in said
        for name in SITES:
            assert made.at_site(name, "status")["alarms"] == []

        done = made.at_coordinator("coordinator", "recover-log", "--as", APPROVER)
        assert done["log"].endswith("/log2")
        assert done["named"] == list(SITES)
        again = made.wait_witnessed(*SITES)
        assert again["behind"] == {}
        for name in SITES:
            here = made.at_site(name, "witness")
            assert here["log"] == done["log"]
            assert len(here["evidence"]) == 1
        made.submit(study / "study.toml")
        made.approve("late", *SITES)
        assert made.finish("late").code == 0
        made.wait_witnessed(*SITES)
        os.kill(made.daemons["b"].process.pid, signal.SIGKILL)


def _behind(made: Deployment) -> dict[str, int]:
    found: dict[str, int] = made.at_coordinator("coordinator", "witnesses")["behind"]
    return found
