"""A site, its training or its person goes away: it is asked again, named, or done without."""

import os
import signal
from pathlib import Path

import pytest
from tests.e2e.deployment import APPROVER, Deployment
from tests.e2e.faults.trouble import (
    SITES,
    Run,
    assert_paid_once,
    begin,
    freeze,
    kill,
    let_in,
    log_of,
    online,
    thaw,
    until,
)

ASK_A_PERSON = {"epsilon = 0.5": "epsilon = 2.0"}  # more than the sites' rule allows


def test_site_killed_while_it_trains(hospitals: Deployment, tmp_path: Path) -> None:
    run = begin(hospitals, tmp_path, "site-training", min_sites=3)
    with run.held("c"):
        kill(hospitals, "c")
        hospitals.start_site("c")
    run.completes()
    assert_paid_once(run, rounds=4)


@pytest.mark.slow
def test_site_killed_as_soon_as_it_has_paid(hospitals: Deployment, tmp_path: Path) -> None:
    """Its update may be on the way or not: it is kept, and is the one that counts."""
    run = begin(hospitals, tmp_path, "site-paid", min_sites=3)
    until(lambda: len(run.paid("b")) == 2)
    kill(hospitals, "b")
    hospitals.start_site("b")
    run.completes()
    assert_paid_once(run, rounds=4)
    assert [event.round for event in run.events("b", "round.update.sent")] == [1, 2, 3, 4]


@pytest.mark.slow
def test_site_killed_while_it_waits_for_approval(hospitals: Deployment, tmp_path: Path) -> None:
    run = begin(hospitals, tmp_path, "site-waiting", min_sites=3, rounds=2, changes=ASK_A_PERSON)
    until(lambda: run.reached("a"))
    kill(hospitals, "a")
    for name in SITES:
        run.sign(name)
    hospitals.start_site("a")
    run.completes()
    assert_paid_once(run, rounds=2)


@pytest.mark.slow
def test_site_ended_by_its_service_manager_while_it_trains(
    hospitals: Deployment, tmp_path: Path
) -> None:
    run = begin(hospitals, tmp_path, "site-ended", min_sites=3)
    with run.held("b"):
        assert hospitals.daemons["b"].end() == 0
        assert run.worker("b") is None
        hospitals.start_site("b").wait_state("online")
    run.completes()
    assert_paid_once(run, rounds=4)


@pytest.mark.slow
def test_training_process_killed_and_started_again(hospitals: Deployment, tmp_path: Path) -> None:
    run = begin(hospitals, tmp_path, "worker-killed", min_sites=3)
    with run.held("c") as worker:
        os.kill(worker, signal.SIGKILL)
    run.completes()
    assert_paid_once(run, rounds=4)
    (refused,) = (e for e in run.events("c", "round.refused") if e.reason == "site.training")
    assert f"{refused.detail['correlation']}: site.training" in log_of(hospitals, "c")


@pytest.mark.slow
def test_training_process_that_hangs_is_named_at_the_deadline(
    hospitals: Deployment, tmp_path: Path
) -> None:
    """What it answers later is too late: it is not in the round, and the next one has it again."""
    run = begin(hospitals, tmp_path, "worker-hangs", rounds=6, round_deadline="8.0")
    with run.held("c"):
        number = len(run.rounds) + 1
        run.wait_round(number)
    run.completes()
    late = run.rounds[number - 1]
    assert late.missing == ("c",)
    assert sorted(late.replied) == ["a", "b"]
    assert "c" not in late.spent
    assert "c" in run.rounds[-1].replied
    assert len(set(run.paid("c"))) == len(run.paid("c"))


@pytest.mark.slow
def test_site_that_answers_tcp_and_nothing_else_is_named_at_the_deadline(
    hospitals: Deployment, tmp_path: Path
) -> None:
    run = begin(hospitals, tmp_path, "site-wedged", rounds=4, round_deadline="8.0")
    with run.held("b"):
        freeze(hospitals, "b")
        number = len(run.rounds) + 1
    try:
        run.wait_round(number)
        assert run.rounds[number - 1].missing == ("b",)
    finally:
        thaw(hospitals, "b")
    run.completes()
    assert sorted(run.rounds[-1].replied) == [*SITES]


@pytest.mark.slow
def test_study_that_waits_for_every_site_waits(hospitals: Deployment, tmp_path: Path) -> None:
    run = begin(hospitals, tmp_path, "waits", round_deadline="6.0", on_missing="wait")
    with run.held("a"):
        freeze(hospitals, "a")
        number = len(run.rounds)
    try:
        until(lambda: "a" not in online(hospitals))
        assert len(run.rounds) == number
        assert run.row.progress.endswith("waiting for a")
    finally:
        thaw(hospitals, "a")
    run.completes()
    assert_paid_once(run, rounds=4)


