"""The report's tables. Page and CSV are made from the same cells, so they cannot disagree."""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from cohortium.common.metrics.performance import Estimate, Performance
from cohortium.server.reports import measures, numbers
from cohortium.server.reports.report_data import GroupReport, ReportData, SiteReport

Scalar = str | int | float | None
V = TypeVar("V", str, int, float)


@dataclass(frozen=True)
class Column:
    """One column of the page; `keys` name its columns in the CSV."""

    heading: str
    keys: tuple[str, ...]
    number: bool = False


@dataclass(frozen=True)
class Cell:
    """`values` go to the CSV as they are, `text` to the page; `absent` where text says why not."""

    values: tuple[Scalar, ...]
    text: str
    absent: bool = False


@dataclass(frozen=True)
class Table:
    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def csv(self) -> str:
        """Header and rows; full precision, an absent value is an empty field."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(key for column in self.columns for key in column.keys)
        for row in self.rows:
            writer.writerow(_spreadsheet_safe(value) for cell in row for value in cell.values)
        return text.getvalue()


def tables(data: ReportData) -> dict[str, Table]:
    """All tables by name, in the order of the page."""
    made = (
        results(data),
        performance(data),
        sites(data),
        privacy(data),
        groups(data),
        traffic(data),
        rounds(data),
        logs(data),
    )
    return {table.name: table for table in made}


def results(data: ReportData) -> Table:
    """Per site, then the means; beside each accuracy the one that a model must beat."""
    summary = data.summary
    rows: list[tuple[Cell, ...]] = [
        (
            _text(site.name),
            _cell(site.n, numbers.count, "not shown"),
            _cell(site.accuracy, numbers.percent, "not shown"),
            _cell(site.majority, numbers.percent, "not shown"),
            _cell(site.auroc, numbers.three_digits, "not shown"),
            _cell(site.log_loss, numbers.three_digits, "not shown"),
        )
        for site in data.sites
    ]
    rows += [
        (
            _text("mean of the sites"),
            _blank(),
            _cell(summary.accuracy_mean, numbers.percent, "not measured"),
            _blank(),
            _cell(summary.auroc_mean, numbers.three_digits, "not measured"),
            _cell(summary.log_loss_mean, numbers.three_digits, "not measured"),
        ),
        (
            _text("weighted by patients"),
            _blank(),
            _cell(summary.accuracy_weighted, numbers.percent, "not measured"),
            _cell(summary.majority_accuracy, numbers.percent, "not measured"),
            _blank(),
            _blank(),
        ),
    ]
    return Table(
        "results",
        "The final model on patients it was not trained on",
        (
            Column("Site", ("site",)),
            Column("Test patients", ("test_patients",), number=True),
            Column("Accuracy", ("accuracy",), number=True),
            Column("Majority class", ("majority",), number=True),
            Column("AUROC", ("auroc",), number=True),
            Column("Log loss", ("log_loss",), number=True),
        ),
        tuple(rows),
    )


def performance(data: ReportData) -> Table:
    """Every measure: by site, over all patients, and over sites that differ."""
    return Table(
        "performance",
        "Every measure with its 95% interval",
        (
            Column("Measure", ("measure", "threshold")),
            Column("Where", ("where",)),
            Column("Patients", ("patients",), number=True),
            Column("Estimate", ("value", "low", "high"), number=True),
            Column("At a new site", ("new_low", "new_high"), number=True),
            Column("τ²", ("tau2",), number=True),
            Column("I²", ("i2",), number=True),
            Column("Remarks", ("reason",)),
        ),
        tuple(row for found in data.performance for row in _measured(found)),
    )


def sites(data: ReportData) -> Table:
    """Who took part, and on whose decision."""
    return Table(
        "sites",
        "The sites and their approvals",
        (
            Column("Site", ("site",)),
            Column("Patients", ("patients",), number=True),
            Column("Approved by", ("approved_by",)),
            Column("Approved at", ("approved_at",)),
            Column("Remarks", ("remarks",)),
        ),
        tuple(
            (
                _text(site.name),
                _text(site.patients_band),
                _cell(site.approved_by, str, "not approved"),
                _cell(site.approved_at, _short_time, "not approved"),
                _cell("; ".join(site.reasons) or None, str, "none"),
            )
            for site in data.sites
        ),
    )


def privacy(data: ReportData) -> Table:
    """What each site's patients were promised and what it has cost them."""
    return Table(
        "privacy",
        "Privacy spent by each site",
        (
            Column("Site", ("site",)),
            Column("ε of this study", ("epsilon_spent",), number=True),
            Column("ε of all studies", ("epsilon_lifetime",), number=True),
            Column("Lifetime cap", ("epsilon_cap",), number=True),
            Column("δ", ("delta",), number=True),
            Column("Mechanism", ("sampler",)),
            Column("Noise multiplier", ("noise_multiplier",), number=True),
            Column("Noisy steps", ("steps",), number=True),
            Column("Protected unit", ("unit",)),
        ),
        tuple(
            (
                _text(site.name),
                _cell(site.epsilon_spent, numbers.epsilon, "not accounted"),
                _cell(site.epsilon_lifetime, numbers.epsilon, "not accounted"),
                _cell(site.epsilon_cap, numbers.epsilon, "no cap"),
                _cell(site.delta, numbers.delta, "none"),
                Cell((site.sampler,), _mechanism(site), absent=site.sampler is None),
                _cell(site.noise_multiplier, numbers.three_digits, "none"),
                _cell(site.steps, numbers.count, "none"),
                _text(f"one {site.unit}"),
            )
            for site in data.sites
        ),
    )


