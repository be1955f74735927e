"""One study's report on disk: report.html for people, report.json and CSV files for machines."""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from cohortium.common.errors import CohortiumError
from cohortium.server.reports import measures, numbers
from cohortium.server.reports.charts import LineChart, line_chart
from cohortium.server.reports.forest import Forest, forest
from cohortium.server.reports.report_data import GroupReport, ReportData, SiteReport
from cohortium.server.reports.tables import tables

BAR_WIDTH = 160


@dataclass(frozen=True)
class Bar:
    """Widths (of BAR_WIDTH for the cap) of what a site has spent in this and in all studies."""

    site: str
    study: float
    lifetime: float
    text: str


@dataclass(frozen=True)
class Whisker:
    """A rate and its interval on a line of BAR_WIDTH for 0 to 100%."""

    at: float
    low: float
    high: float


def write_report(data: ReportData, directory: Path) -> Path:
    """Write report.html, report.json and the CSV files; return the page's path.

    Raises:
        CohortiumError: the directory cannot be written.
    """
    files = {
        "report.html": html(data),
        "report.json": json.dumps(data.model_dump(mode="json"), indent=2, ensure_ascii=False)
        + "\n",
        **{f"{name}.csv": table.csv() for name, table in tables(data).items()},
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise CohortiumError(
            f"{directory}: the report cannot be written ({error.strerror}); choose another place"
        ) from None
    return directory / "report.html"


def html(data: ReportData) -> str:
    """The page: self-contained, without scripts, every text escaped."""
    source = resources.files("cohortium.server.reports").joinpath("report.html.j2")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        percent=numbers.percent,
        epsilon=numbers.epsilon,
        size=numbers.size,
        count=numbers.count,
        seconds=numbers.seconds,
    )
    return environment.from_string(source.read_text(encoding="utf-8")).render(
        data=data,
        tables=tables(data),
        verdict=verdict(data),
        spent=max(
            (s.epsilon_spent for s in data.sites if s.epsilon_spent is not None), default=None
        ),
        bytes_sent=sum(message.bytes for site in data.sites for message in site.messages),
        duration=sum(item.seconds for item in data.rounds if item.seconds is not None),
        bars=[bar for site in data.sites if (bar := _bar(site))],
        whiskers=[_whisker(group) for group in data.groups],
        bar_width=BAR_WIDTH,
        forests=_forests(data, further=False),
        further_forests=_forests(data, further=True),
        not_drawn=[measures.title(found) for found in data.performance if forest(found) is None],
        accuracy_chart=_accuracy_chart(data),
        log_loss_chart=_log_loss_chart(data),
    )


def verdict(data: ReportData) -> str:
    """One sentence: is the model better than knowing nothing?"""
    accuracy, majority = data.summary.accuracy_weighted, data.summary.majority_accuracy
    if accuracy is None:
        accuracy = data.summary.accuracy_mean
    if accuracy is None:
        return "No site could show a result, so nothing is known about this model."
    share = numbers.percent(accuracy)
    if majority is None:
        return f"The model is right for {share} of the test patients."
    base = numbers.percent(majority)
    if accuracy <= majority:
        return (
            f"The model is right for {share} of the test patients: no better than always giving "
            f"the more frequent outcome ({base})."
        )
    return (
        f"The model is right for {share} of the test patients; always giving the more frequent "
        f"outcome would be right for {base}."
    )


def _bar(site: SiteReport) -> Bar | None:
    """None where there is no cap to compare with."""
    if not site.epsilon_cap or site.epsilon_spent is None:
        return None
    lifetime = max(site.epsilon_lifetime or 0.0, site.epsilon_spent)
    return Bar(
        site=site.name,
        study=round(BAR_WIDTH * min(site.epsilon_spent / site.epsilon_cap, 1.0), 1),
        lifetime=round(BAR_WIDTH * min(lifetime / site.epsilon_cap, 1.0), 1),
        text=f"{numbers.epsilon(lifetime)} of {numbers.epsilon(site.epsilon_cap)}",
    )


def _whisker(group: GroupReport) -> Whisker | None:
    low, value, high = group.accuracy_low, group.accuracy, group.accuracy_high
    if low is None or value is None or high is None:
        return None
    return Whisker(*(round(BAR_WIDTH * share, 1) for share in (value, low, high)))


def _forests(data: ReportData, *, further: bool) -> list[Forest]:
    """Of the measures without a threshold or at the study's first, or of those at further ones."""
    known = [found.threshold for found in data.performance if found.threshold is not None]
    chosen = (f for f in data.performance if (f.threshold not in (None, *known[:1])) == further)
    return [plot for found in chosen if (plot := forest(found))]


def _accuracy_chart(data: ReportData) -> LineChart | None:
    points = [(item.round, item.accuracy) for item in data.rounds if item.accuracy is not None]
    return line_chart(points, lambda level: f"{100 * level:.0f}%", data.summary.majority_accuracy)


def _log_loss_chart(data: ReportData) -> LineChart | None:
    points = [(item.round, item.log_loss) for item in data.rounds if item.log_loss is not None]
    return line_chart(points, lambda level: f"{level:.3g}", None)
