"""What the final model goes by, over all sites that tell it."""

from collections.abc import Mapping

from cohortium.common.explaining.pooled import pooled
from cohortium.common.metrics.tallies import SiteEvaluation
from cohortium.common.study import Study
from cohortium.common.wide_columns import SequenceColumn
from cohortium.server.reports.findings import ExplainedReport


def explained_by(study: Study, evaluations: Mapping[str, SiteEvaluation]) -> ExplainedReport | None:
    """What the final model goes by; None where no site tells it."""
    told = {site: one.explained for site, one in evaluations.items() if one.explained}
    if not told:
        return None
    columns = (study.data_model.columns[name] for name in study.data.features)
    letters = next((one.letters for one in columns if isinstance(one, SequenceColumn)), "")
    return ExplainedReport(told=pooled(told), sites=len(told), letters=letters)
