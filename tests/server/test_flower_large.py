"""Large payloads through a real SuperLink: in chunks, cut off, capped, and not in the way."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import Message
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from tests.transport import Federation, NodeThread, Relay, federation, node_process, wait_for

from cohortium.client import fleet_objects, lanes
from cohortium.common.parcel import CHUNK_BYTES, MAX_CHUNKS, Chunks
from cohortium.server.flower_sites import FlowerSites

MODEL = os.urandom(20 * CHUNK_BYTES + 1234)


def turned(request: bytes) -> bytes:
    """A reply as large as the request that shares no chunk with it."""
    return request[::-1]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Federation]:
    with federation(tmp_path) as made:
        yield made


@pytest.fixture
def relayed(made: Federation) -> Iterator[tuple[Relay, NodeThread]]:
    """A site whose only way to the coordinator can be cut."""
    relay = Relay(made.port)
    connection = replace(made.enrol("north"), address=f"127.0.0.1:{relay.port}")
    made.nodes["north"] = NodeThread(connection, turned)
    made.nodes["north"].wait_online()
    yield relay, made.nodes["north"]
    made.nodes["north"].stop.set()
    relay.close()


def ask(
    sites: FlowerSites, heads: dict[str, bytes], body: bytes, deadline_s: float
) -> dict[str, bytes]:
    """As a conversation asks: again and again, until all have answered or the deadline."""
    left, replies = dict(heads), {}
    deadline = time.monotonic() + deadline_s
    while left and time.monotonic() < deadline:
        for site, reply in sites.ask(dict(left), body, deadline - time.monotonic()):
            replies[site] = reply
            del left[site]
    return replies


def test_a_body_goes_to_the_superlink_once_for_all_sites(
    made: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.add("north", lambda request: request[:7])
    made.add("south", lambda request: request[-7:])
    uploaded: list[str] = []
    content = Chunks.content

    def count(chunks: Chunks, name: str) -> bytes:
        uploaded.append(name)
        return content(chunks, name)

    monkeypatch.setattr(Chunks, "content", count)
    sites = FlowerSites(made.superlink, made.node_ids)
    replies = ask(sites, {"north": b"north: ", "south": b"south: "}, MODEL, 60)
    assert replies == {"north": b"north: ", "south": MODEL[-7:]}
    assert sorted(uploaded) == sorted(Chunks(MODEL).ids)
    sites.close(completed=True)


def test_equal_chunks_of_a_model_are_put_back_everywhere(made: Federation) -> None:
    made.add("north", turned)
    sites = FlowerSites(made.superlink, made.node_ids)
    zeros = bytes(3 * CHUNK_BYTES) + b"end" + bytes(2 * CHUNK_BYTES)
    assert ask(sites, {"north": b"h"}, zeros, 60) == {"north": zeros[::-1] + b"h"}
    sites.close(completed=True)


def test_what_arrived_before_a_cut_is_not_sent_again(
    made: Federation, relayed: tuple[Relay, NodeThread]
) -> None:
    """Sent from the start again after a cut in its middle, a model would cost half of it more."""
    relay, _ = relayed
    model = os.urandom(40 * CHUNK_BYTES)
    sites = FlowerSites(made.superlink, made.node_ids)
    cuts = threading.Thread(target=_cut_both_ways, args=(relay, len(model) // 2), daemon=True)
    cuts.start()
    assert ask(sites, {"north": b"h"}, model, 90) == {"north": turned(b"h" + model)}
    cuts.join(1)
    assert not cuts.is_alive()
    under_way = lanes.EARLY_LANES * CHUNK_BYTES
    assert len(model) < relay.down < 1.05 * len(model) + under_way
    assert len(model) < relay.up < 1.05 * len(model) + under_way
    sites.close(completed=True)


def _cut_both_ways(relay: Relay, after: int) -> None:
    wait_for(lambda: relay.down > after, 60)
    relay.cut(2)
    wait_for(lambda: relay.up > after, 60)
    relay.cut(2)


def test_a_site_that_is_stopped_amid_a_transfer_leaves_at_once(made: Federation) -> None:
    connection = replace(made.enrol("north"), download_mbit_s=2.0)
    node = NodeThread(connection, turned)
    node.wait_online()
    sites = FlowerSites(made.superlink, made.node_ids)
    assert dict(sites.ask({"north": b""}, MODEL, deadline_s=4)) == {}
    started = time.monotonic()
    node.end()
    assert time.monotonic() - started < 4
    assert node.error is None
    sites.close(completed=True)


def test_a_site_that_was_killed_and_came_back_is_asked_again_at_once(made: Federation) -> None:
    connection = made.enrol("north")
    asked = threading.Event()
    sites = FlowerSites(made.superlink, made.node_ids)
    process = node_process(connection, b"slow", seconds=600)
    wait_for(lambda: made.superlink.nodes()[made.node_ids["north"]] == "online")
    replies: dict[str, bytes] = {}

    def wait() -> None:
        asked.set()
        replies.update(ask(sites, {"north": b"x"}, MODEL, 120))

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    asked.wait()
    time.sleep(4)  # by now it has the request
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    made.nodes["north"] = NodeThread(connection, turned)
    made.nodes["north"].wait_online(40)  # its killed predecessor counts as there for 20 s
    started = time.monotonic()
    waiting.join(30)
    assert replies == {"north": turned(b"x" + MODEL)}
    assert time.monotonic() - started < 10
    sites.close(completed=True)


def test_a_request_sent_twice_is_worked_on_once_and_answered_to_who_asked_last(
    made: Federation,
) -> None:
    began, go_on, times = threading.Event(), threading.Event(), []

    def slow(request: bytes) -> bytes:
        times.append(time.monotonic())
        began.set()
        assert go_on.wait(30)
        return turned(request)

    made.add("north", slow)
    sites = FlowerSites(made.superlink, made.node_ids)
    first = sites.ask({"north": b"x"}, MODEL, 60)
    waiting = threading.Thread(target=lambda: replies.update(dict(first)), daemon=True)
    replies: dict[str, bytes] = {}
    waiting.start()
    assert began.wait(30)
    for asked in sites._asked.values():
        asked.resend_at = 0.0
    wait_for(lambda: all(len(asked.messages) == 2 for asked in sites._asked.values()))
    time.sleep(2)  # the site takes the second message
    go_on.set()
    waiting.join(30)
    assert replies == {"north": turned(b"x" + MODEL)}
    assert len(times) == 1
    sites.close(completed=True)


def test_a_long_training_of_one_study_does_not_hold_up_anothers(made: Federation) -> None:
    go_on = threading.Event()

    def train(request: bytes) -> bytes:
        return turned(request) if request == b"short" or go_on.wait(30) else b""

    made.add("north", train)
    one, two = (FlowerSites(made.superlink, made.node_ids) for _ in range(2))
    assert dict(one.ask({"north": b"long"}, b"", 2)) == {}
    started = time.monotonic()
    assert dict(two.ask({"north": b"short"}, b"", 20)) == {"north": b"trohs"}
    assert time.monotonic() - started < 3
    go_on.set()
    for sites in (one, two):
        sites.close(completed=True)


def test_a_cap_on_the_link_is_kept_both_ways(made: Federation) -> None:
    connection = replace(made.enrol("north"), download_mbit_s=40.0, upload_mbit_s=20.0)
    made.nodes["north"] = NodeThread(connection, turned)
    made.nodes["north"].wait_online()
    sites = FlowerSites(made.superlink, made.node_ids)
    body = MODEL[: 8 * CHUNK_BYTES]  # 67 Mbit: at least 7/8 of 1.7 s there and of 3.4 s back
    started = time.monotonic()
    assert ask(sites, {"north": b""}, body, 60) == {"north": turned(body)}
    assert 4.4 < time.monotonic() - started < 12
    sites.close(completed=True)


def test_a_tree_of_more_objects_than_a_message_has_is_refused_and_nobody_else_notices(
    made: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Chunks.names

    def too_many(chunks: Chunks) -> list[str]:
        if chunks.ids and chunks.rest == b"bomb":
            return [f"{number:064x}" for number in range(MAX_CHUNKS + 4)]
        return honest(chunks)

    monkeypatch.setattr(Chunks, "names", too_many)
    made.add("north", lambda _: b"bomb" + bytes(CHUNK_BYTES))
    made.add("south", turned)
    sites = FlowerSites(made.superlink, made.node_ids)
    replies = sites.ask({"north": b"x", "south": b"x"}, b"", deadline_s=8)
    assert dict(replies) == {"south": b"x"}
    assert "a message of too many objects" in (made.folder / "superlink.log").read_text()
    sites.close(completed=True)


@pytest.mark.parametrize(
    "shape", ["a chunk with chunks", "two records", "no record", "a chunk that nobody has"]
)
def test_a_reply_of_another_shape_is_a_failure_of_that_site_alone(
    made: Federation, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    def misshapen(message: Message) -> ObjectTree:
        tree = get_object_tree(message)
        content = tree.children[0]
        stray = ObjectTree(object_id="ab" * 32)
        if shape == "a chunk with chunks":
            child = ObjectTree(object_id="cd" * 32, children=[stray])
            content.children[0].children.append(child)
        elif shape == "two records":
            content.children.append(stray)
        elif shape == "no record":
            del content.children[:]
        else:
            content.children[0].children.append(stray)
        return tree

    monkeypatch.setattr(fleet_objects, "get_object_tree", misshapen)
    made.add("north", turned)
    sites = FlowerSites(made.superlink, made.node_ids)
    assert dict(sites.ask({"north": b"xy"}, b"", deadline_s=8)) == {}
    assert sites.failures["north"].startswith("the reply cannot be read (")
    sites.close(completed=True)
