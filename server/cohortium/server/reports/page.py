"""The report as one page: self-contained, without scripts, every text escaped."""

from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined

from cohortium.common.metrics.performance import Performance
from cohortium.server.reports import forest, headline, measures, numbers
from cohortium.server.reports.decision import decision_figure
from cohortium.server.reports.explaining import explained_figures
from cohortium.server.reports.margins import margin_figures
from cohortium.server.reports.reliability import reliability_figures
from cohortium.server.reports.report_data import ReportData, SiteReport
from cohortium.server.reports.rounds_chart import rounds_chart
from cohortium.server.reports.survival import horizon_figures
from cohortium.server.reports.svg import Figure
from cohortium.server.reports.tables import tables
from cohortium.server.reports.worth import worth_figures

BAR_WIDTH = 160
DRAWN = frozenset(  # by site, at once; the others on request
    (
        "prevalence",
        "auroc",
        "brier",
        "observed_to_expected",
        "calibration_slope",
        "accuracy",
        "sensitivity",
        "specificity",
        "ppv",
        "npv",
        "macro_sensitivity",
        "macro_ppv",
        "all_right",
        "mae",
        "rmse",
        "r2",
        "bias",
        "concordance",
        "precision_l5",
        "precision_l",
        "mse",
        "variance_explained",
    )
)
BY_GROUP = frozenset(  # by group; every measure is in the table
    (
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
        "all_right",
        "macro_sensitivity",
    )
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
        explained=explained_figures(data.explained.told, data.explained.letters)
        if data.explained
        else [],
        progress=_progress(data),
    )


def _template(name: str) -> str:
    folder = resources.files("cohortium.server.reports").joinpath("templates")
    return folder.joinpath(name).read_text(encoding="utf-8")


def _by_site(data: ReportData) -> tuple[list[Figure], list[Figure]]:
    """Measures of all patients at the first threshold or last horizon; then all that is left."""
    near = [f for f in data.performance if f.measure in DRAWN and _foremost(data, f)]
    far = [f for f in data.performance if f not in near]
    return _drawn(near), _drawn(far)


def _foremost(data: ReportData, found: Performance) -> bool:
    thresholds = [f.threshold for f in data.performance if f.threshold is not None]
    horizons = [f.horizon for f in data.performance if f.horizon is not None]
    return (
        found.threshold in (None, *thresholds[:1])
        and found.horizon in (None, *horizons[-1:])
        and not found.part
    )


def _drawn(found: list[Performance]) -> list[Figure]:
    return [figure for one in found if (figure := forest.by_site(one))]


def _by_group(data: ReportData) -> list[Figure]:
    keys = dict.fromkeys(
        forest.key(found)
        for found in data.performance
        if found.measure in BY_GROUP and _foremost(data, found)
    )
    figures = (forest.by_group(wanted, data.by_group) for wanted in keys)
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
    """What this kind of outcome is followed by from round to round."""
    keys = dict.fromkeys(key for item in data.rounds for key in item.headline)
    figures = (_followed(data, key) for key in keys)
    return [figure for figure in figures if figure]


def _followed(data: ReportData, key: str) -> Figure | None:
    values = [(item.round, item.headline.get(key)) for item in data.rounds]
    seen = [(number, value) for number, value in values if value is not None]
    against = data.summary.majority_accuracy if key == "accuracy" else None
    note = "dashed: the more frequent outcome" if against is not None else ""
    share = key in measures.SHARES

    def write(level: float) -> str:
        return f"{100 * level:.0f}%" if share else f"{level:.3g}"

    return rounds_chart(measures.name(key), seen, write, against, note)
