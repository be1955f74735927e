"""Whose turn it is to train, where more studies want to than the deployment may run at once."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK_S = 0.2


class Turns:
    """First come, first served; so many at once.

    Args:
        at_once: how many may train at the same time.
        pause: waits for so many seconds; raises where waiting is over.
    """

    def __init__(self, at_once: int, pause: Callable[[float], None]) -> None:
        self._at_once = at_once
        self._pause = pause
        self._line: list[str] = []
        self._lock = threading.Lock()

    @contextmanager
    def take(self, study: str, say: Callable[[str], None]) -> Iterator[None]:
        """Wait until it is the turn of `study`, and keep it for the block."""
        with self._lock:
            self._line.append(study)
        try:
            while ahead := self._ahead(study):
                say(f"queued: {', '.join(ahead)} must end first")
                self._pause(LOOK_S)
            yield
        finally:
            with self._lock:
                self._line.remove(study)

    def _ahead(self, study: str) -> list[str]:
        """Nobody, if there is room; else those whose end would make room for it."""
        with self._lock:
            place = self._line.index(study)
            return self._line[:place] if place >= self._at_once else []
