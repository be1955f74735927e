"""What a hospital decides holds over TLS, whatever the coordinator asks or is waiting for."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.deployment import APPROVER, UP_S, Deployment, Running, each, write_patient_study
from tests.federation import PLAIN, PRIVATE, set_policy, write_ward

from cohortium.client import halt
from cohortium.client.processes import marker
from cohortium.common.study import Study

SITES = ("a", "b", "c")
SECOND = "Dr. Roth"
CLINIC = {'dataset = "ward"': 'dataset = "clinic"'}
NOBODY_IS_SPARED = {
    "min_sites = 2": "min_sites = 3",
    "round_deadline = 60.0": "round_deadline = 240.0",
}


@pytest.fixture(scope="module")
def clinics(consortium: Deployment, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A dataset of this file's own at each site, with privacy to spend; the path of each table."""
    place = tmp_path_factory.mktemp("clinics")
    tables = {name: write_ward(place / f"{name}.csv", seed=ord(name) + 1) for name in SITES}
    each(SITES, lambda name: consortium.add_data(name, "clinic", tables[name]))
    return tables


def submit(
    consortium: Deployment, place: Path, training: str, name: str, changes: dict[str, str]
) -> Study:
    study = write_patient_study(place, training, name=name, changes={**CLINIC, **changes})
    consortium.submit(place / "study.toml")
    return study


