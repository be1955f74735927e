"""More studies than may train at once: first come, first served, and nobody is forgotten."""

import threading
import time

import pytest

from cohortium.server.turns import Turns


def pause(seconds: float) -> None:
    time.sleep(min(seconds, 0.01))


def in_line(turns: Turns, names: tuple[str, ...]) -> tuple[list[str], int]:
    """Who trained in which order, and how many at most at once, where they came in this order."""
    order, running, most, lock = list[str](), 0, 0, threading.Lock()

    def train(name: str, there: threading.Event) -> None:
        nonlocal running, most
        with turns.take(name, lambda _: there.set()):
            with lock:
                order.append(name)
                running += 1
                most = max(most, running)
            there.set()
            time.sleep(0.1)
            with lock:
                running -= 1

    threads = []
    for name in names:
        there = threading.Event()
        threads.append(threading.Thread(target=train, args=(name, there)))
        threads[-1].start()
        assert there.wait(5)
    for thread in threads:
        thread.join(5)
    return order, most


def test_who_came_first_goes_first() -> None:
    names = ("one", "two", "three", "four")
    assert in_line(Turns(1, pause), names) == ([*names], 1)


def test_never_more_train_than_may_and_nobody_is_left_out() -> None:
    names = ("one", "two", "three", "four", "five")
    order, most = in_line(Turns(2, pause), names)
    assert (sorted(order), most) == (sorted(names), 2)


def test_who_waits_is_told_for_whom() -> None:
    turns, said = Turns(1, pause), list[str]()

    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    with turns.take("first", said.append):
        turns._pause = stop
        with pytest.raises(KeyboardInterrupt), turns.take("second", said.append):
            raise AssertionError("it is not its turn")
    assert said == ["queued: first must end first"]


def test_a_study_that_gives_up_waiting_holds_nobody_up() -> None:
    turns = Turns(1, pause)
    with pytest.raises(ZeroDivisionError), turns.take("fails", lambda _: None):
        raise ZeroDivisionError
    with turns.take("next", lambda words: pytest.fail(words)):
        pass
