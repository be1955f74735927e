"""Where lines, dots and ticks of the report's figures go, in SVG user units; the template draws."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 36


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class LineChart:
    """One measure over the rounds; `reference` is where a level to compare with lies."""

    path: str
    dots: tuple[tuple[float, float], ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    reference: float | None


def line_chart(
    points: Sequence[tuple[int, float]], label: Callable[[float], str], reference: float | None
) -> LineChart | None:
    """Lay out (round, value) pairs, or None where there is nothing to draw."""
    if not points:
        return None
    values = [value for _, value in points] + ([] if reference is None else [reference])
    marks = levels(min(values), max(values))
    first, last = points[0][0], points[-1][0]

    def x(round_number: float) -> float:
        share = (round_number - first) / (last - first) if last > first else 0.5
        return round(LEFT + 8 + share * (WIDTH - LEFT - RIGHT - 16), 1)

    def y(value: float) -> float:
        share = (value - marks[0]) / (marks[-1] - marks[0])
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    dots = tuple((x(number), y(value)) for number, value in points)
    return LineChart(
        path="M" + " L".join(f"{a} {b}" for a, b in dots),
        dots=dots,
        x_ticks=tuple(Tick(x(number), str(number)) for number in _numbers(first, last)),
        y_ticks=tuple(Tick(y(level), label(level)) for level in marks),
        reference=None if reference is None else y(reference),
    )


def levels(low: float, high: float) -> list[float]:
    """Three to six round levels that enclose both."""
    step = _step((high - low) / 3 or abs(high) / 10 or 0.1)
    lowest, highest = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(lowest, max(highest, lowest + 1) + 1)]


def _step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))


def _numbers(first: int, last: int) -> list[int]:
    """Up to about eight rounds to label, the first and the last among them."""
    step = max(1, math.ceil((last - first) / 7))
    inner = (number for number in range(first, last, step) if last - number > step / 2)
    return [*inner, last]
