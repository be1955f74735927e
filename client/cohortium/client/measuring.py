"""Sums over this site's training patients, sent once before the first round."""

from cohortium.client import policy
from cohortium.client.answering import Answer
from cohortium.client.site import Site
from cohortium.common.messages import Measured
from cohortium.common.privacy.plan import planned_reduction
from cohortium.common.study import Study


def measured(site: Site, study: Study) -> Answer:
    """For federated-standard scaling, or for `preprocessing.reduce` with noise that is paid for.

    Raises:
        RefusedError: the cohort is smaller than the site allows.
    """
    if study.preprocessing.scaling == "federated-standard":
        statistics = site.workshop.measure(study)
        policy.check_cohort(statistics.count, site.policy, site.directory.config)
        return Answer(Measured(statistics=statistics), study)
    mechanism = planned_reduction(study)
    patients, sums = site.workshop.reduction(study, mechanism)
    policy.check_cohort(patients, site.policy, site.directory.config)
    return Answer(Measured(statistics=None), study, sums, len(sums), mechanism)
