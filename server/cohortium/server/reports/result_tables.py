"""Tables of what was measured: by site, by group, and behind each curve."""

from collections.abc import Iterator, Mapping

from cohortium.common.metrics.performance import Estimate, Performance
from cohortium.server.reports import measures, numbers
from cohortium.server.reports.findings import CalibrationLine, GroupPerformance
from cohortium.server.reports.forest import key
from cohortium.server.reports.report_data import ReportData
from cohortium.server.reports.table import Cell, Column, Table, blank, cell, ranged, text

ALL = "all patients"
OVER = (
    Column("At a new site", ("new_low", "new_high"), number=True),
    Column("τ²", ("tau2",), number=True),
    Column("I²", ("i2",), number=True),
    Column("Remarks", ("reason",)),
)


def results(data: ReportData) -> Table:
    """Per site, then the means; beside an accuracy the one that a model must beat."""
    keys = followed(data)
    compared = any(site.majority is not None for site in data.sites)
    majority = (Column("Majority class", ("majority",), number=True),) if compared else ()
    rows: list[tuple[Cell, ...]] = [
        (
            text(site.name),
            cell(site.n, numbers.count, "not shown"),
            *(_value(site.headline, key, "not shown") for key in keys),
            *(cell(site.majority, numbers.percent, "not shown") for _ in majority),
        )
        for site in data.sites
    ]
    summary = data.summary
    means = (
        ("mean of the sites", summary.headline, None, ""),
        ("weighted by patients", summary.weighted, summary.majority_accuracy, "not measured"),
    )
    rows += [
        (
            text(name),
            blank(),
            *(_value(values, key, "not measured") for key in keys),
            *(cell(base, numbers.percent, absent) for _ in majority),
        )
        for name, values, base, absent in means
    ]
    return Table(
        "results",
        "The final model on patients it was not trained on",
        (
            Column("Site", ("site",)),
            Column("Test patients", ("test_patients",), number=True),
            *(Column(measures.name(key), (key,), number=True) for key in keys),
            *majority,
        ),
        tuple(rows),
    )


def followed(data: ReportData) -> list[str]:
    """What this kind of outcome is followed by, accuracy first where it is."""
    keys = dict.fromkeys(key for site in data.sites for key in site.headline)
    keys |= dict.fromkeys(data.summary.headline)
    return sorted(keys, key=lambda key: key != "accuracy")


def performance(data: ReportData) -> Table:
    """Every measure: by site, over all patients, and over sites that differ."""
    return Table(
        "performance",
        "Every measure with its 95% interval",
        (
            Column("Measure", ("measure", "threshold", "horizon", "part")),
            Column("Where", ("where",)),
            Column("Patients", ("patients",), number=True),
            Column("Estimate", ("value", "low", "high"), number=True),
            *OVER,
        ),
        tuple(row for found in data.performance for row in _measured(found, ())),
    )


def groups(data: ReportData) -> Table:
    """Every measure by group, over all patients and over sites."""
    return Table(
        "groups",
        "Every measure by group of patients, with its 95% interval",
        (
            Column("Measure", ("measure", "threshold", "horizon", "part")),
            Column("Attribute", ("attribute",)),
            Column("Group", ("level",)),
            Column("Where", ("where",)),
            Column("Patients", ("patients",), number=True),
            Column("Estimate", ("value", "low", "high"), number=True),
            *OVER,
        ),
        tuple(
            row
            for group, found in _by_measure(data)
            for row in _summed(found, (text(group.attribute), text(group.level)))
        ),
    )


def groups_by_site(data: ReportData) -> Table:
    """Every measure by group at each site: a file of its own, too long for the page."""
    return Table(
        "groups_by_site",
        "Every measure by group of patients at each site",
        (
            Column("Measure", ("measure", "threshold", "horizon", "part")),
            Column("Attribute", ("attribute",)),
            Column("Group", ("level",)),
            Column("Site", ("site",)),
            Column("Patients", ("patients",), number=True),
            Column("Estimate", ("value", "low", "high"), number=True),
            Column("Remarks", ("reason",)),
        ),
        tuple(
            (
                _name(found),
                text(group.attribute),
                text(group.level),
                text(site),
                cell(shown.of, numbers.count, ""),
                estimate(found.measure, shown),
                cell(shown.reason or None, str, ""),
            )
            for group, found in _by_measure(data)
            for site, shown in found.sites.items()
        ),
        on_page=False,
    )


def reliability(data: ReportData) -> Table:
    """The bins behind the reliability curves."""
    rows: list[tuple[Cell, ...]] = [
        (
            text(curve.site or ALL),
            text(curve.subject),
            Cell((one.low, one.high), f"{one.low:g} to {one.high:g}"),
            cell(one.n, numbers.count, ""),
            cell(one.mean_score, numbers.three_digits, "nobody"),
            ranged(one.observed, one.observed_low, one.observed_high, numbers.percent, "nobody"),
            blank(),
        )
        for curve in data.reliability
        for one in curve.bins
    ]
    rows += [
        (
            text(curve.site or ALL),
            text(curve.subject),
            Cell((None, None), ""),
            *(blank() for _ in range(2)),
            Cell((None, None, None), "not shown", absent=True),
            text(curve.reason),
        )
        for curve in data.reliability
        if not curve.bins
    ]
    return Table(
        "reliability",
        "Reliability: patients by score, with 95% Wilson intervals",
        (
            Column("Where", ("where",)),
            Column("Of", ("subject",)),
            Column("Score", ("low", "high"), number=True),
            Column("Patients", ("patients",), number=True),
            Column("Mean score", ("mean_score",), number=True),
            Column("Observed", ("observed", "observed_low", "observed_high"), number=True),
            Column("Remarks", ("reason",)),
        ),
        tuple(rows),
    )


