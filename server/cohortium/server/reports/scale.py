"""From values to places on an axis, and which round values to write along it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

ROUND_RATIOS = (0.02, 0.05, 0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 1, 1.25, 1.5, 2, 3, 5, 10, 20, 50)
MOST_TICKS = 6


@dataclass(frozen=True)
class Scale:
    """`low` lies at `start` and `high` at `stop`, in user units; by ratios where `log`."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value lies; one beyond the axis at its end."""
        share = (self._on(value) - self._on(self.low)) / (self._on(self.high) - self._on(self.low))
        return self.start + max(0.0, min(1.0, share)) * (self.stop - self.start)

    def beyond(self, value: float) -> bool:
        """Is a value cut off?"""
        room = 1e-9 * abs(self.high - self.low)
        return not self.low - room <= value <= self.high + room

    def _on(self, value: float) -> float:
        return math.log(max(value, 1e-9)) if self.log else value


def levels(low: float, high: float) -> list[float]:
    """Three to six round levels that enclose both."""
    step = _step((high - low) / 3 or abs(high) / 10 or 0.1)
    lowest, highest = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(lowest, max(highest, lowest + 1) + 1)]


def ratios(values: Iterable[float]) -> list[float]:
    """Round ratios that enclose 1 and all values, as far as the axis goes."""
    known = [value for value in values if value > 0]
    low, high = min([*known, 0.8]), max([*known, 1.25])
    first = max((place for place, r in enumerate(ROUND_RATIOS) if r <= low), default=0)
    top = len(ROUND_RATIOS) - 1
    last = min((place for place, r in enumerate(ROUND_RATIOS) if r >= high), default=top)
    return list(ROUND_RATIOS[first : last + 1])


def thinned(marks: list[float], keep: float | None = None) -> list[float]:
    """At most about six of the marks: every second or third, counted from the one to keep."""
    step = math.ceil(len(marks) / MOST_TICKS)
    at = marks.index(keep) if keep in marks and keep is not None else 0
    return [mark for place, mark in enumerate(marks) if (place - at) % step == 0]


def _step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))
