"""One measure over the rounds, as a line; and the level that it must be read against."""

import math
from collections.abc import Callable, Sequence

from cohortium.server.reports import svg
from cohortium.server.reports.plane import Plane
from cohortium.server.reports.scale import levels
from cohortium.server.reports.svg import Figure

WIDTH, HEIGHT = 360.0, 200.0


def rounds_chart(
    title: str,
    points: Sequence[tuple[int, float]],
    write: Callable[[float], str],
    reference: float | None,
    note: str = "",
) -> Figure | None:
    """Draw (round, value) pairs, or None where there is nothing to draw."""
    if not points:
        return None
    values = [value for _, value in points] + ([] if reference is None else [reference])
    first, last = points[0][0], points[-1][0]
    numbers = [float(number) for number in _numbers(first, last)]
    ends = [first - 0.5, *numbers, last + 0.5] if first == last else numbers
    plane = Plane(
        width=WIDTH,
        height=HEIGHT,
        x_marks=ends,
        y_marks=levels(min(values), max(values)),
        x_text=lambda number: f"{number:g}" if number in numbers else "",
        y_text=write,
        x_name="round",
    )
    parts = list(plane.frame())
    if reference is not None:
        y = plane.y.at(reference)
        parts.append(svg.line(plane.x.start, y, plane.x.stop, y, "reference"))
    places = [plane.point(number, value) for number, value in points]
    parts.append(svg.path(places, "curve"))
    if len(places) <= 60:
        parts += [svg.element("circle", cx=x, cy=y, r=3, class_="dot") for x, y in places]
    label = f"{title} by round; the numbers are in the table below"
    return Figure(title, svg.drawing(parts, WIDTH, HEIGHT, label), "rounds", note)


def _numbers(first: int, last: int) -> list[int]:
    """Up to about eight rounds to label, the first and the last among them."""
    step = max(1, math.ceil((last - first) / 7))
    inner = (number for number in range(first, last, step) if last - number > step / 2)
    return [*inner, last]
