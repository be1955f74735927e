"""All tables of a report."""

from cohortium.server.reports import fairness_tables, result_tables, site_tables
from cohortium.server.reports.explaining import explained_table
from cohortium.server.reports.report_data import ReportData
from cohortium.server.reports.table import Table

MADE = (
    result_tables.results,
    result_tables.performance,
    result_tables.reliability,
    result_tables.calibration,
    result_tables.decision,
    result_tables.horizons,
    result_tables.groups,
    result_tables.groups_by_site,
    fairness_tables.gaps,
    fairness_tables.gaps_by_site,
    fairness_tables.equalised_odds,
    fairness_tables.extremes,
    fairness_tables.invisible,
    explained_table,
    fairness_tables.worth_table,
    fairness_tables.crossed,
    fairness_tables.flags,
    site_tables.sites,
    site_tables.privacy,
    site_tables.traffic,
    site_tables.rounds,
    site_tables.logs,
)


def tables(data: ReportData) -> dict[str, Table]:
    """All tables by name, in the order of the page."""
    return {table.name: table for table in (make(data) for make in MADE)}
