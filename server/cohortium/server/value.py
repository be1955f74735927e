"""Was it worth joining: read from a study's rounds."""

from collections.abc import Sequence

from cohortium.common.metrics.value import Value, value
from cohortium.common.study import Study
from cohortium.server.store import RoundRecord, of_main_model


def value_of(study: Study, records: Sequence[RoundRecord]) -> Value:
    """The last evaluation of the main model, and that of each model without a site."""
    main = [record for record in of_main_model(records) if record.evaluations]
    without = {r.left_out: r.evaluations for r in records if r.left_out and r.evaluations}
    if not main:
        return Value(reason="no model was measured")
    ordered = {site: without[site] for site in study.left_out if site in without}
    return value(study, main[-1].evaluations, ordered)