def eventually(condition: Callable[[], bool], timeout_s: float = UP_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def events_of(
    consortium: Deployment, party: str, study: Study, action: str = ""
) -> list[dict[str, Any]]:
    """What a party's verified log says about a study; `party` is a site or the coordinator."""
    place = consortium.site(party) if party in SITES else consortium.coordinator
    ours = [event for event in consortium.events(place) if event.get("study") == study.digest]
    return [event for event in ours if action in ("", event["action"])]


def approved_by(consortium: Deployment, study: Study) -> dict[str, str]:
    """Who approved at which site, as the coordinator heard it."""
    heard = events_of(consortium, "coordinator", study, "study.approved")
    return {event["detail"]["site"]: event["detail"]["person"] for event in heard}


def progress(consortium: Deployment, study: Study) -> str:
    listed = consortium.at_coordinator("study", "list")["studies"]
    return str(next(item["progress"] for item in listed if item["digest"] == study.digest))


def wait_until_here(consortium: Deployment, site: str, study: Study) -> None:
    """Until the invitation has reached a site."""

    def known() -> set[str]:
        return {item["digest"] for item in consortium.at_site(site, "studies")["studies"]}

    eventually(lambda: study.digest in known())


def wait_for_training(consortium: Deployment, site: str, study: Study) -> int:
    """The process group in which a site trains a study now, begun but far from its end."""
    eventually(lambda: "training" in progress(consortium, study))
    time.sleep(1.0)
    return worker_at(consortium, site, study)


def worker_at(consortium: Deployment, site: str, study: Study) -> int:
    """The training process of a study; it leads its own process group."""
    pid = halt.running(marker(consortium.site(site), study.digest))
    assert pid is not None
    return pid


def alive_in_group(group: int) -> list[str]:
    """The processes of a group that still run, as /proc has them; zombies do not."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it has ended
        if int(pgrp) == group and state not in "ZX":
            found.append(stat.parent.name)
    return found


def stop_at(consortium: Deployment, site: str, study: Study, group: int) -> None:
    """The kill switch by the command line: nothing runs once it returns, and it is on record."""
    assert alive_in_group(group)
    stopped = consortium.at_site(site, "stop", study.name, "--as", APPROVER)
    assert alive_in_group(group) == []
    assert stopped["processes"] == 1
    assert stopped["seconds"] < 5
    (event,) = events_of(consortium, site, study, "run.stopped")
    assert (event["id"], event["detail"]["by"]) == (stopped["event"], APPROVER)
    known = {item["digest"]: item for item in consortium.at_site(site, "studies")["studies"]}
    assert known[study.digest]["state"] == "stopped"
    eventually(lambda: not (consortium.site(site) / "scratch" / study.digest[:16]).exists(), 5)


def assert_completes(watching: Running) -> list[dict[str, Any]]:
    """Wait for the end; the rounds that were watched."""
    try:
        assert watching.wait(120) == 0, (watching.lines, watching.stderr)
    finally:
        watching.kill_group()
    return watching.lines[:-1]


@pytest.mark.slow
def test_a_run_reaches_only_the_sites_that_it_names_and_that_approved_it(
    consortium: Deployment, clinics: dict[str, Path], tmp_path: Path
) -> None:
    """c is online all the time: one study does not name it, the other one it has rejected."""
    one_round = {"rounds = 4": "rounds = 1"}
    log = consortium.site("c") / "site.log"
    before = log.read_text()
    pair = {**one_round, '["a", "b", "c"]': '["a", "b"]'}
    unnamed = submit(consortium, tmp_path, PRIVATE, "unnamed", pair)
    unwanted = submit(consortium, tmp_path, PRIVATE, "unwanted", one_round)
    wait_until_here(consortium, "c", unwanted)
    consortium.at_site("c", "reject", "unwanted", "--as", APPROVER)
    consortium.approve("unnamed", "a", "b")
    consortium.approve("unwanted", "a", "b")
    for study in (unnamed, unwanted):
        finished = consortium.finish(study.name)
        assert finished.code == 0, finished
        assert sorted(finished.lines[0]["replied"]) == ["a", "b"]

    assert "c" in consortium.at_coordinator("coordinator", "status")["sites_online"]
    assert events_of(consortium, "c", unnamed) == []
    at_c = events_of(consortium, "c", unwanted)
    assert {event["action"] for event in at_c} == {"study.rejected", "round.refused"}
    refusals = [event["detail"] for event in at_c if event["action"] == "round.refused"]
    assert {detail["kind"] for detail in refusals} == {"invite"}
    said = [one for one in log.read_text().removeprefix(before).splitlines() if " ERROR " in one]
    assert said
    assert all(any(detail["correlation"] in line for detail in refusals) for line in said)
    accounts = consortium.at_site("c", "budget")["datasets"]
    (clinic,) = (account for account in accounts if account["dataset"] == "clinic")
    assert {"unnamed", "unwanted"}.isdisjoint(clinic["by_study"])


def test_site_stop_ends_a_training_of_hours_and_the_coordinator_is_told(
    consortium: Deployment, clinics: dict[str, Path], tmp_path: Path
) -> None:
    endless = {
        "local_steps = 10": "local_steps = 100000000",
        '["a", "b", "c"]': '["a"]',
        "min_sites = 2": "min_sites = 1",
    }
    study = submit(consortium, tmp_path, PLAIN, "endless", endless)
    consortium.approve("endless", "a")
    group = wait_for_training(consortium, "a", study)
    stop_at(consortium, "a", study, group)
    finished = consortium.finish("endless")
    assert (finished.code, finished.document["state"]) == (1, "failed")
    assert f"a refused (study.stopped: stopped by {APPROVER} [" in finished.document["cause"]
    assert events_of(consortium, "a", study, "round.update.sent") == []


@pytest.mark.slow
def test_site_stop_ends_a_process_that_hangs_and_the_others_go_on(
    consortium: Deployment, clinics: dict[str, Path], tmp_path: Path
) -> None:
    study = submit(consortium, tmp_path, PLAIN, "hangs", {})
    consortium.approve("hangs", "a")
    eventually(lambda: "a" in approved_by(consortium, study))
    os.kill(worker_at(consortium, "a", study), signal.SIGSTOP)  # it reacts to nothing from here on
    consortium.approve("hangs", "b", "c")
    watching = consortium.watch("hangs")
    stop_at(consortium, "a", study, wait_for_training(consortium, "a", study))
    rounds = assert_completes(watching)
    assert [sorted(line["replied"]) for line in rounds] == [["b", "c"]] * 4
    assert rounds[0]["refused"]["a"].startswith(f"study.stopped: stopped by {APPROVER} [")
    assert all(line["refused"] == {} for line in rounds[1:])  # a is not asked again
    (dropped,) = events_of(consortium, "coordinator", study, "node.dropped")
    assert (dropped["reason"], dropped["detail"]["site"]) == ("study.stopped", "a")


@pytest.mark.slow
def test_a_site_that_paused_and_resumed_pays_each_round_once(
    consortium: Deployment, clinics: dict[str, Path], tmp_path: Path
) -> None:
    rounds = 8
    study = submit(
        consortium,
        tmp_path,
        PRIVATE,
        "paused",
        {"rounds = 4": f"rounds = {rounds}", **NOBODY_IS_SPARED},
    )
    consortium.approve("paused", *SITES)
    watching = consortium.watch("paused")
    watching.wait_for(lambda: len(watching.lines) >= 1)
    os.kill(worker_at(consortium, "a", study), signal.SIGSTOP)  # so that the pause is amid a round
    time.sleep(2.0)
    assert (before := len(watching.lines)) < rounds
    paused = consortium.at_site("a", "pause", "--as", APPROVER)
    try:
        assert paused["processes"] == 1
        assert consortium.at_site("a", "status")["state"] == "online, paused"
        time.sleep(2.0)
        assert len(watching.lines) == before
        assert halt.running(marker(consortium.site("a"), study.digest)) is None
    finally:
        consortium.at_site("a", "resume", "--as", APPROVER)
    assert [line["round"] for line in assert_completes(watching)] == list(range(1, rounds + 1))
    spent: dict[str, list[int]] = {}

    def look(name: str) -> None:
        paid = events_of(consortium, name, study, "privacy.spent")
        spent[name] = [event["round"] for event in paid]

    each(SITES, look)
    assert spent == {name: list(range(1, rounds + 1)) for name in SITES}
    accounts = consortium.at_site("a", "budget")["datasets"]
    (clinic,) = (account for account in accounts if account["dataset"] == "clinic")
    assert 2.9 < clinic["by_study"]["paused"] <= 3.0
    actions = [event["action"] for event in consortium.events(consortium.site("a"))]
    assert actions.index("run.paused") < actions.index("run.resumed")


@pytest.mark.slow
def test_a_table_that_changes_amid_a_study_is_not_used_until_a_person_approves_again(
    consortium: Deployment, clinics: dict[str, Path], tmp_path: Path
) -> None:
    """c is held still where the study must not go on meanwhile."""
    study = submit(consortium, tmp_path, PLAIN, "changes", {"rounds = 4": "rounds = 16"})
    consortium.approve("changes", *SITES)
    watching = consortium.watch("changes")
    watching.wait_for(lambda: len(watching.lines) >= 1)
    holding = consortium.daemons["c"].process
    with clinics["a"].open("a") as table:
        table.write("50,1,3.5,1\n")
    watching.wait_for(lambda: "a" in watching.lines[-1]["refused"])
    holding.send_signal(signal.SIGSTOP)
    try:
        consortium.approve("changes", "a")
    finally:
        holding.send_signal(signal.SIGCONT)
    rounds = assert_completes(watching)
    without = [line for line in rounds if "a" not in line["replied"]]
    assert all(line["refused"]["a"].startswith("approval.data: ") for line in without)
    assert all({"b", "c"} <= set(line["replied"]) for line in rounds)
    assert "a" in rounds[0]["replied"]
    assert "a" in rounds[-1]["replied"]
    assert len(events_of(consortium, "a", study, "study.approved")) == 2


def test_review_of_a_second_study_says_what_changed(
    consortium: Deployment, clinics: dict[str, Path], tmp_path: Path
) -> None:
    only_b = {'["a", "b", "c"]': '["b"]', "min_sites = 2": "min_sites = 1"}
    submit(consortium, tmp_path, PRIVATE, "version-1", only_b)
    consortium.approve("version-1", "b")
    more = {
        '["age", "sex", "marker"]': '["age", "sex"]',
        "rounds = 4": "rounds = 6",
        "epsilon = 3.0": "epsilon = 2.0",
    }
    second = submit(consortium, tmp_path, PRIVATE, "version-2", {**only_b, **more})
    wait_until_here(consortium, "b", second)
    sheet = consortium.at_site("b", "review", "version-2")["sheet"]
    (changes,) = (line for line in sheet.splitlines() if line.startswith("Changes"))
    for part in ("against version-1", "-1 column (marker)", "epsilon 3 -> 2", "rounds 4 -> 6"):
        assert part in changes
    consortium.at_coordinator("study", "stop", "version-2")
    assert consortium.finish("version-1").code == 0


@pytest.mark.slow
def test_where_two_persons_must_approve_one_is_not_enough(
    consortium: Deployment, clinics: dict[str, Path], tmp_path: Path
) -> None:
    config = consortium.site("c") / "site.toml"
    before = config.read_text()
    set_policy(config, {"approvals_needed": "2"})
    roles = {APPROVER: "approver", SECOND: "approver", "Admin": "operator"}
    people = "".join(f'"{name}" = "{role}"\n' for name, role in roles.items())
    config.write_text(f"{config.read_text()}\n[people]\n{people}")
    try:
        study = submit(consortium, tmp_path, PLAIN, "two-persons", {"rounds = 4": "rounds = 1"})
        consortium.approve("two-persons", "c")
        consortium.approve("two-persons", "a", "b")
        eventually(lambda: {"a", "b"} <= set(approved_by(consortium, study)))
        assert "c" not in approved_by(consortium, study)  # it was asked together with a and b
        sign = ("site", "approve", "two-persons", "--dir", consortium.site("c"), "--as")
        refused = consortium.run(*sign, "Admin")
        assert refused.code == 4
        assert refused.document["error"].startswith("people.approver: ")
        consortium.ok(*sign, SECOND)
        assert consortium.finish("two-persons").lines[0]["replied"].count("c") == 1
        assert approved_by(consortium, study)["c"].split(", ") == [SECOND, APPROVER]
    finally:
        config.write_text(before)
