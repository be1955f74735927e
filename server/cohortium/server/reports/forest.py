"""Forest plots: one measure by site, or by group of patients.

A row for each site, then all patients together, then the mean over sites with what to expect of a
new one (Lewis & Clarke 2001, BMJ 322:1479).
"""

from collections.abc import Callable, Iterator, Sequence

from cohortium.common.metrics.performance import Estimate, Performance
from cohortium.server.reports import measures
from cohortium.server.reports.findings import GroupPerformance
from cohortium.server.reports.scale import levels
from cohortium.server.reports.strip import Axis, Mark, Row, strip
from cohortium.server.reports.svg import Figure

MOST_SITES = 30
REFERENCE = {
    "auroc": 0.5,
    "concordance": 0.5,
    "observed_to_expected": 1.0,
    "mcc": 0.0,
    "r2": 0.0,
    "variance_explained": 0.0,
    "calibration_slope": 1.0,
    "calibration_intercept": 0.0,
    "bias": 0.0,
    "net_benefit": 0.0,
}


def by_site(found: Performance) -> Figure | None:
    """Draw one measure, or None where no site shows it.

    The axis spans the intervals of sites and means; one of a new site may run beyond it, and is
    cut there.
    """
    rows = list(_sites(found))
    return _figure(found.measure, measures.title(found), rows, "performance", "by site")


Key = tuple[str, float | None, float | None, str]


def key(found: Performance) -> Key:
    """What tells a measure of a list from the others of it."""
    return found.measure, found.threshold, found.horizon, found.part


def by_group(wanted: Key, groups: Sequence[GroupPerformance]) -> Figure | None:
    """One measure of every level of every attribute: pooled, and over sites that may differ."""
    rows: list[Row] = []
    attribute, title = None, ""
    for group in groups:
        found = next((f for f in group.performance if key(f) == wanted), None)
        if found is None:
            continue
        title = measures.title(found)
        if group.attribute != attribute:
            attribute = group.attribute
            rows.append(Row(heading=group.attribute))
        rows += _group(group.level, found)
    return _figure(wanted[0], title, rows, "groups", "by group")


def _sites(found: Performance) -> Iterator[Row]:
    for site, shown in list(found.sites.items())[:MOST_SITES]:
        yield _row(found.measure, site, "dot", shown)
    if len(found.sites) > MOST_SITES:
        yield Row(left=f"and {len(found.sites) - MOST_SITES} more sites", right="in the table")
    if found.pooled.value is not None:
        yield _row(found.measure, "all patients", "square", found.pooled)
    yield from _over(found, "mean over sites")


def _group(level: str, found: Performance) -> Iterator[Row]:
    over = list(_over(found, f"{level}, over sites"))
    if found.pooled.value is not None:
        yield _row(found.measure, level, "square", found.pooled)
    elif not over:
        shown = sum(one.value is not None for one in found.sites.values())
        yield Row(
            left=level, right=f"no mean: {shown} site{'s' * (shown > 1)}" if shown else "not shown"
        )
    yield from over


def _over(found: Performance, name: str) -> Iterator[Row]:
    over = found.over_sites
    if over is not None:
        mean = Estimate(value=over.mean, low=over.low, high=over.high)
        yield _row(found.measure, name, "diamond", mean, (over.new_low, over.new_high))


def _row(
    measure: str, left: str, mark: Mark, shown: Estimate, far: tuple[float, float] | None = None
) -> Row:
    known = shown.low is not None and shown.high is not None
    return Row(
        left=left,
        right=measures.estimate(measure, shown, "not shown"),
        mark=mark,
        at=shown.value,
        span=(shown.low or 0.0, shown.high or 0.0) if known else None,
        far=far,
    )


def _figure(measure: str, title: str, rows: Sequence[Row], table: str, by: str) -> Figure | None:
    ends = [row.at for row in rows if row.at is not None]
    ends += [end for row in rows if row.span for end in row.span]
    if not ends:
        return None
    marks = levels(min(ends), max(ends))
    line = REFERENCE.get(measure)
    axis = Axis(
        marks=marks,
        write=_axis_writer(measure),
        line=line if line is not None and marks[0] <= line <= marks[-1] else None,
    )
    label = f"{title} {by}; the numbers are in the table below"
    return Figure(title, strip(rows, axis, label), table)


def _axis_writer(measure: str) -> Callable[[float], str]:
    if measure in measures.SHARES:
        return lambda level: f"{100 * level:.3g}%"
    return lambda level: f"{level:.3g}".replace("-", "\N{MINUS SIGN}")
