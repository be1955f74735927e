"""Patients who never were, drawn from a study's public schema alone."""

import numpy as np

from cohortium.client.selftest.check import Vector
from cohortium.common.preprocessing.encode import encode
from cohortium.common.preprocessing.mock import mock_table
from cohortium.common.study import Study


def patients(study: Study, count: int, rng: np.random.Generator) -> tuple[Vector, Vector]:
    """Model inputs float32 (count, inputs) and labels as the study's model learns them.

    Every number lies between its public bounds, every code is as likely as another, and the outcome
    has nothing to do with either: to a model all of them are exceptions, as canaries should be.
    The study promises privacy, so that nothing of it is scaled by statistics of patients.
    """
    encoded = encode(mock_table(study, count, rng), study, study.sites.training[0])
    return encoded.features, encoded.labels
