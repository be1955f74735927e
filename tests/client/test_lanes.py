"""Chunks over several connections: all of them, no more connections than help, and paced."""

import threading
import time

import pytest

from cohortium.client import lanes
from cohortium.client.lanes import Lanes, Pace


class Lane:
    """A connection that counts how many there are."""

    open = most = 0
    lock = threading.Lock()

    def __init__(self) -> None:
        with Lane.lock:
            Lane.open += 1
            Lane.most = max(Lane.most, Lane.open)

    def close(self) -> None:
        with Lane.lock:
            Lane.open -= 1


@pytest.fixture(autouse=True)
def no_lanes() -> None:
    Lane.open = Lane.most = 0


def carried(seconds: float, items: int) -> list[int]:
    arrived: list[int] = []

    def move(_: Lane, item: int) -> None:
        time.sleep(seconds)
        arrived.append(item)

    Lanes(Lane, move).carry(range(items))
    assert Lane.open == 0
    return arrived


def test_everything_arrives_once_on_few_lanes_where_the_link_is_fast() -> None:
    assert sorted(carried(0.001, 200)) == list(range(200))
    assert Lane.most == lanes.FIRST_LANES


def test_a_slow_link_gets_more_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "WIDEN_S", (0.01, 1.0))
    assert sorted(carried(0.05, 200)) == list(range(200))
    assert Lane.most == lanes.LANES


def test_a_narrow_link_loses_lanes_but_never_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "NARROW_S", 0.01)
    assert sorted(carried(0.02, 20)) == list(range(20))
    assert Lane.most == lanes.FIRST_LANES


def test_nothing_to_carry_opens_nothing() -> None:
    assert carried(0.0, 0) == []
    assert Lane.most == 0


def test_the_first_failure_ends_all_lanes_and_is_told() -> None:
    def move(_: Lane, item: int) -> None:
        if item == 3:
            raise ValueError("three")

    with pytest.raises(ValueError, match="three"):
        Lanes(Lane, move).carry(range(1000))
    assert Lane.open == 0


def test_a_pace_of_8_mbit_lets_a_megabyte_pass_each_second() -> None:
    now = 100.0
    pace = Pace(8.0, clock=lambda: now)
    assert [pace.wait_s(1_000_000) for _ in range(3)] == [0.0, 1.0, 2.0]
    now = 110.0  # what was not used is not saved up
    assert [pace.wait_s(500_000) for _ in range(3)] == [0.0, 0.5, 1.0]
    assert Pace(None).wait_s(10**9) == 0.0
