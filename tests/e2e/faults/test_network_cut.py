"""The network of some or all sites goes away for a while: they come back by themselves."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.deployment import HOST, Deployment, deployment, each
from tests.e2e.faults.link import Link, links
from tests.e2e.faults.trouble import (
    SITES,
    assert_paid_once,
    begin,
    kill,
    let_in,
    online,
    until,
)
from tests.federation import set_policy

from cohortium.client.config import SiteDir
from cohortium.server.config import CoordinatorDir

Lines = dict[str, Link]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, Lines]]:
    """A consortium whose sites reach the coordinator by a line each."""
    with deployment(tmp_path_factory.mktemp("cables")) as made:
        made.start_coordinator()
        port = CoordinatorDir(made.coordinator).load_config().fleet_port
        with links(SITES, port) as between:
            each(SITES, made.join)
            each(SITES, made.add_ward)
            for name in SITES:
                address = f'"{HOST}:{between[name].port}"'
                set_policy(SiteDir(made.site(name)).config, {"fleet_address": address})
                let_in(made, name)
                made.start_site(name)
            for name in SITES:
                made.daemons[name].wait_state("online")
            yield made, between
            for name in SITES:
                made.daemons[name].process.terminate()


@pytest.fixture
def hospitals(lines: tuple[Deployment, Lines]) -> Iterator[Deployment]:
    """All lines are whole before and after each test."""
    made, between = lines
    until(lambda: online(made) == {*SITES})
    yield made
    for link in between.values():
        link.mend()


@pytest.fixture
def cables(lines: tuple[Deployment, Lines]) -> Lines:
    return lines[1]


def test_network_of_one_site_cut_for_seconds(
    hospitals: Deployment, cables: Lines, tmp_path: Path
) -> None:
    run = begin(hospitals, tmp_path, "cut-for-seconds", min_sites=3)
    with run.held("c"):
        cables["c"].cut()
    until(lambda: run.row.progress.endswith("waiting for c"))
    cables["c"].mend()
    run.completes()
    assert_paid_once(run, rounds=4)


def test_network_of_one_site_cut_past_the_deadline(
    hospitals: Deployment, cables: Lines, tmp_path: Path
) -> None:
    """The round goes on without it; found offline, it comes back and takes part again."""
    run = begin(hospitals, tmp_path, "cut-past-deadline", rounds=10, round_deadline="6.0")
    with run.held("c"):
        cables["c"].cut()
        number = len(run.rounds) + 1
    run.wait_round(number)
    assert run.rounds[number - 1].missing == ("c",)
    until(lambda: "c" not in online(hospitals))
    cables["c"].mend()
    run.completes()
    assert "c" in run.rounds[-1].replied
    assert [event.round for event in run.events("c", "privacy.spent")] == run.paid("c")


def test_network_of_all_sites_cut_until_all_are_offline(
    hospitals: Deployment, cables: Lines, tmp_path: Path
) -> None:
    run = begin(hospitals, tmp_path, "all-cut", min_sites=3)
    with run.held("c"):
        for link in cables.values():
            link.cut()
    until(lambda: not online(hospitals))
    for link in cables.values():
        link.mend()
    run.completes()
    assert_paid_once(run, rounds=4)


def test_connections_broken_in_every_round(
    hospitals: Deployment, cables: Lines, tmp_path: Path
) -> None:
    run = begin(hospitals, tmp_path, "broken", rounds=6, min_sites=3)
    for number in range(1, 6):
        run.wait_round(number)
        for link in cables.values():
            link.reset()
    run.completes()
    assert_paid_once(run, rounds=6)


def test_network_cut_while_sites_are_invited(
    hospitals: Deployment, cables: Lines, tmp_path: Path
) -> None:
    for link in cables.values():
        link.cut()
    run = begin(hospitals, tmp_path, "cut-while-inviting", rounds=2)
    until(lambda: run.row.progress == "waiting for approval: a, b, c")
    for link in cables.values():
        link.mend()
    run.completes()
    assert_paid_once(run, rounds=2)


def test_coordinator_started_again_while_a_site_is_cut_off(
    hospitals: Deployment, cables: Lines, tmp_path: Path
) -> None:
    run = begin(hospitals, tmp_path, "restart-amid-cut", min_sites=3)
    with run.held("b"):
        cables["b"].cut()
    kill(hospitals, "coordinator")
    hospitals.start_coordinator()
    until(lambda: run.row.progress.endswith("waiting for b"))
    cables["b"].mend()
    run.completes()
    assert_paid_once(run, rounds=4)
