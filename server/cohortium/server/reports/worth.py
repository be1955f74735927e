"""Whether joining was worth it: the federated model against others on the same patients."""

from collections.abc import Iterator, Sequence

from cohortium.common.metrics.value import Compared
from cohortium.server.reports import measures, numbers
from cohortium.server.reports.scale import levels
from cohortium.server.reports.strip import Axis, Row, strip
from cohortium.server.reports.svg import Figure

OTHERS = {
    "own": "a model of the site's own",
    "recalibrated": "the same model, recalibrated at the site",
    "personal": "the site's personal model",
    "left out": "a model trained without the site",
}
DRAWN = ("accuracy", "auroc")  # more is better, and differences have intervals
MOST_ROWS = 40


def worth_figures(compared: Sequence[Compared]) -> list[Figure]:
    """A strip for each other model and measure: right of 0, the federated model is better."""
    keys = dict.fromkeys((c.other, c.measure) for c in compared if c.measure in DRAWN)
    figures = (_figure([c for c in compared if (c.other, c.measure) == key]) for key in keys)
    return [figure for figure in figures if figure]


def other(name: str) -> str:
    return OTHERS.get(name, name)


def written(measure: str, value: float | None) -> str:
    """A difference with its sign, in points where the measure is a share."""
    if value is None:
        return "not known"
    if measure in measures.SHARES:
        return numbers.points(value)
    return numbers.signed(value, 3)


def difference(one: Compared) -> str:
    if one.difference is None:
        return one.reason or "not shown"
    text = written(one.measure, one.difference)
    if one.measure in measures.SHARES:
        text += " points"
    if one.low is None or one.high is None:
        return text
    return f"{text} ({written(one.measure, one.low)} to {written(one.measure, one.high)})"


def where(one: Compared) -> str:
    place = one.site or "all patients"
    return f"{one.attribute}: {one.level}, {place}" if one.attribute else place


def _figure(own: Sequence[Compared]) -> Figure | None:
    ends = [e for c in own for e in (c.difference, c.low, c.high) if e is not None]
    if not ends:
        return None
    first = own[0]
    marks = [round(mark, 6) for mark in levels(min(*ends, 0.0), max(*ends, 0.0))]
    share = first.measure in measures.SHARES

    def write(mark: float) -> str:
        return numbers.signed(100 * mark, 0) if share else numbers.signed(mark, 2)

    title = f"{measures.name(first.measure)}: federated minus {other(first.other)}"
    axis = Axis(marks=marks, write=write, line=0.0)
    label = f"{title}; the numbers are in the table below"
    return Figure(title, strip(list(_rows(own)), axis, label), "worth")


def _rows(own: Sequence[Compared]) -> Iterator[Row]:
    before = ""
    for one in own[:MOST_ROWS]:
        if one.attribute and one.attribute != before:
            yield Row(heading=one.attribute)
        before = one.attribute
        known = one.low is not None and one.high is not None
        name = one.level if one.attribute and not one.site else where(one)
        yield Row(
            left=name,
            right=difference(one) if one.difference is not None else "not shown",
            mark="dot" if one.site else "square",
            at=one.difference,
            span=(one.low or 0.0, one.high or 0.0) if known else None,
        )
    if len(own) > MOST_ROWS:
        yield Row(left=f"and {len(own) - MOST_ROWS} more", right="in the table")
