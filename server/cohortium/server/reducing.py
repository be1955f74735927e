"""Before the first round: what all sites do with the block that the study reduces."""

from dataclasses import replace

import numpy as np

from cohortium.common.errors import ProtocolError
from cohortium.common.messages import Measure, Measured, Vector
from cohortium.common.preprocessing.encode import projection, reduced_width
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.study import Study
from cohortium.server.desk import Desk
from cohortium.server.round import Exchange, Plan, gather

MAX_SUM = 1e12  # of one site; patients' scaled values are small


def agree_on_projection(plan: Plan, desk: Desk) -> Plan:
    """Ask for sums, add them up, and keep the projection as part of the study's statistics.

    Raises:
        StudyFailed: too few sites sent them.
    """
    study, seen = plan.study, Exchange()
    total = np.zeros(reduced_width(study))
    measured = set[str]()
    training = replace(plan, sites=plan.trainers)
    for said in gather(
        training, desk, Measure(), Measured, round=0, seen=seen, doing="measuring for the reduction"
    ):
        vector = said.vector

        def check(message: Measured, vector: Vector = vector) -> None:
            check_sums(study, message, vector)

        if seen.note(said, check) is not None:
            total += vector
            measured.add(said.site)
            seen.count_in(said.site)
    found = Statistics(count=0, total=(), squares=(), projection=projection(total, study))
    desk.store.keep_statistics(study.digest, found)
    present = tuple(n for n in plan.sites if n in measured or n not in plan.trainers)
    return Plan(study, present, found, plan.patients, {**seen.refused})


def check_sums(study: Study, message: Measured, vector: Vector) -> None:
    """Raise ProtocolError for sums that no patients of this study give."""
    if vector.shape != (reduced_width(study),) or not np.isfinite(vector).all():
        raise ProtocolError("the sums for the reduction have another length than the study's block")
    if np.abs(vector).max() > MAX_SUM:
        raise ProtocolError("sums that no patients give")
    if (message.spent is not None) != (study.privacy.mechanism != "none"):
        raise ProtocolError("sums say what they spent if, and only if, the study is private")
