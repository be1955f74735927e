"""Estimates below each other on one axis: a line of text, and under it a mark with its interval.

The text stands above the bar, not beside it, so that a narrow window needs no smaller letters.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from cohortium.server.reports import svg
from cohortium.server.reports.scale import Scale, thinned

WIDTH = 360.0
LEFT, RIGHT = 8.0, 352.0
TEXT, NOTE, BAR, GAP, HEADING = 15.0, 14.0, 12.0, 7.0, 22.0
AXIS = 22.0
MOST_LETTERS = 47  # of a line of text; the numbers at its right are never cut

Mark = Literal["dot", "square", "diamond", "triangle", "hollow", "none"]
Span = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """One estimate; None where there is nothing to draw, and `right` says why.

    `far` is a second, wider interval, drawn dashed. A row with `heading` alone divides.
    """

    left: str = ""
    right: str = ""
    note: str = ""
    mark: Mark = "none"
    at: float | None = None
    span: Span | None = None
    far: Span | None = None
    heading: str = ""

    @property
    def height(self) -> float:
        if self.heading:
            return HEADING
        return TEXT + (NOTE if self.note else 0) + (GAP if self.at is None else BAR + GAP)


@dataclass(frozen=True)
class Axis:
    """The marks along the bottom and how they are written; `band` is shaded, `line` dashed."""

    marks: list[float]
    write: Callable[[float], str]
    log: bool = False
    band: Span | None = None
    line: float | None = None


def strip(rows: Sequence[Row], axis: Axis, label: str) -> Markup:
    """Draw the rows; what lies beyond the axis is cut there, with an arrow."""
    scale = Scale(axis.marks[0], axis.marks[-1], LEFT, RIGHT, axis.log)
    bottom = sum(row.height for row in rows)
    parts, top = list(_ticks(axis, scale, bottom)), 0.0
    for row in rows:
        parts += _row(row, axis, scale, top)
        top += row.height
    return svg.drawing(parts, WIDTH, bottom + AXIS, label)


def _behind(axis: Axis, scale: Scale, y: float) -> Iterator[Markup]:
    """The band and the line, behind a bar only: text stays on plain ground."""
    top, height = y - BAR / 2 - 1, BAR + 2
    if axis.band:
        low, high = (scale.at(end) for end in axis.band)
        yield svg.rectangle(low, top, high - low, height, "band")
        yield svg.line(low, top, low, top + height, "margin")
        yield svg.line(high, top, high, top + height, "margin")
    if axis.line is not None:
        x = scale.at(axis.line)
        yield svg.line(x, top, x, top + height, "zero")


def _ticks(axis: Axis, scale: Scale, bottom: float) -> Iterator[Markup]:
    yield svg.line(LEFT, bottom, RIGHT, bottom, "axis")
    for mark in thinned(axis.marks, axis.line):
        x = scale.at(mark)
        anchor = "start" if x < LEFT + 12 else "end" if x > RIGHT - 12 else "middle"
        yield svg.line(x, bottom, x, bottom + 4, "axis")
        yield svg.words(max(0, min(WIDTH, x)), bottom + 17, axis.write(mark), anchor)


def _row(row: Row, axis: Axis, scale: Scale, top: float) -> Iterator[Markup]:
    if row.heading:
        yield svg.words(0, top + 15, row.heading, class_="heading")
        return
    left = svg.shortened(row.left, max(8, MOST_LETTERS - len(row.right)))
    yield svg.words(LEFT, top + 12, left, class_="name")
    yield svg.words(RIGHT, top + 12, row.right, "end", "value")
    middle = top + TEXT + BAR / 2
    if row.note:
        yield svg.words(LEFT, top + TEXT + 10, row.note, class_="detail")
        middle += NOTE
    if row.at is None:
        return
    yield from _behind(axis, scale, middle)
    if row.far:
        yield from _interval(row.far, scale, middle, "far")
    if row.span:
        yield from _interval(row.span, scale, middle, "span")
    yield mark(row.mark, scale.at(row.at), middle)


def _interval(span: Span, scale: Scale, y: float, class_: str) -> Iterator[Markup]:
    low, high = (scale.at(end) for end in span)
    yield svg.line(low, y, high, y, class_)
    if scale.beyond(span[0]):
        yield svg.path([(low + 5, y - 4), (low, y), (low + 5, y + 4)], "arrow")
    if scale.beyond(span[1]):
        yield svg.path([(high - 5, y - 4), (high, y), (high - 5, y + 4)], "arrow")


def mark(kind: Mark, x: float, y: float) -> Markup:
    """A shape for each kind, so that nothing depends on colour."""
    if kind == "dot":
        return svg.element("circle", cx=x, cy=y, r=4, class_="dot")
    if kind == "square":
        return svg.rectangle(x - 4, y - 4, 8, 8, "square")
    if kind == "hollow":
        return svg.rectangle(x - 4, y - 4, 8, 8, "hollow")
    if kind == "diamond":
        corners = f"M{x - 6:.1f} {y:.1f} l6 -6 l6 6 l-6 6 Z"
        return svg.element("path", d=corners, class_="diamond")
    if kind == "triangle":
        return svg.element("path", d=f"M{x - 6:.1f} {y + 5:.1f} l6 -11 l6 11 Z", class_="triangle")
    return Markup("")