def groups(data: ReportData) -> Table:
    """The final model by group of patients."""
    rates = ("accuracy", "sensitivity", "selection_rate")
    headings = ("Accuracy", "Sensitivity", "Predicted positive")
    return Table(
        "groups",
        "By group of patients, with 95% Wilson intervals",
        (
            Column("Attribute", ("attribute",)),
            Column("Group", ("level",)),
            Column("Test patients", ("test_patients",), number=True),
            *(
                Column(heading, (rate, f"{rate}_low", f"{rate}_high"), number=True)
                for rate, heading in zip(rates, headings, strict=True)
            ),
            Column("Sites shown", ("sites_shown", "sites_total"), number=True),
            Column("Remarks", ("reason",)),
        ),
        tuple(
            (
                _text(group.attribute),
                _text(group.level),
                _cell(group.n, numbers.count, _suppressed(data)),
                *(_rate(group, rate, _suppressed(data)) for rate in rates),
                Cell(
                    (group.sites_shown, group.sites_total),
                    f"{group.sites_shown} of {group.sites_total}",
                ),
                _cell(group.reason, str, ""),
            )
            for group in data.groups
        ),
    )


def traffic(data: ReportData) -> Table:
    """Every kind of message that left each site."""
    return Table(
        "traffic",
        "Messages by kind",
        (
            Column("Site", ("site",)),
            Column("Message", ("message",)),
            Column("Count", ("count",), number=True),
            Column("Size in all", ("bytes",), number=True),
        ),
        tuple(
            (
                _text(site.name),
                _text(message.kind),
                _cell(message.count, numbers.count, ""),
                _cell(message.bytes, numbers.size, ""),
            )
            for site in data.sites
            for message in site.messages
        ),
    )


def rounds(data: ReportData) -> Table:
    """The rounds in order."""
    return Table(
        "rounds",
        "Round by round (means of the sites)",
        (
            Column("Round", ("round",), number=True),
            Column("Accuracy", ("accuracy",), number=True),
            Column("AUROC", ("auroc",), number=True),
            Column("Log loss", ("log_loss",), number=True),
            Column("Time", ("seconds",), number=True),
            Column("Replied", ("replied",)),
            Column("Missing", ("missing",)),
        ),
        tuple(
            (
                _cell(item.round, numbers.count, ""),
                _cell(item.accuracy, numbers.percent, "not measured"),
                _cell(item.auroc, numbers.three_digits, "not measured"),
                _cell(item.log_loss, numbers.three_digits, "not measured"),
                _cell(item.seconds, numbers.seconds, "not measured"),
                Cell((" ".join(item.replied),), _who(item.replied, len(data.sites))),
                _cell(" ".join(item.missing) or None, str, "none"),
            )
            for item in data.rounds
        ),
    )


