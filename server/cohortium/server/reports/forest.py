"""Where the marks of a forest plot go, in SVG user units; the template draws.

One row for each site, then all patients together, then the mean over sites with what to expect of
a new one (Lewis & Clarke 2001, BMJ 322:1479).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from cohortium.common.metrics.performance import Estimate, Performance
from cohortium.server.reports import measures
from cohortium.server.reports.charts import Tick, levels

LEFT, RIGHT = 126, 300  # of 480
TOP, ROW, BOTTOM = 6, 20, 26
LONGEST_NAME = 17

Kind = Literal["site", "pooled", "over"]
Span = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """A mark with its interval, and the interval of a new site; None where there is none.

    `text` stands beside it: the numbers, or why there are none.
    """

    label: str
    kind: Kind
    y: float
    at: float | None
    span: Span | None
    new: Span | None
    text: str


@dataclass(frozen=True)
class Forest:
    title: str
    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]
    bottom: float
    height: float


@dataclass(frozen=True)
class _Line:
    label: str
    kind: Kind
    shown: Estimate
    new: Span | None


def forest(found: Performance) -> Forest | None:
    """Lay out one measure, or None where no site shows it.

    The axis spans the intervals of sites and means; one of a new site may run beyond it, and is
    cut there.
    """
    lines = list(_lines(found))
    ends = [end for line in lines for end in _ends(line.shown)]
    if not ends:
        return None
    axis = levels(min(ends), max(ends))

    def x(value: float) -> float:
        share = (value - axis[0]) / (axis[-1] - axis[0])
        return round(LEFT + max(0.0, min(1.0, share)) * (RIGHT - LEFT), 1)

    def span(low: float | None, high: float | None) -> Span | None:
        return None if low is None or high is None else (x(low), x(high))

    bottom = TOP + ROW * len(lines)
    return Forest(
        title=measures.title(found),
        rows=tuple(
            Row(
                label=_short(line.label),
                kind=line.kind,
                y=TOP + ROW * (place + 0.5),
                at=None if line.shown.value is None else x(line.shown.value),
                span=span(line.shown.low, line.shown.high),
                new=span(*line.new) if line.new else None,
                text=_text(found.measure, line.shown),
            )
            for place, line in enumerate(lines)
        ),
        ticks=tuple(Tick(x(level), f"{level:.3g}") for level in axis),
        bottom=bottom,
        height=bottom + BOTTOM,
    )


def _lines(found: Performance) -> Iterator[_Line]:
    for site, shown in found.sites.items():
        yield _Line(site, "site", shown, None)
    if found.pooled.value is not None:
        yield _Line("all patients", "pooled", found.pooled, None)
    over = found.over_sites
    if over is not None:
        mean = Estimate(value=over.mean, low=over.low, high=over.high)
        yield _Line("mean over sites", "over", mean, (over.new_low, over.new_high))


def _ends(shown: Estimate) -> list[float]:
    return [end for end in (shown.value, shown.low, shown.high) if end is not None]


def _text(measure: str, shown: Estimate) -> str:
    if shown.value is None:
        return "not shown"
    value = measures.writer(measure)(shown.value)
    if shown.low is None or shown.high is None:
        return value
    return f"{value} ({measures.interval(measure, shown.low, shown.high)})"


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