def decision(data: ReportData) -> Table:
    """Net benefit at each threshold."""
    return Table(
        "decision",
        "Net benefit by threshold, with 95% intervals",
        (
            Column("Threshold", ("threshold",), number=True),
            Column("Sites", ("sites",), number=True),
            Column("Patients", ("patients",), number=True),
            Column("Model", ("value", "low", "high"), number=True),
            Column("Treat all", ("treat_all",), number=True),
            Column("Treat nobody", ("treat_none",), number=True),
        ),
        tuple(
            (
                cell(one.threshold, numbers.percent, ""),
                cell(one.sites, numbers.count, ""),
                cell(one.n, numbers.count, ""),
                ranged(one.value, one.low, one.high, _signed),
                cell(one.treat_all, _signed, ""),
                cell(0.0, _signed, ""),
            )
            for one in data.net_benefit
        ),
    )


def calibration(data: ReportData) -> Table:
    """Intercept and slope, pooled and by site."""
    return Table(
        "calibration",
        "Calibration: intercept (0 is right) and slope (1 is right), with 95% intervals",
        (
            Column("Where", ("where",)),
            Column("Attribute", ("attribute",)),
            Column("Group", ("level",)),
            Column("Intercept", ("intercept", "intercept_low", "intercept_high"), number=True),
            Column("Slope", ("slope", "slope_low", "slope_high"), number=True),
            Column("Remarks", ("reason",)),
        ),
        tuple(_calibrated(one) for one in data.calibration),
    )


def horizons(data: ReportData) -> Table:
    """Predicted and observed risk at each horizon."""
    return Table(
        "horizons",
        "Risk by horizon, predicted and observed (Kaplan and Meier), with 95% intervals",
        (
            Column("Where", ("where",)),
            Column("Horizon", ("horizon",), number=True),
            Column("Patients", ("patients",), number=True),
            Column("Predicted", ("predicted",), number=True),
            Column("Observed", ("observed", "observed_low", "observed_high"), number=True),
            Column("Remarks", ("reason",)),
        ),
        tuple(
            (
                text(one.site or ALL),
                cell(one.horizon, lambda time: f"{time:g}", ""),
                cell(one.n, numbers.count, "not shown"),
                cell(one.predicted, numbers.percent, "not shown"),
                ranged(
                    one.observed,
                    one.observed_low,
                    one.observed_high,
                    numbers.percent,
                    "not shown",
                ),
                cell(one.reason or None, str, ""),
            )
            for one in data.horizons
        ),
    )


def estimate(measure: str, shown: Estimate) -> Cell:
    values = (shown.value, shown.low, shown.high)
    return Cell(values, measures.estimate(measure, shown), absent=shown.value is None)


def _value(values: Mapping[str, float | None], key: str, absent: str) -> Cell:
    return cell(values.get(key), measures.writer(key), absent)


def _by_measure(data: ReportData) -> Iterator[tuple[GroupPerformance, Performance]]:
    """All groups of the first measure, then of the second: what is compared stands together."""
    keys = dict.fromkeys(key(found) for group in data.by_group for found in group.performance)
    for wanted in keys:
        for group in data.by_group:
            for found in group.performance:
                if key(found) == wanted:
                    yield group, found


def _name(found: Performance) -> Cell:
    return Cell(key(found), measures.title(found))


def _measured(found: Performance, who: tuple[Cell, ...]) -> Iterator[tuple[Cell, ...]]:
    for where, shown in found.sites.items():
        yield _line(found, who, where, shown)
    yield from _summed(found, who)


def _summed(found: Performance, who: tuple[Cell, ...]) -> Iterator[tuple[Cell, ...]]:
    yield _line(found, who, ALL, found.pooled)
    over = found.over_sites
    none = (Cell((None, None), ""), blank(), blank())
    if over is None:
        unknown = estimate(found.measure, Estimate())
        place = text("mean over sites")
        yield (_name(found), *who, place, blank(), unknown, *none, text(found.reason))
        return
    yield (
        _name(found),
        *who,
        text(f"mean over {over.sites} sites"),
        blank(),
        estimate(found.measure, Estimate(value=over.mean, low=over.low, high=over.high)),
        Cell(
            (over.new_low, over.new_high),
            measures.interval(found.measure, over.new_low, over.new_high),
        ),
        cell(over.tau2, numbers.three_digits, ""),
        cell(over.i2, numbers.percent, ""),
        blank(),
    )


def _line(
    found: Performance, who: tuple[Cell, ...], where: str, shown: Estimate
) -> tuple[Cell, ...]:
    none = (Cell((None, None), ""), blank(), blank())
    patients, reason = cell(shown.of, numbers.count, ""), cell(shown.reason or None, str, "")
    return (
        _name(found),
        *who,
        text(where),
        patients,
        estimate(found.measure, shown),
        *none,
        reason,
    )


def _calibrated(one: CalibrationLine) -> tuple[Cell, ...]:
    return (
        text(one.site or ALL),
        text(one.attribute),
        text(one.level),
        ranged(one.intercept, one.intercept_low, one.intercept_high, _two),
        ranged(one.slope, one.slope_low, one.slope_high, _two),
        cell(one.reason or None, str, ""),
    )


def _signed(value: float) -> str:
    return numbers.minus(f"{value:.3f}")


def _two(value: float) -> str:
    return numbers.minus(f"{value:.2f}")
