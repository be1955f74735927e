"""Bytes through a real SuperLink: lost, repeated, refused, cut off and killed."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from tests.transport import (
    Federation,
    NodeThread,
    federation,
    free_port,
    make_tls,
    node_process,
    wait_for,
)

from cohortium.client import node
from cohortium.client.fleet import Fleet
from cohortium.client.line import FleetConnection, Line
from cohortium.common import identity, timeouts
from cohortium.common.errors import IdentityError, UnreachableError
from cohortium.common.parcel import Chunks
from cohortium.server.flower_sites import FlowerSites
from cohortium.server.superlink import SuperLink


def echo(request: bytes) -> bytes:
    return b"re:" + request


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Two sites that answer; tests that break something make their own federation."""
    with federation(tmp_path_factory.mktemp("pair")) as made:
        made.add("north", echo)
        made.add("south", echo)
        yield made


@pytest.fixture
def sites(pair: Federation) -> Iterator[FlowerSites]:
    made = FlowerSites(pair.superlink, pair.node_ids)
    yield made
    made.close(completed=True)


def test_each_site_gets_its_own_request_and_answers_for_itself(sites: FlowerSites) -> None:
    replies = dict(sites.ask({"north": b"n\0", "south": b"s"}, b"", deadline_s=20))
    assert replies == {"north": b"re:n\0", "south": b"re:s"}
    assert sites.failures == {}


def test_an_identical_request_is_delivered_again(sites: FlowerSites) -> None:
    for _ in range(3):
        assert dict(sites.ask({"north": b"same"}, b"", deadline_s=20)) == {"north": b"re:same"}


def test_an_empty_request_and_no_request_at_all_end_well(sites: FlowerSites) -> None:
    assert dict(sites.ask({}, b"", deadline_s=20)) == {}
    assert dict(sites.ask({"north": b""}, b"", deadline_s=20)) == {"north": b"re:"}


def test_a_large_model_arrives_whole(sites: FlowerSites) -> None:
    model = os.urandom(6_000_000)  # more than one of Flower's 5 MB array chunks
    assert dict(sites.ask({"south": model}, b"", deadline_s=60)) == {"south": b"re:" + model}


def test_two_studies_at_once_do_not_take_each_others_replies(pair: Federation) -> None:
    replies: dict[bytes, list[dict[str, bytes]]] = {b"one": [], b"two": []}

    def study(payload: bytes) -> None:
        sites = FlowerSites(pair.superlink, pair.node_ids)
        for _ in range(3):
            replies[payload].append(
                dict(sites.ask({"north": payload, "south": payload}, b"", deadline_s=30))
            )
        sites.close(completed=True)

    threads = [threading.Thread(target=study, args=(payload,)) for payload in replies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for payload, rounds in replies.items():
        assert rounds == [{"north": b"re:" + payload, "south": b"re:" + payload}] * 3


def test_a_stopped_run_is_an_error_and_not_silence(pair: Federation) -> None:
    sites = FlowerSites(pair.superlink, pair.node_ids)
    pair.superlink.stop_run(sites.run_id)
    with pytest.raises(UnreachableError, match="stopped"):
        list(sites.ask({"north": b"x"}, b"", deadline_s=20))
    sites.close(completed=False)
    assert dict(_ask(pair, {"north": b"next"})) == {"north": b"re:next"}


def test_a_run_that_ended_takes_no_more_requests(sites: FlowerSites) -> None:
    sites.close(completed=True)
    with pytest.raises(UnreachableError):
        list(sites.ask({"north": b"x"}, b"", deadline_s=5))


def test_an_error_in_a_site_tells_its_class_and_nothing_of_its_text(tmp_path: Path) -> None:
    def fail(request: bytes) -> bytes:
        raise ValueError("patient 4711 has HIV")

    with federation(tmp_path) as made:
        made.add("north", fail)
        made.add("south", echo)
        sites = FlowerSites(made.superlink, made.node_ids)
        assert dict(sites.ask({"north": b"x", "south": b"x"}, b"", 20)) == {"south": b"re:x"}
        assert list(sites.failures) == ["north"]
        assert sites.failures["north"].startswith("2: ValueError [")
        assert "4711" not in sites.failures["north"]
        sites.close(completed=True)


@pytest.mark.parametrize(
    "record",
    [
        {"payload": "text"},
        {"other": b"re:x"},
        {"payload": b"", "chunks": bytes(32), "chunk_bytes": 2**20},  # which nobody announced
        {"payload": b"", "chunks": bytes(31)},
        {"payload": bytes(2**24 + 1)},  # larger than any reply to so little
    ],
)
def test_a_reply_that_is_no_payload_costs_that_site_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: dict[str, Any]
) -> None:
    honest = Chunks.record
    monkeypatch.setattr(
        Chunks, "record", lambda one, head=b"": record if one.rest == b"bad" else honest(one, head)
    )
    with federation(tmp_path) as made:
        made.add("north", lambda _: b"bad")
        made.add("south", echo)
        sites = FlowerSites(made.superlink, made.node_ids)
        assert dict(sites.ask({"north": b"x", "south": b"x"}, b"", 20)) == {"south": b"re:x"}
        assert list(sites.failures) == ["north"]
        assert sites.failures["north"].startswith("the reply cannot be read (")
        sites.close(completed=True)