@pytest.mark.slow
def test_study_that_stops_for_every_missing_site_says_who(
    hospitals: Deployment, tmp_path: Path
) -> None:
    run = begin(hospitals, tmp_path, "stops", round_deadline="6.0", on_missing="stop")
    with run.held("a"):
        row = run.wait_end()
    assert row.state == "failed"
    assert "a site is missing" in row.cause
    assert row.cause.endswith("no reply within 6 s from a")
    assert f"cohortium study resume {run.study.name}" in row.next_step
    run.tells("failed")


@pytest.mark.slow
def test_too_few_sites_end_a_study_with_a_cause_that_names_them(
    hospitals: Deployment, tmp_path: Path
) -> None:
    run = begin(hospitals, tmp_path, "too-few", round_deadline="8.0")
    try:
        with run.held("c"):
            freeze(hospitals, "b", "c")
        watched = hospitals.finish(run.study.name)
    finally:
        thaw(hospitals, "b", "c")
    assert watched.code == 1
    end = watched.lines[-1]
    assert end["state"] == "failed"
    assert "1 of the 2 sites needed replied" in end["cause"]
    assert end["cause"].endswith("no reply within 8 s from b, c")
    run.tells("failed")


@pytest.mark.slow
def test_study_stopped_while_its_sites_are_away(hospitals: Deployment, tmp_path: Path) -> None:
    run = begin(hospitals, tmp_path, "stopped-while-away")
    with run.held("c"):
        freeze(hospitals, "a", "c")
    try:
        hospitals.at_coordinator("study", "stop", run.study.name)
        row = run.wait_end()
        assert (row.state, row.cause.split()[:2]) == ("stopped", ["stopped", "by"])
        assert run.known("a").state == "approved"
    finally:
        thaw(hospitals, "a", "c")
    run.tells("stopped")


@pytest.mark.slow
def test_one_of_two_studies_at_once_fails_and_the_other_does_not_notice(
    hospitals: Deployment, tmp_path: Path
) -> None:
    for name in ("fails", "goes-on"):
        (tmp_path / name).mkdir()
    doomed = begin(hospitals, tmp_path / "fails", "fails", min_sites=3, round_deadline="8.0")
    healthy = begin(hospitals, tmp_path / "goes-on", "goes-on")
    with doomed.held("b"):
        assert doomed.wait_end().state == "failed"
    healthy.completes()
    assert_paid_once(healthy, rounds=4)
    assert all(record.missing == () for record in healthy.rounds)


@pytest.mark.slow
def test_site_paused_amid_a_round_and_resumed(hospitals: Deployment, tmp_path: Path) -> None:
    run = begin(hospitals, tmp_path, "paused", min_sites=3)
    with run.held("b"):
        hospitals.at_site("b", "pause", "--as", APPROVER)
    until(lambda: run.worker("b") is None)
    hospitals.at_site("b", "resume", "--as", APPROVER)
    run.completes()
    assert_paid_once(run, rounds=4)


@pytest.mark.slow
def test_site_started_while_its_old_process_still_holds_the_directory(
    hospitals: Deployment, tmp_path: Path
) -> None:
    run = begin(hospitals, tmp_path, "old-process", min_sites=3)
    with run.held("c"):
        freeze(hospitals, "c")
    up = ("site", "up", "--dir", hospitals.site("c"))
    assert "already runs in" in hospitals.fails(1, *up)
    kill(hospitals, "c")
    hospitals.start_site("c")
    run.completes()
    assert_paid_once(run, rounds=4)


def test_table_that_is_gone_amid_a_study_costs_only_its_site(
    hospitals: Deployment, tmp_path: Path
) -> None:
    run = begin(hospitals, tmp_path, "table-gone", rounds=3)
    table = hospitals.root / "a.csv"
    away = table.with_suffix(".away")
    try:
        with run.held("a"):
            table.rename(away)
        run.completes()
    finally:
        away.rename(table)
    (broken,) = [record for record in run.rounds if "a" in record.refused]
    assert broken.refused["a"].startswith("data.")
    assert str(hospitals.root) not in broken.refused["a"]
    assert sorted(run.rounds[-1].replied) == ["b", "c"]


@pytest.fixture
def outcast(hospitals: Deployment) -> str:
    hospitals.join("d")
    hospitals.add_ward("d")
    let_in(hospitals, "d")
    hospitals.start_site("d").wait_state("online")
    return "d"


@pytest.mark.slow
def test_site_revoked_amid_a_round(hospitals: Deployment, tmp_path: Path, outcast: str) -> None:
    names = {'["a", "b", "c"]': '["a", "b", "d"]'}
    run = begin(hospitals, tmp_path, "revoked", round_deadline="10.0", changes=names)
    with run.held(outcast):
        hospitals.at_coordinator("coordinator", "revoke", outcast)
    assert hospitals.daemons[outcast].wait(60) == 3
    run.completes()
    assert outcast not in run.rounds[-1].replied
    assert_paid_once_by(run, "a", "b")


def assert_paid_once_by(run: Run, *sites: str) -> None:
    for site in sites:
        assert run.paid(site) == list(range(1, run.study.training.rounds + 1))
