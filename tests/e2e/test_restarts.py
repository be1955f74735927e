"""Studies and demonstrations that are ended halfway: what was begun is put away.

What is killed, and goes on: tests/e2e/faults.
"""

import os
import signal
from pathlib import Path

import pytest
from tests.e2e.deployment import (
    Deployment,
    Running,
    assert_nothing_runs,
    write_patient_study,
)
from tests.federation import PRIVATE

SITES = ("a", "b", "c")


@pytest.mark.slow
def test_a_stopped_study_ends_as_stopped_and_the_sites_are_told(
    consortium: Deployment, tmp_path: Path
) -> None:
    write_patient_study(tmp_path, PRIVATE, name="stopped", changes={"rounds = 4": "rounds = 50"})
    consortium.submit(tmp_path / "study.toml")
    consortium.approve("stopped", *SITES)
    watching = consortium.watch("stopped")
    try:
        watching.wait_for(lambda: len(watching.lines) >= 1)
        consortium.at_coordinator("study", "stop", "stopped")
        assert watching.wait(20) == 1
    finally:
        watching.kill_group()
    assert watching.lines[-1]["state"] == "stopped"
    assert watching.lines[-1]["cause"].startswith("stopped by ")
    again = consortium.at_coordinator("study", "stop", "stopped")
    assert again["state"] == "stopped"
    for site in SITES:
        consortium.wait_told(site, "stopped", "stopped")


# What the demonstration says when it has got so far; "" is before the first word.
STARTED, JOINING, ROUND = "", "coordinator is up", " 1/10 "


def interrupted(place: Path, after: str, number: signal.Signals, *, group: bool) -> Running:
    """A demonstration that gets a signal at some moment; returns it ended."""
    options = ("--sites", "2", "--workdir", str(place / "demo"))
    demo = Running(place, "demo", *options)
    try:
        demo.wait_for(lambda: (place / "demo").exists() and after in demo.stderr, 120)
        (os.killpg if group else os.kill)(demo.process.pid, number)
        demo.wait(30)
    finally:
        demo.kill_group()
    return demo


@pytest.mark.parametrize(
    ("after", "group"),
    [
        (STARTED, True),
        pytest.param(STARTED, False, marks=pytest.mark.slow),
        pytest.param(JOINING, False, marks=pytest.mark.slow),
        pytest.param(JOINING, True, marks=pytest.mark.slow),
        pytest.param(ROUND, True, marks=pytest.mark.slow),
        pytest.param(ROUND, False, marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_of_the_demonstration_leaves_no_process_behind(
    tmp_path: Path, after: str, group: bool
) -> None:
    demo = interrupted(tmp_path, after, signal.SIGINT, group=group)
    assert demo.process.returncode == 130, demo.stderr
    assert demo.stderr.splitlines()[-1] == "interrupted"
    assert "Traceback" not in demo.stderr
    assert demo.lines == []
    assert_nothing_runs(tmp_path)


def test_a_demonstration_killed_outright_leaves_no_process_behind(tmp_path: Path) -> None:
    demo = interrupted(tmp_path, JOINING, signal.SIGKILL, group=False)
    assert demo.process.returncode == -signal.SIGKILL
    # Each daemon puts its threads, its conversations and its SuperLink away: seconds when idle.
    assert_nothing_runs(tmp_path, within_s=45.0)