def test_a_reply_announced_and_withheld_holds_nobody_up(
    pair: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = Fleet.push

    def withhold(
        fleet: Fleet, line: Line, run_id: int, name: str, content: bytes, session: str
    ) -> bool:
        return b"withheld" in content or push(fleet, line, run_id, name, content, session)

    monkeypatch.setattr(Fleet, "push", withhold)
    sites = FlowerSites(pair.superlink, pair.node_ids)
    ids = {"north": b"withheld", "south": b"x"}
    started = time.monotonic()
    assert dict(sites.ask(ids, b"", deadline_s=4)) == {"south": b"re:x"}
    assert time.monotonic() - started < 4
    sites.close(completed=True)


def test_a_slow_site_holds_nobody_up_and_its_late_reply_harms_nobody(tmp_path: Path) -> None:
    def slow(request: bytes) -> bytes:
        time.sleep(6 if request == b"slow" else 0)
        return echo(request)

    with federation(tmp_path) as made:
        made.add("north", slow)
        made.add("south", echo)
        sites = FlowerSites(made.superlink, made.node_ids)
        started = time.monotonic()
        replies = sites.ask({"north": b"slow", "south": b"slow"}, b"", deadline_s=4)
        assert dict(replies) == {"south": b"re:slow"}
        assert time.monotonic() - started < 6
        assert dict(sites.ask({"north": b"next"}, b"", deadline_s=20)) == {"north": b"re:next"}
        sites.close(completed=True)


def test_the_superlink_killed_and_started_again_loses_neither_node_nor_run(
    tmp_path: Path,
) -> None:
    with federation(tmp_path) as made:
        north = made.add("north", echo)
        sites = FlowerSites(made.superlink, made.node_ids)
        assert dict(sites.ask({"north": b"1"}, b"", 20)) == {"north": b"re:1"}
        _kill_superlink(made)
        assert not made.superlink.alive()
        wait_for(lambda: north.states[-1] == "offline")
        made.superlink.stop()
        made.superlink.start()
        north.wait_online()
        assert dict(sites.ask({"north": b"2"}, b"", 20)) == {"north": b"re:2"}
        assert north.states == ["online", "offline", "online"]
        sites.close(completed=True)


def test_a_superlink_that_is_away_is_said_at_the_deadline(tmp_path: Path) -> None:
    with federation(tmp_path) as made:
        made.add("north", echo)
        sites = FlowerSites(made.superlink, made.node_ids)
        _kill_superlink(made)
        with pytest.raises(UnreachableError, match="does not answer"):
            list(sites.ask({"north": b"x"}, b"", deadline_s=1))
        with pytest.raises(UnreachableError, match="not running"):
            made.superlink.nodes()


def test_one_sites_node_killed_does_not_cost_the_others_replies(tmp_path: Path) -> None:
    with federation(tmp_path) as made:
        made.add("south", echo)
        process = node_process(made.enrol("north"), b"north:")
        wait_for(lambda: made.superlink.nodes()[made.node_ids["north"]] == "online")
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        sites = FlowerSites(made.superlink, made.node_ids)
        assert dict(sites.ask({"north": b"x", "south": b"x"}, b"", 5)) == {"south": b"re:x"}
        sites.close(completed=True)


def test_a_killed_node_comes_back_with_the_same_key(tmp_path: Path) -> None:
    with federation(tmp_path) as made:
        connection = made.enrol("north")
        process = node_process(connection, b"")
        wait_for(lambda: made.superlink.nodes()[made.node_ids["north"]] == "online")
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        again = NodeThread(connection, echo)
        wait_for(lambda: again.states[-1:] == ["online"], timeout_s=40)
        assert again.states == ["offline", "online"]
        again.end()


def test_a_clean_stop_says_goodbye_at_once(pair: Federation) -> None:
    guest = pair.add("guest", echo)
    started = time.monotonic()
    guest.end()
    assert time.monotonic() - started < 2
    assert pair.superlink.nodes()[pair.node_ids["guest"]] == "offline"
    sites = FlowerSites(pair.superlink, pair.node_ids)
    assert dict(sites.ask({"guest": b"x"}, b"", deadline_s=10)) == {}
    assert list(sites.failures) == ["guest"]
    sites.close(completed=True)


def test_an_unknown_key_is_refused_in_one_line(
    pair: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeouts, "ACTIVATION_S", 0.5)
    identity.make_node_key(pair.folder / "stranger.key")
    stranger = NodeThread(pair.connection("stranger"), echo)
    wait_for(lambda: stranger.error is not None)
    assert isinstance(stranger.error, IdentityError)
    assert "refuses the key of stranger" in str(stranger.error)
    assert "\n" not in str(stranger.error)


def test_a_revoked_site_is_shut_out_while_it_runs(pair: Federation) -> None:
    guest = pair.add("revoked", echo)
    pair.superlink.unregister_node(pair.node_ids.pop("revoked"))
    wait_for(lambda: guest.error is not None)
    assert isinstance(guest.error, IdentityError)
    assert "revoked" in str(guest.error)


def test_a_server_with_another_ca_is_not_talked_to(pair: Federation, tmp_path: Path) -> None:
    make_tls(tmp_path)
    right = pair.connection("north")
    foreign = FleetConnection(
        right.address, (tmp_path / "ca.pem").read_bytes(), right.node_key, "north"
    )
    with pytest.raises(IdentityError, match="not from the coordinator's CA"):
        node.serve(foreign, echo, threading.Event(), lambda _: None)


def test_an_absent_coordinator_is_waited_for_and_the_wait_can_be_ended(
    pair: Federation, tmp_path: Path
) -> None:
    right = pair.connection("north")
    nobody = FleetConnection("127.0.0.1:9", right.ca_certificate, right.node_key, "north")
    waiting = NodeThread(nobody, echo)
    wait_for(lambda: waiting.states == ["offline"])
    started = time.monotonic()
    waiting.end()
    assert time.monotonic() - started < 2
    assert waiting.error is None


def test_a_port_in_use_is_named(pair: Federation, tmp_path: Path) -> None:
    second = SuperLink(tmp_path, pair.tls, "127.0.0.1", pair.port, tmp_path / "log")
    with pytest.raises(UnreachableError, match=f"port {pair.port} on 127.0.0.1 is in use"):
        second.start()
    assert not second.alive()


def test_an_expired_certificate_starts_nothing(tmp_path: Path) -> None:
    tls = make_tls(tmp_path, datetime.now(UTC) - timedelta(days=60), days=30)
    superlink = SuperLink(tmp_path / "state", tls, "127.0.0.1", 1, tmp_path / "log")
    with pytest.raises(IdentityError, match="expired on"):
        superlink.start()
    assert not (tmp_path / "state").exists()


def test_a_superlink_that_cannot_start_says_why(tmp_path: Path, pair: Federation) -> None:
    state = tmp_path / "state"
    (state / "superlink.db").mkdir(parents=True)  # SQLite cannot open a directory
    superlink = SuperLink(state, pair.tls, "127.0.0.1", free_port(), tmp_path / "log")
    with pytest.raises(UnreachableError, match=r"ended at once: .*unable to open database"):
        superlink.start()


def test_nothing_outlives_a_stop(tmp_path: Path) -> None:
    with federation(tmp_path) as made:
        pid = _pid(made)
        made.superlink.stop()
        made.superlink.stop()
        assert not Path(f"/proc/{pid}").exists()


def test_a_killed_coordinator_takes_the_superlink_with_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    coordinator = context.Process(target=_coordinate, args=(tmp_path, there), daemon=True)
    coordinator.start()
    superlink = Path(f"/proc/{here.recv()}")
    assert superlink.exists()
    coordinator.kill()
    coordinator.join()
    wait_for(lambda: not superlink.exists() or " Z " in (superlink / "stat").read_text())


def test_only_the_fleet_port_leaves_this_machine(pair: Federation) -> None:
    command = pair.superlink._command()
    listening = [command[command.index(o) + 1] for o in ("--control-api-address", "--host")]
    assert [address.split(":")[0] for address in listening] == ["127.0.0.1", "127.0.0.1"]


def test_nobody_else_reads_the_runtime_secret_or_the_database(pair: Federation) -> None:
    assert (pair.folder / "state").stat().st_mode & 0o077 == 0
    assert (pair.folder / "state" / "runtime.secret").stat().st_mode & 0o077 == 0


def _ask(made: Federation, requests: dict[str, bytes]) -> dict[str, bytes]:
    sites = FlowerSites(made.superlink, made.node_ids)
    replies = dict(sites.ask(requests, b"", deadline_s=20))
    sites.close(completed=True)
    return replies


def _coordinate(folder: Path, tell: Connection) -> None:
    """A coordinator of its own: starts a SuperLink, tells its pid and waits to be killed."""
    with federation(folder) as made:
        tell.send(_pid(made))
        time.sleep(600)


def _pid(made: Federation) -> int:
    assert made.superlink._process is not None
    return made.superlink._process.pid


def _kill_superlink(made: Federation) -> None:
    os.kill(_pid(made), signal.SIGKILL)
    wait_for(lambda: not made.superlink.alive())
