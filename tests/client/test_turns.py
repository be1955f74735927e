"""Who waits for whom: nobody passes another in a line, and lines do not wait for each other."""

import threading
import time
from collections.abc import Callable

import pytest

from cohortium.client.turns import Turns


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Crowd:
    """Threads that take turns in one line, one after the other; each leaves when it is told to."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.inside: list[int] = []
        self.leave = [threading.Event() for _ in range(9)]
        self.threads: list[threading.Thread] = []

    def send(self, number: int, line: str = "x") -> None:
        """Let a thread come, and wait until it has taken its place."""
        before = len(self.turns._lines.get(line, []))
        thread = threading.Thread(target=self._work, args=(number, line), daemon=True)
        thread.start()
        self.threads.append(thread)
        wait_for(lambda: len(self.turns._lines.get(line, [])) > before)

    def _work(self, number: int, line: str) -> None:
        with self.turns.take(line):
            self.inside.append(number)
            self.leave[number].wait(10)

    def end(self) -> None:
        for event in self.leave:
            event.set()
        for thread in self.threads:
            thread.join(5)


def test_those_who_wait_come_in_in_the_order_in_which_they_came() -> None:
    crowd = Crowd(Turns(2))
    for number in range(5):
        crowd.send(number)
    wait_for(lambda: sorted(crowd.inside) == [0, 1])
    crowd.leave[1].set()
    wait_for(lambda: crowd.inside[2:] == [2])
    crowd.leave[0].set()
    wait_for(lambda: crowd.inside[2:] == [2, 3])
    crowd.end()
    assert crowd.inside[2:] == [2, 3, 4]
    assert crowd.turns._lines == {}  # a peer that names many studies fills no memory


def test_one_line_does_not_wait_for_another() -> None:
    crowd = Crowd(Turns(1))
    crowd.send(0, "x")
    crowd.send(1, "y")
    wait_for(lambda: sorted(crowd.inside) == [0, 1])
    crowd.end()


def test_who_gives_up_waiting_holds_nobody_up() -> None:
    turns = Turns(1)
    crowd = Crowd(turns)
    crowd.send(0)

    def look() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), turns.take("x", look):
        raise AssertionError("it was not its turn")
    crowd.send(1)
    crowd.leave[0].set()
    wait_for(lambda: crowd.inside == [0, 1])
    crowd.end()
