"""The loss on patients who decide when to stop: what of it may leave."""

import numpy as np

from cohortium.client.cohort import Cohort, Floats
from cohortium.client.scoring import mean_loss
from cohortium.common.study import Study
from cohortium.common.task import BinaryTask, MulticlassTask, MultilabelTask, SurvivalTask

DECIMALS = 3  # as of other means that are shown


def validation_loss(study: Study, cohort: Cohort, model: Floats, minimum_cell: int) -> float | None:
    """The mean over validation patients, rounded; None where a group of them is too small.

    A model that says the same of everybody would otherwise turn the mean into a count: there must
    be `minimum_cell` patients or more with, and as many without, each outcome that there is.
    """
    if _smallest(study, cohort.validation_labels) < max(1, minimum_cell):
        return None
    loss = mean_loss(study, model, cohort.validation_features, cohort.validation_labels)
    return round(loss, DECIMALS) if np.isfinite(loss) else None


def _smallest(study: Study, labels: Floats) -> int:
    """How many patients the smallest group by outcome has; all where there are no groups."""
    if not len(labels):
        return 0
    if isinstance(study.task, BinaryTask):
        return int(min((labels == one).sum() for one in (0, 1)))
    if isinstance(study.task, MulticlassTask):
        return int(min((labels == one).sum() for one in range(study.outputs)))
    if isinstance(study.task, MultilabelTask):
        return int(min(labels.sum(0).min(), (1 - labels).sum(0).min()))
    if isinstance(study.task, SurvivalTask):
        return int(min(labels[:, -1].sum(), (1 - labels[:, -1]).sum()))
    return len(labels)
