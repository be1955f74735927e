"""Reliability curves: of each site and of all patients, observed share against mean score."""

from collections.abc import Sequence

from cohortium.common.metrics.reliability import ReliabilityBin
from cohortium.server.reports import svg
from cohortium.server.reports.findings import Curve
from cohortium.server.reports.plane import Plane
from cohortium.server.reports.svg import Figure

WIDTH, HEIGHT = 220.0, 216.0
MARKS = [0.0, 0.25, 0.5, 0.75, 1.0]
MOST = 12  # panels; the others are in the table


def reliability_figures(curves: Sequence[Curve]) -> list[Figure]:
    """All patients first, then a panel for each site that shows its bins."""
    drawn = sorted((c for c in curves if c.bins), key=lambda curve: curve.site is not None)
    return [_panel(curve) for curve in drawn[:MOST]]


def _panel(curve: Curve) -> Figure:
    where = curve.site or "all patients"
    title = f"{where}: {curve.subject}" if curve.subject else where
    plane = Plane(
        width=WIDTH,
        height=HEIGHT,
        x_marks=MARKS,
        y_marks=MARKS,
        x_text=lambda share: f"{share:g}",
        y_text=lambda share: f"{100 * share:.0f}%",
        x_name="mean score",
        left=48.0,
    )
    parts = list(plane.frame())
    parts.append(svg.path([plane.point(0, 0), plane.point(1, 1)], "reference"))
    seen = [one for one in curve.bins if one.observed is not None and one.mean_score is not None]
    parts.append(svg.path([_place(plane, one) for one in seen], "curve thin"))
    for one in seen:
        if one.observed_low is not None and one.observed_high is not None:
            parts.append(plane.whisker(one.mean_score or 0.0, one.observed_low, one.observed_high))
        x, y = _place(plane, one)
        parts.append(
            svg.element("circle", cx=x, cy=y, r=4, class_="dot")
            if curve.site
            else svg.rectangle(x - 4, y - 4, 8, 8, "square")
        )
    n = sum(one.n for one in curve.bins)
    of = f"{n:,} patients" + ("" if curve.site else f" of {curve.sites} sites")
    label = f"Observed share by mean score, {title}; the numbers are in the table below"
    return Figure(title, svg.drawing(parts, WIDTH, HEIGHT, label), "reliability", of)


def _place(plane: Plane, one: ReliabilityBin) -> tuple[float, float]:
    return plane.point(one.mean_score or 0.0, one.observed or 0.0)
