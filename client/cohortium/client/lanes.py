"""Moving many chunks over a bad link: several at once, each on a connection of its own, paced.

One TCP stream over a link that loses 1% of its packets at 100 ms carries about 1.5 Mbit/s however
wide the link is (Mathis et al. 1997, equation 3). So chunks that take long get more lanes, unless
they take so long that it must be the width of the link that they share.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

LANES = 24
FIRST_LANES = 2
EARLY_LANES = 8  # while nothing has arrived yet that would say how wide the link is
LOOK_S = 0.4
WIDEN_S = (0.25, 15.0)  # a chunk that takes that long calls for one more lane
NARROW_S = 40.0  # and one that takes longer for one less


class Closable(Protocol):
    """A connection."""

    def close(self) -> None: ...


L = TypeVar("L", bound=Closable)
T = TypeVar("T")


class Lanes(Generic[L, T]):
    """Carries items over connections that are opened as the link needs them.

    Args:
        connect: opens a connection; nothing is sent before its first use.
        move: carries one item over one connection, repeating what a broken one interrupted.
    """

    def __init__(self, connect: Callable[[], L], move: Callable[[L, T], None]) -> None:
        self._connect = connect
        self._move = move
        self._lock = threading.Lock()
        self._waiting: deque[T] = deque()
        self._threads: list[threading.Thread] = []
        self._active = 0
        self._arrived_at = time.monotonic()
        self._error: BaseException | None = None

    def carry(self, items: Iterable[T]) -> None:
        """Move every item, the first ones first; ends when all have arrived.

        Raises:
            Exception: the first that `move` raised; what was not begun is then left.
        """
        self._waiting.extend(items)
        with self._lock:
            for _ in range(min(FIRST_LANES, len(self._waiting))):
                self._widen()
        while threads := [thread for thread in self._threads if thread.is_alive()]:
            threads[0].join(LOOK_S)
            self._widen_while_nothing_arrives()
        if self._error is not None:
            raise self._error

    def _widen_while_nothing_arrives(self) -> None:
        with self._lock:
            silent_s = time.monotonic() - self._arrived_at
            if self._waiting and silent_s > LOOK_S and 0 < self._active < EARLY_LANES:
                self._widen()

    def _widen(self) -> None:
        thread = threading.Thread(target=self._run, daemon=True)
        self._threads.append(thread)
        self._active += 1
        thread.start()

    def _run(self) -> None:
        lane = self._connect()
        try:
            took_s = 0.0
            while (item := self._next(took_s)) is not None:
                started = time.monotonic()
                self._move(lane, item[0])
                took_s = time.monotonic() - started
        except BaseException as error:  # carried over to the thread that waits
            with self._lock:
                self._error = self._error or error
                self._active -= 1
        finally:
            lane.close()

    def _next(self, took_s: float) -> tuple[T] | None:
        """The next item; None where this lane ends: all is done, or the link is narrow."""
        with self._lock:
            self._arrived_at = time.monotonic()
            narrow = took_s > NARROW_S and self._active > 1
            if self._error is not None or not self._waiting or narrow:
                self._active -= 1
                return None
            item = self._waiting.popleft()
            if WIDEN_S[0] < took_s < WIDEN_S[1] and self._waiting and self._active < LANES:
                self._widen()
            return (item,)


class Pace:
    """Spreads what passes over time, so that it stays below so many Mbit/s on average.

    Args:
        mbit_s: 10^6 bits a second; None for as fast as it goes.
        clock: seconds, monotonic.
    """

    def __init__(self, mbit_s: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._mbit_s = mbit_s
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = clock()

    def wait_s(self, size: int) -> float:
        """Seconds to wait before so many bytes may pass; they count from now on."""
        if self._mbit_s is None:
            return 0.0
        with self._lock:
            now = self._clock()
            start = max(now, self._free_at)
            self._free_at = start + size * 8 / (self._mbit_s * 1e6)
            return start - now
