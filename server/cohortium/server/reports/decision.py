"""The decision curve: net benefit by threshold, beside treating all and treating nobody."""

from collections.abc import Sequence

from cohortium.server.reports import svg
from cohortium.server.reports.findings import NetBenefit
from cohortium.server.reports.plane import Plane
from cohortium.server.reports.scale import levels
from cohortium.server.reports.svg import Figure

WIDTH, HEIGHT = 460.0, 260.0
LOWEST = -0.2  # treating all falls without end as the threshold rises


def decision_figure(points: Sequence[NetBenefit]) -> Figure | None:
    """None with fewer than two thresholds: there is no curve."""
    if len(points) < 2:
        return None
    seen = [end for one in points for end in (one.value, one.low, one.high, one.treat_all)]
    marks = levels(max(LOWEST, min(*seen, 0.0)), max(seen))
    plane = Plane(
        width=WIDTH,
        height=HEIGHT,
        x_marks=[0.0, 0.25, 0.5, 0.75, 1.0],
        y_marks=marks,
        x_text=lambda share: f"{100 * share:.0f}%",
        y_text=lambda value: f"{value:.3g}".replace("-", "\N{MINUS SIGN}"),
        x_name="threshold: the risk above which one would act",
    )
    parts = list(plane.frame())
    zero = plane.y.at(0)
    parts.append(svg.line(plane.x.start, zero, plane.x.stop, zero, "nobody"))
    everybody = _cut([(one.threshold, one.treat_all) for one in points], marks[0])
    if len(everybody) > 1:
        parts.append(svg.path([plane.point(*place) for place in everybody], "everybody"))
    parts += [
        svg.element("path", d=_cross(plane, one), class_="everybody solid")
        for one in points
        if one.treat_all >= marks[0]
    ]
    parts.append(svg.path([plane.point(one.threshold, one.value) for one in points], "curve"))
    for one in points:
        parts.append(plane.whisker(one.threshold, one.low, one.high))
        x, y = plane.point(one.threshold, one.value)
        parts.append(svg.rectangle(x - 4, y - 4, 8, 8, "square"))
    label = "Net benefit by threshold; the numbers are in the table below"
    return Figure("Net benefit, all patients", svg.drawing(parts, WIDTH, HEIGHT, label), "decision")


def _cut(places: Sequence[tuple[float, float]], floor: float) -> list[tuple[float, float]]:
    """The line down to where it leaves the figure."""
    kept = [place for place in places if place[1] >= floor]
    if kept and len(kept) < len(places):
        (x, y), (next_x, next_y) = kept[-1], places[len(kept)]
        kept.append((x + (next_x - x) * (y - floor) / (y - next_y), floor))
    return kept


def _cross(plane: Plane, one: NetBenefit) -> str:
    x, y = plane.point(one.threshold, one.treat_all)
    return f"M{x - 3:.1f} {y - 3:.1f} l6 6 m0 -6 l-6 6"
