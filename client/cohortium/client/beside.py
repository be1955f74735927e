"""The models beside the federated one: made at the last evaluation, measured, and let go.

Each is trained on the site's training patients without noise. None leaves; of how it does on the
held-out patients, what leaves is counted together with the federated model and passes the same
disclosure control (`common/metrics/evaluation.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cohortium.client.cohort import Cohort
from cohortium.client.own_model import train_own
from cohortium.client.recalibration import apply, recalibrate
from cohortium.client.results import Fit, Recalibration
from cohortium.client.scoring import scores
from cohortium.common.study import Study

Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Others:
    """Scores (n,) of the held-out patients by model, and how the models came about."""

    scored: Mapping[str, Scores]
    recalibration: Recalibration | None = None
    own: Fit | None = None


def make(
    study: Study,
    cohort: Cohort,
    federated: NDArray[np.float32],
    personal: NDArray[np.float32],
    device: str,
) -> Others:
    """Those that the study asks for; none at a site that has nobody to train on.

    Args:
        federated: the final model, float32 (d,).
        personal: Ditto's, or empty where this site has none.
    """
    if not len(cohort.labels):
        return Others({})
    scored, own, recalibration = dict[str, Scores](), None, None
    if study.evaluation.own_model:
        model, own = train_own(study, cohort.features, cohort.labels, device)
        scored["own"] = scores(study, model, cohort.test_features)
    if study.mitigation.recalibrate:
        recalibration = recalibrate(scores(study, federated, cohort.features), cohort.labels)
        scored["recalibrated"] = apply(
            recalibration, scores(study, federated, cohort.test_features)
        )
    if study.mitigation.ditto is not None and len(personal):
        scored["personal"] = scores(study, personal, cohort.test_features)
    return Others(scored, recalibration, own)
