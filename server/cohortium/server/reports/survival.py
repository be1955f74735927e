"""Calibration of a survival model: predicted against observed risk at each horizon."""

from collections.abc import Sequence

from cohortium.server.reports import svg
from cohortium.server.reports.findings import Horizon
from cohortium.server.reports.plane import Plane
from cohortium.server.reports.scale import levels
from cohortium.server.reports.svg import Figure

WIDTH, HEIGHT = 240.0, 216.0
MOST = 12


def horizon_figures(found: Sequence[Horizon]) -> list[Figure]:
    """A panel for all patients, then for each site: risk over time, predicted and observed."""
    sites = dict.fromkeys(one.site for one in found if one.observed is not None)
    ordered = sorted(sites, key=lambda site: site is not None)
    risks = [r for o in found for r in (o.predicted, o.observed, o.observed_high) if r is not None]
    if not risks:
        return []
    return [_panel(site, found, max(risks)) for site in ordered[:MOST]]


def _panel(site: str | None, found: Sequence[Horizon], highest: float) -> Figure:
    own = [one for one in found if one.site == site and one.observed is not None]
    times = sorted({one.horizon for one in found})
    plane = Plane(
        width=WIDTH,
        height=HEIGHT,
        x_marks=levels(0.0, times[-1]),
        y_marks=levels(0.0, highest),
        x_text=lambda time: f"{time:g}",
        y_text=lambda risk: f"{100 * risk:.0f}%",
        x_name="horizon",
        left=48.0,
    )
    parts = list(plane.frame())
    predicted = [plane.point(o.horizon, o.predicted) for o in own if o.predicted is not None]
    parts.append(svg.path([plane.point(0, 0), *predicted], "everybody"))
    parts += [
        svg.element("path", d=f"M{x - 4:.1f} {y:.1f} l4 -4 l4 4 l-4 4 Z", class_="diamond")
        for x, y in predicted
    ]
    for one in own:
        if one.observed_low is not None and one.observed_high is not None:
            parts.append(plane.whisker(one.horizon, one.observed_low, one.observed_high))
        x, y = plane.point(one.horizon, one.observed or 0.0)
        parts.append(svg.element("circle", cx=x, cy=y, r=4, class_="dot"))
    title = site or "all patients"
    n = next((one.n for one in own if one.n is not None), None)
    known = "patients not shown" if n is None else f"{n:,} patients"
    label = f"Predicted and observed risk, {title}; the numbers are in the table below"
    return Figure(title, svg.drawing(parts, WIDTH, HEIGHT, label), "horizons", known)
