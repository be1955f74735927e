"""Whose turn it is: first come, first served, in each of several lines."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK_S = 0.1


class Turns:
    """Lets so many of each line in at the same time; the others wait in the order they came."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._lines: dict[str, list[object]] = {}
        self._changed = threading.Condition()

    @contextmanager
    def take(self, line: str, look: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Wait for a turn and keep it for the block.

        Args:
            look: called ten times a second while waiting; what it raises ends the wait.
        """
        ticket = object()
        with self._changed:
            self._lines.setdefault(line, []).append(ticket)
        try:
            while not self._is_in(line, ticket):
                look()
            yield
        finally:
            self._leave(line, ticket)

    def _is_in(self, line: str, ticket: object) -> bool:
        """Whether it is this ticket's turn, now or within a moment."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._lines[line].index(ticket) < self._at_once, LOOK_S
            )

    def _leave(self, line: str, ticket: object) -> None:
        with self._changed:
            self._lines[line].remove(ticket)
            if not self._lines[line]:
                del self._lines[line]
            self._changed.notify_all()
