"""The report as one page: self-contained, without scripts, every text escaped."""

from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined

from cohortium.common.metrics.performance import Performance
from cohortium.server.reports import forest, headline, measures, numbers
from cohortium.server.reports.decision import decision_figure
from cohortium.server.reports.margins import margin_figures
from cohortium.server.reports.reliability import reliability_figures
from cohortium.server.reports.report_data import ReportData, SiteReport
from cohortium.server.reports.rounds_chart import rounds_chart
from cohortium.server.reports.survival import horizon_figures
from cohortium.server.reports.svg import Figure
from cohortium.server.reports.tables import tables
from cohortium.server.reports.worth import worth_figures

BAR_WIDTH = 160
BY_GROUP = (  # drawn by group where the study has them; every measure is in the table
    "prevalence",
    "accuracy",
    "sensitivity",
    "specificity",
    "ppv",
    "auroc",
    "observed_to_expected",
    "concordance",
    "r2",
    "mae",
)


@dataclass(frozen=True)
class Bar:
    """Widths (of BAR_WIDTH for the cap) of what a site has spent in this and in all studies."""

    site: str
    study: float
    lifetime: float
    text: str


def html(data: ReportData) -> str:
    """The page."""
    environment = Environment(
        autoescape=True,
        loader=FunctionLoader(_template),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=numbers.percent,
        epsilon=numbers.epsilon,
        size=numbers.size,
        count=numbers.count,
        seconds=numbers.seconds,
        share_interval=lambda one: numbers.interval(one.low, one.high),
    )
    by_site, further = _by_site(data)
    contrasts = data.audit.contrasts if data.audit else ()
    pooled = [c for c in contrasts if c.site is None and not headline.between_sites(c)]
    return environment.get_template("report.html.j2").render(
        data=data,
        tables=tables(data),
        points=headline.points(data),
        accuracy=headline.accuracy(data),
        impossibility=headline.impossibility(data),
        verdicts={name: len(found) for name, found in headline.seen(data).items()},
        bytes_sent=sum(m.bytes for site in data.sites for m in site.messages)
        + sum(m.bytes for m in data.traffic),
        duration=sum(item.seconds for item in data.rounds if item.seconds is not None),
        bars=[bar for site in data.sites if (bar := _bar(site))],
        bar_width=BAR_WIDTH,
        by_site=by_site,
        further=further,
        not_drawn=[
            measures.title(found) for found in data.performance if forest.by_site(found) is None
        ],
        by_group=_by_group(data),
        margins=margin_figures(pooled),
        margins_by_site=margin_figures([c for c in contrasts if c.site is not None]),
        margins_of_sites=margin_figures([c for c in contrasts if headline.between_sites(c)]),
        reliability=reliability_figures(data.reliability),
        decision=decision_figure(data.net_benefit),
        horizons=horizon_figures(data.horizons),
        worth=worth_figures(data.worth.compared),
        progress=_progress(data),
    )


def _template(name: str) -> str:
    folder = resources.files("cohortium.server.reports").joinpath("templates")
    return folder.joinpath(name).read_text(encoding="utf-8")


def _by_site(data: ReportData) -> tuple[list[Figure], list[Figure]]:
    """Of the measures without a threshold or at the study's first, and at its further ones."""
    first = next((f.threshold for f in data.performance if f.threshold is not None), None)
    near = [f for f in data.performance if f.threshold in (None, first)]
    far = [f for f in data.performance if f.threshold not in (None, first)]
    return _drawn(near), _drawn(far)


def _drawn(found: list[Performance]) -> list[Figure]:
    return [figure for one in found if (figure := forest.by_site(one))]


def _by_group(data: ReportData) -> list[Figure]:
    keys = dict.fromkeys(
        (found.measure, found.threshold)
        for group in data.by_group
        for found in group.performance
        if found.measure in BY_GROUP
    )
    first: dict[str, float | None] = {}
    for measure, threshold in keys:
        first.setdefault(measure, threshold)
    figures = (forest.by_group(m, t, data.by_group) for m, t in first.items())
    return [figure for figure in figures if figure]


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


def _progress(data: ReportData) -> list[Figure]:
    accuracy = [(item.round, item.accuracy) for item in data.rounds if item.accuracy is not None]
    loss = [(item.round, item.log_loss) for item in data.rounds if item.log_loss is not None]
    figures = (
        rounds_chart(
            "Accuracy",
            accuracy,
            lambda level: f"{100 * level:.0f}%",
            data.summary.majority_accuracy,
            "dashed: the more frequent outcome",
        ),
        rounds_chart("Log loss", loss, lambda level: f"{level:.3g}", None),
    )
    return [figure for figure in figures if figure]
