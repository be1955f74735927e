"""A frame with two axes, into which curves and points are drawn."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from markupsafe import Markup

from cohortium.server.reports import svg
from cohortium.server.reports.scale import Scale

TOP, RIGHT_ROOM, BOTTOM = 10.0, 14.0, 36.0


@dataclass(frozen=True)
class Plane:
    """Marks along both axes; the first and the last of each are its ends."""

    width: float
    height: float
    x_marks: list[float]
    y_marks: list[float]
    x_text: Callable[[float], str]
    y_text: Callable[[float], str]
    x_name: str
    left: float = 46.0

    @property
    def x(self) -> Scale:
        return Scale(self.x_marks[0], self.x_marks[-1], self.left, self.width - RIGHT_ROOM)

    @property
    def y(self) -> Scale:
        return Scale(self.y_marks[0], self.y_marks[-1], self.height - BOTTOM, TOP)

    def point(self, x: float, y: float) -> tuple[float, float]:
        return self.x.at(x), self.y.at(y)

    def frame(self) -> Iterator[Markup]:
        """Grid, ticks and the name of the horizontal axis."""
        start, stop, bottom = self.left, self.width - RIGHT_ROOM, self.height - BOTTOM
        for mark in self.y_marks:
            y = self.y.at(mark)
            yield svg.line(start, y, stop, y, "grid")
            yield svg.words(start - 6, y + 4, self.y_text(mark), "end")
        for mark in self.x_marks:
            x = self.x.at(mark)
            yield svg.line(x, bottom, x, bottom + 4, "axis")
            anchor = "end" if x > stop - 4 and len(self.x_text(mark)) > 3 else "middle"
            yield svg.words(min(x, self.width), bottom + 17, self.x_text(mark), anchor)
        yield svg.words((start + stop) / 2, self.height - 3, self.x_name, "middle")

    def whisker(self, x: float, low: float, high: float, class_: str = "span") -> Markup:
        """An upright interval."""
        return svg.line(self.x.at(x), self.y.at(low), self.x.at(x), self.y.at(high), class_)