def logs(data: ReportData) -> Table:
    """How long each party's event log is and which digest it has."""
    proof = data.proof
    parties = [("coordinator", proof.coordinator_log_size, proof.coordinator_log_head)]
    parties += [(site.name, site.log_size, site.log_head) for site in data.sites]
    return Table(
        "logs",
        "The event log of every party",
        (
            Column("Party", ("party",)),
            Column("Events", ("events",), number=True),
            Column("Head", ("head",)),
        ),
        tuple(
            (
                _text(name),
                _cell(events, numbers.count, "stays at the site"),
                _cell(head, str, "stays at the site"),
            )
            for name, events, head in parties
        ),
    )


def _measured(found: Performance) -> Iterator[tuple[Cell, ...]]:
    name = Cell((found.measure, found.threshold), measures.title(found))
    none = (Cell((None, None), ""), _blank(), _blank())
    for where, shown in [*found.sites.items(), ("all patients", found.pooled)]:
        patients, reason = _cell(shown.of, numbers.count, ""), _cell(shown.reason or None, str, "")
        yield (name, _text(where), patients, _estimate(found.measure, shown), *none, reason)
    over = found.over_sites
    if over is None:
        unknown = _estimate(found.measure, Estimate())
        yield (name, _text("mean over sites"), _blank(), unknown, *none, _text(found.reason))
        return
    yield (
        name,
        _text(f"mean over {over.sites} sites"),
        _blank(),
        _estimate(found.measure, Estimate(value=over.mean, low=over.low, high=over.high)),
        Cell(
            (over.new_low, over.new_high),
            measures.interval(found.measure, over.new_low, over.new_high),
        ),
        _cell(over.tau2, numbers.three_digits, ""),
        _cell(over.i2, numbers.percent, ""),
        _blank(),
    )


def _estimate(measure: str, shown: Estimate) -> Cell:
    values = (shown.value, shown.low, shown.high)
    if shown.value is None:
        return Cell(values, "not known", absent=True)
    text = measures.writer(measure)(shown.value)
    if shown.low is None or shown.high is None:
        return Cell(values, text)
    return Cell(values, f"{text} ({measures.interval(measure, shown.low, shown.high)})")


def _cell(value: V | None, show: Callable[[V], str], absent: str) -> Cell:
    return Cell((None,), absent, absent=True) if value is None else Cell((value,), show(value))


def _text(value: str) -> Cell:
    return Cell((value,), value)


def _blank() -> Cell:
    return Cell((None,), "")


def _rate(group: GroupReport, rate: str, absent: str) -> Cell:
    value, low, high = (getattr(group, rate + end) for end in ("", "_low", "_high"))
    if value is None:
        return Cell((None, None, None), absent, absent=True)
    if low is None or high is None:
        return Cell((value, low, high), numbers.percent(value))
    return Cell((value, low, high), f"{numbers.percent(value)} ({numbers.interval(low, high)})")


def _suppressed(data: ReportData) -> str:
    if data.minimum_cell is None:
        return "suppressed"
    return f"suppressed: fewer than {data.minimum_cell} patients"


def _mechanism(site: SiteReport) -> str:
    if site.sampler is None:
        return "no differential privacy"
    batches = {
        "poisson": "each patient drawn by chance for each step (Poisson)",
        "full-batch": "all patients in every step",
    }
    return f"Gaussian noise on clipped gradients, {batches[site.sampler]}"


def _who(names: tuple[str, ...], of: int) -> str:
    return f"all {of}" if len(names) == of else ", ".join(names) or "nobody"


def _short_time(text: str) -> str:
    """`2026-11-22T14:03:42.123Z` is `2026-11-22 14:03 UTC`."""
    return f"{text[:10]} {text[11:16]} UTC" if text.endswith("Z") and len(text) > 16 else text


def _spreadsheet_safe(value: Scalar) -> Scalar:
    """A text that a spreadsheet would run gets an apostrophe in front (OWASP, CSV injection)."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return value
