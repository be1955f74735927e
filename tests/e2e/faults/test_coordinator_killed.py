"""The coordinator or its SuperLink dies: the study goes on, and no round is paid twice."""

import os
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from tests.e2e.deployment import HOST, Deployment
from tests.e2e.faults.trouble import (
    SITES,
    Run,
    assert_paid_once,
    begin,
    freeze,
    kill,
    kill_superlink,
    log_of,
    superlink_of,
    superlinks_of,
    thaw,
    until,
)
from tests.federation import PLAIN, approve, federate

from cohortium.common import arrays
from cohortium.common.layout import table_layout
from cohortium.common.models.building import build_seeded
from cohortium.server.config import CoordinatorDir
from cohortium.server.coordinator import run_study

ASK_A_PERSON = {"epsilon = 0.5": "epsilon = 2.0"}  # more than the sites' rule allows


@pytest.mark.slow
def test_superlink_killed_while_a_round_is_trained(hospitals: Deployment, tmp_path: Path) -> None:
    run = begin(hospitals, tmp_path, "superlink-amid-round")
    with run.held("c"):
        kill_superlink(hospitals)
    run.completes()
    assert_paid_once(run, rounds=4)
    assert "starting it again" in log_of(hospitals, "coordinator")


@pytest.mark.slow
def test_superlink_killed_while_idle(hospitals: Deployment, tmp_path: Path) -> None:
    first = superlink_of(hospitals)
    os.kill(first, signal.SIGKILL)
    run = begin(hospitals, tmp_path, "superlink-idle", rounds=2)
    run.completes()
    assert_paid_once(run, rounds=2)
    assert superlink_of(hospitals) != first


@pytest.mark.slow
def test_superlink_killed_twice_in_one_study(hospitals: Deployment, tmp_path: Path) -> None:
    run = begin(hospitals, tmp_path, "superlink-twice", rounds=6)
    for number in (1, 3):
        run.wait_round(number)
        kill_superlink(hospitals)
    run.completes()
    assert_paid_once(run, rounds=6)


@pytest.mark.slow
def test_superlink_that_hangs(hospitals: Deployment, tmp_path: Path) -> None:
    """It answers TCP and nothing else: it is replaced."""
    run = begin(hospitals, tmp_path, "superlink-hangs", round_deadline="300.0")
    with run.held("c"):
        hanging = superlink_of(hospitals)
        os.kill(hanging, signal.SIGSTOP)
    until(lambda: superlinks_of(hospitals) not in ([], [hanging]))
    run.completes()
    assert_paid_once(run, rounds=4)


def test_coordinator_killed_while_sites_train(hospitals: Deployment, tmp_path: Path) -> None:
    run = begin(hospitals, tmp_path, "killed-while-training")
    run.wait_round(1)
    with run.held("c"):
        kill(hospitals, "coordinator")
        watched = hospitals.run("study", "watch", run.study.name, "--dir", hospitals.coordinator)
        assert watched.code == 5
        hospitals.start_coordinator()
    run.completes()
    assert_paid_once(run, rounds=4)
    assert len(run.events("coordinator", "run.resumed")) == 1


@pytest.mark.slow
def test_coordinator_killed_while_inviting(hospitals: Deployment, tmp_path: Path) -> None:
    run = begin(hospitals, tmp_path, "killed-while-inviting", changes=ASK_A_PERSON)
    until(lambda: all(run.reached(name) for name in SITES))
    assert run.row.progress == "waiting for approval: a, b, c"
    kill(hospitals, "coordinator")
    for name in SITES:
        run.sign(name)
    hospitals.start_coordinator()
    run.completes()
    assert_paid_once(run, rounds=4)


@pytest.mark.slow
def test_coordinator_killed_while_evaluating(hospitals: Deployment, tmp_path: Path) -> None:
    run = begin(hospitals, tmp_path, "killed-while-evaluating", rounds=1)
    with run.held("c", "evaluating"):
        kill(hospitals, "coordinator")
        hospitals.start_coordinator()
    run.completes()
    assert_paid_once(run, rounds=1)
    (only,) = run.rounds
    assert only.evaluations.keys() == {*SITES}


@pytest.mark.slow
def test_coordinator_killed_between_the_end_and_the_farewell(
    hospitals: Deployment, tmp_path: Path
) -> None:
    """c is away when the study ends, and so is the coordinator when c comes back."""
    run = begin(hospitals, tmp_path, "killed-before-farewell", rounds=2, round_deadline="8.0")
    with run.held("c"):
        freeze(hospitals, "c")
    assert run.wait_end().state == "completed"
    kill(hospitals, "coordinator")
    assert run.known("c").state == "approved"
    hospitals.start_coordinator()
    thaw(hospitals, "c")
    run.tells("completed")
    report = CoordinatorDir(hospitals.coordinator).study(run.study.name, run.digest)
    until((report / "report.html").exists)
    hospitals.export(run.study.name, tmp_path / "model")


@pytest.mark.slow
def test_everything_killed_at_once_as_by_a_power_cut(hospitals: Deployment, tmp_path: Path) -> None:
    """And without noise the model is the one of a study that nothing happened to."""
    run = begin(hospitals, tmp_path, "power-cut", training=PLAIN)
    for name in SITES:
        run.sign(name)
    with run.held("c"):
        kill(hospitals, "coordinator", *SITES)
    hospitals.start_coordinator()
    for name in SITES:
        hospitals.start_site(name)
    run.completes()
    found = final_model(hospitals, run, tmp_path / "model")
    assert found.tolist() == undisturbed(run, tmp_path / "calm").tolist()


@pytest.mark.slow
def test_port_of_the_coordinator_taken_when_it_is_started_again(
    hospitals: Deployment, tmp_path: Path
) -> None:
    run = begin(hospitals, tmp_path, "port-taken")
    port = CoordinatorDir(hospitals.coordinator).load_config().fleet_port
    with run.held("c"):
        kill(hospitals, "coordinator")
        with until(lambda: listen(port)):
            up = ("coordinator", "up", "--dir", hospitals.coordinator)
            said = hospitals.fails(5, *up)
        assert str(port) in said
        assert "in use" in said
        hospitals.start_coordinator()
    run.completes()
    assert_paid_once(run, rounds=4)


@pytest.mark.slow
def test_a_second_coordinator_on_one_directory_disturbs_nobody(
    hospitals: Deployment, tmp_path: Path
) -> None:
    run = begin(hospitals, tmp_path, "second-coordinator")
    with run.held("c"):
        up = ("coordinator", "up", "--dir", hospitals.coordinator)
        assert "already runs in" in hospitals.fails(1, *up)
    run.completes()
    assert_paid_once(run, rounds=4)


def listen(port: int) -> socket.socket | None:
    """As another program would, as soon as the port is free."""
    try:
        return socket.create_server((HOST, port))
    except OSError:
        return None


def final_model(hospitals: Deployment, run: Run, out: Path) -> np.ndarray:
    module = build_seeded(run.study.model, table_layout(3), 1, 0)
    module.load_state_dict(load_file(hospitals.export(run.study.name, out)))
    return arrays.flatten(module)


def undisturbed(run: Run, place: Path) -> np.ndarray:
    """The same study of the same patients in one process."""
    place.mkdir()
    federation = federate(place, policy={"allow_unprotected": "true"})
    for site in federation.sites.values():
        approve(site, run.study)
    return run_study(run.study, federation.desk(run.study))
