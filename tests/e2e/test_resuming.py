"""Studies that ended too soon go on, without a site too; who was away is told; others wait."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.deployment import Deployment, Running, deployment, write_patient_study
from tests.federation import PRIVATE

SITES = ("a", "b", "c")
ROUNDS = 6
ALL = {"rounds = 4": f"rounds = {ROUNDS}", "min_sites = 2": "min_sites = 3"}


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A consortium of its own, in which one study trains at a time."""
    with deployment(tmp_path_factory.mktemp("hospitals")) as made:
        made.start_coordinator("studies_at_once = 1\n")
        made.start_sites(*SITES)
        yield made


def begin(hospitals: Deployment, place: Path, name: str, rounds: int = ROUNDS) -> Running:
    """A private study that has finished a round."""
    place.mkdir(exist_ok=True)
    changes = {**ALL, "rounds = 4": f"rounds = {rounds}"}
    write_patient_study(place, PRIVATE, name=name, changes=changes)
    hospitals.submit(place / "study.toml")
    hospitals.approve(name, *SITES)
    watching = hospitals.watch(name)
    watching.wait_for(lambda: len(watching.lines) >= 1)
    return watching


def stopped(hospitals: Deployment, watching: Running, name: str) -> dict[str, Any]:
    """Stop it; what `watch` said last."""
    hospitals.at_coordinator("study", "stop", name)
    try:
        assert watching.wait(20) == 1
    finally:
        watching.kill_group()
    return watching.lines[-1]


def paid(hospitals: Deployment, site: str, study: str) -> list[int]:
    listed = hospitals.at_coordinator("study", "list")["studies"]
    (digest,) = {known["digest"] for known in listed if known["name"] == study}
    events = hospitals.events(hospitals.site(site))
    spent = [event for event in events if event["action"] == "privacy.spent"]
    return [event["round"] for event in spent if event["study"] == digest]


def test_a_stopped_study_is_resumed_where_it_was_and_pays_each_round_once(
    hospitals: Deployment, tmp_path: Path
) -> None:
    last = stopped(hospitals, begin(hospitals, tmp_path, "resumed"), "resumed")
    assert last["next_step"].endswith("cohortium study resume resumed")
    for site in SITES:
        hospitals.wait_told(site, "resumed", "stopped")
    resumed = hospitals.at_coordinator("study", "resume", "resumed")
    assert resumed["state"] == "submitted"
    result = hospitals.finish("resumed")
    assert (result.code, result.lines[-1]["state"]) == (0, "completed")
    for site in SITES:
        assert paid(hospitals, site, "resumed") == list(range(1, ROUNDS + 1))
    assert "nothing to resume" in hospitals.fails(
        2, "study", "resume", "resumed", "--dir", hospitals.coordinator
    )


@pytest.mark.slow
def test_a_site_withdraws_and_the_others_train_again_without_it(
    hospitals: Deployment, tmp_path: Path
) -> None:
    watching = begin(hospitals, tmp_path, "whole")
    watching.wait_for(lambda: len(watching.lines) >= 3)
    stopped(hospitals, watching, "whole")
    again = ("study", "resume", "whole", "--without", "c", "--from-round", "3")
    made = hospitals.at_coordinator(*again)
    assert made["study"] == "whole-without-c"
    assert made["used_in_rounds"][:3] == [1, 2, 3]
    assert made["rounds"] == ROUNDS - 2
    hospitals.approve("whole-without-c", "a", "b")
    result = hospitals.finish("whole-without-c")
    assert result.code == 0, result
    assert all(sorted(line["replied"]) == ["a", "b"] for line in result.lines[:-1])
    known = {study["name"] for study in hospitals.at_site("c", "studies")["studies"]}
    assert "whole-without-c" not in known
    sheet = hospitals.at_site("a", "review", "whole-without-c")["sheet"]
    assert f"{ROUNDS - 2} rounds, from round 2 of whole" in sheet
    withdrawn = [
        event
        for event in hospitals.events(hospitals.coordinator)
        if event["action"] == "model.withdrawn"
    ]
    assert [event["detail"]["sites"] for event in withdrawn] == ["c"]


@pytest.mark.slow
def test_a_site_that_was_away_when_a_study_ended_is_told_when_it_is_back(
    hospitals: Deployment, tmp_path: Path
) -> None:
    watching = begin(hospitals, tmp_path, "farewell")
    hospitals.daemons["c"].kill_group()
    stopped(hospitals, watching, "farewell")
    for site in ("a", "b"):
        hospitals.wait_told(site, "farewell", "stopped")
    known = {s["name"]: s["state"] for s in hospitals.at_site("c", "studies")["studies"]}
    assert known["farewell"] == "approved"
    hospitals.start_site("c").wait_state("online")
    hospitals.wait_told("c", "farewell", "stopped")


@pytest.mark.slow
def test_where_one_study_may_train_at_a_time_the_next_waits_and_says_for_whom(
    hospitals: Deployment, tmp_path: Path
) -> None:
    first = begin(hospitals, tmp_path / "first", "first", rounds=60)
    try:
        write_patient_study(tmp_path, PRIVATE, name="second", changes=ALL)
        hospitals.submit(tmp_path / "study.toml")
        hospitals.approve("second", *SITES)

        def waits() -> bool:
            listed = hospitals.at_coordinator("study", "list")["studies"]
            said = {study["name"]: study["progress"] for study in listed}
            return bool(said["second"] == "queued: first must end first")

        first.wait_for(waits)
        stopped(hospitals, first, "first")
    finally:
        first.kill_group()
    assert hospitals.finish("second").code == 0
