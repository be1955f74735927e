"""An incident with real daemons: all stands still within seconds, and what stood still goes on."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.deployment import Deployment, deployment, write_patient_study
from tests.federation import PLAIN

pytestmark = pytest.mark.slow

WHO = ("--as", "Dr. Weiss", "--reason", "a laptop was stolen")
SITES = ("a", "b")
LONG = {
    'names = ["a", "b", "c"]': 'names = ["a", "b"]',
    "rounds = 4": "rounds = 40",
    "local_steps = 10": "local_steps = 200",
}


def state(consortium: Deployment, study: str) -> dict[str, Any]:
    listed = consortium.at_coordinator("study", "list")["studies"]
    return next(item for item in listed if item["name"] == study)


def rounds_of(consortium: Deployment, site: str) -> int:
    sent = [
        e for e in consortium.events(consortium.site(site)) if e["action"] == "round.update.sent"
    ]
    return len(sent)


def eventually(condition: Any, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_an_incident_freezes_a_running_study_and_a_shut_out_site_comes_back(
    tmp_path: Path,
) -> None:
    with deployment(tmp_path) as made:
        made.start_coordinator()
        made.start_sites(*SITES)
        study = write_patient_study(tmp_path, PLAIN, name="long", changes=LONG).name
        made.submit(tmp_path / "study.toml")
        made.approve(study, *SITES)
        eventually(lambda: rounds_of(made, "a") >= 2)

        said = made.at_coordinator("coordinator", "incident", *WHO, "--sites", "a")
        assert (said["running"], said["studies"]) == ([], ["long"])
        assert said["seconds"] < 5
        assert state(made, study)["state"] == "stopped"
        eventually(lambda: made.daemons["a"].process.poll() == 3)  # shut out

        made.daemons["coordinator"].end(signal.SIGKILL)
        made.start_coordinator()
        frozen = made.fails(4, "study", "resume", study, "--dir", made.coordinator)
        assert frozen.startswith("incident.frozen")
        made.at_coordinator("coordinator", "incident", "--lift", *WHO)

        before = rounds_of(made, "a")
        made.at_site("a", "incident", *WHO)
        assert made.fails(3, "site", "up", "--dir", made.site("a"))
        made.at_site("a", "incident", "--lift", *WHO)
        again = tmp_path / "again.invite"
        made.at_coordinator("coordinator", "invite", "a", "--replace", "--out", again)
        made.at_site("a", "join", again, "--rejoin")
        made.start_site("a").wait_state("online")

        made.at_coordinator("study", "resume", study)
        made.approve(study, "a")
        eventually(lambda: rounds_of(made, "a") > before)
        assert state(made, study)["state"] == "running"


def test_an_incident_at_a_site_ends_its_training_and_the_others_go_on(tmp_path: Path) -> None:
    with deployment(tmp_path) as made:
        made.start_coordinator()
        made.start_sites(*SITES)
        short = {"min_sites = 2": "min_sites = 1", "round_deadline = 60.0": "round_deadline = 5.0"}
        changes = {**LONG, **short}
        study = write_patient_study(tmp_path, PLAIN, name="long", changes=changes).name
        made.submit(tmp_path / "study.toml")
        made.approve(study, *SITES)
        eventually(lambda: rounds_of(made, "a") >= 2)
        said = made.at_site("a", "incident", *WHO)
        assert said["seconds"] < 5
        assert said["processes"] == 1
        stopped, others = rounds_of(made, "a"), rounds_of(made, "b")
        eventually(lambda: rounds_of(made, "b") > others + 2)
        assert rounds_of(made, "a") == stopped
        text = Path(said["draft"]).read_text()
        assert f"| long | a | model update | {stopped} |" in text
        assert "| a | ward | 200-499 |" in text or "| a | ward | 100-199 |" in text
