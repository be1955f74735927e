"""Processes killed in the middle of a study: it goes on, and no round is paid twice."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.deployment import (
    Deployment,
    Running,
    assert_nothing_runs,
    deployment,
    write_patient_study,
)
from tests.federation import PRIVATE

SITES = ("a", "b", "c")
ROUNDS = 8
# All sites are needed, and a round waits for one that is away.
PATIENT = {
    "rounds = 4": f"rounds = {ROUNDS}",
    "min_sites = 2": "min_sites = 3",
    "round_deadline = 60.0": "round_deadline = 240.0",
}


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A consortium of its own: here daemons are killed."""
    with deployment(tmp_path_factory.mktemp("hospitals")) as made:
        made.start_coordinator()
        made.start_sites(*SITES)
        yield made


def begin(hospitals: Deployment, place: Path, name: str) -> Running:
    """A private study that has finished a round, and somebody who watches it."""
    write_patient_study(place, PRIVATE, name=name, changes=PATIENT)
    hospitals.submit(place / "study.toml")
    hospitals.approve(name, *SITES)
    watching = hospitals.watch(name)
    watching.wait_for(lambda: len(watching.lines) >= 1)
    assert watching.lines[-1].get("round", 0) < ROUNDS
    return watching


def assert_each_round_was_paid_once(hospitals: Deployment, name: str) -> None:
    digests = {
        study["name"]: study["digest"]
        for study in hospitals.at_coordinator("study", "list")["studies"]
    }
    for site in SITES:
        events = hospitals.events(hospitals.site(site))
        spent = [e for e in events if e["action"] == "privacy.spent"]
        rounds = [event["round"] for event in spent if event["study"] == digests[name]]
        assert rounds == list(range(1, ROUNDS + 1))
        (ward,) = hospitals.at_site(site, "budget")["datasets"]
        assert 2.9 < ward["by_study"][name] <= 3.0


def assert_completes(watching: Running, timeout_s: float) -> None:
    try:
        assert watching.wait(timeout_s) == 0, (watching.lines, watching.stderr)
    finally:
        watching.kill_group()
    assert [line["round"] for line in watching.lines[:-1]] == list(range(1, ROUNDS + 1))


@pytest.mark.slow
def test_a_site_killed_amid_a_study_comes_back_and_pays_each_round_once(
    hospitals: Deployment, tmp_path: Path
) -> None:
    watching = begin(hospitals, tmp_path, "site-killed")
    hospitals.daemons["c"].kill_group()
    hospitals.start_site("c").wait_state("online")
    assert_completes(watching, 240.0)
    assert_each_round_was_paid_once(hospitals, "site-killed")


def test_a_superlink_killed_amid_a_study_is_started_again_and_the_study_completes(
    hospitals: Deployment, tmp_path: Path
) -> None:
    watching = begin(hospitals, tmp_path, "superlink-killed")
    os.kill(superlink_of(hospitals), signal.SIGKILL)
    assert_completes(watching, 120.0)
    assert_each_round_was_paid_once(hospitals, "superlink-killed")


def test_a_coordinator_killed_amid_a_study_goes_on_from_its_checkpoint(
    hospitals: Deployment, tmp_path: Path
) -> None:
    watching = begin(hospitals, tmp_path, "coordinator-killed")
    hospitals.daemons["coordinator"].kill_group()
    assert watching.wait(20) == 5
    assert "the coordinator is not running" in watching.stderr
    hospitals.start_coordinator()
    assert_completes(hospitals.watch("coordinator-killed"), 120.0)
    assert_each_round_was_paid_once(hospitals, "coordinator-killed")
    events = hospitals.events(hospitals.coordinator)
    assert "run.resumed" in [event["action"] for event in events]


def test_a_stopped_study_ends_as_stopped_and_the_sites_are_told(
    hospitals: Deployment, tmp_path: Path
) -> None:
    watching = begin(hospitals, tmp_path, "stopped")
    hospitals.at_coordinator("study", "stop", "stopped")
    try:
        assert watching.wait(20) == 1
    finally:
        watching.kill_group()
    assert watching.lines[-1]["state"] == "stopped"
    assert watching.lines[-1]["cause"].startswith("stopped by ")
    again = hospitals.at_coordinator("study", "stop", "stopped")
    assert again["state"] == "stopped"
    for site in SITES:
        known = {s["name"]: s for s in hospitals.at_site(site, "studies")["studies"]}
        assert (known["stopped"]["state"], known["stopped"]["note"]) == ("ended", "stopped")


def superlink_of(hospitals: Deployment) -> int:
    """The process id of the coordinator's only child."""
    coordinator = hospitals.daemons["coordinator"].process.pid
    children = Path(f"/proc/{coordinator}/task/{coordinator}/children").read_text().split()
    found = {
        int(child)
        for child in children
        if b"superlink_process" in Path(f"/proc/{child}/cmdline").read_bytes()
    }
    (only,) = found
    return only


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
        (JOINING, False),
        pytest.param(JOINING, True, marks=pytest.mark.slow),
        (ROUND, True),
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
    assert_nothing_runs(tmp_path, within_s=10.0)
