"""Patients who never were, drawn from a study's public schema alone."""

import numpy as np

from cohortium.client.selftest.check import Vector
from cohortium.common.preprocessing.encode import encode, projection, reduction_sums
from cohortium.common.preprocessing.mock import mock_table
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.study import Study
from cohortium.common.table import Table


def patients(study: Study, count: int, rng: np.random.Generator) -> tuple[Vector, Vector]:
    """Model inputs float32 (count, inputs) and labels as the study's model learns them.

    Every number lies between its public bounds, every code is as likely as another, and the outcome
    has nothing to do with either: to a model all of them are exceptions, as canaries should be.
    The study promises privacy, so that nothing of it is scaled by statistics of patients.
    """
    table, site = mock_table(study, count, rng), study.sites.training[0]
    encoded = encode(table, study, site, _projection(table, study, site))
    return encoded.features, encoded.labels


def _projection(table: Table, study: Study, site: str) -> Statistics | None:
    """As sites agree on one for `preprocessing.reduce`, from these rows alone."""
    how = study.preprocessing.reduce
    if how is None or not how.measured:
        return None
    found = projection(reduction_sums(table, study, site), study)
    return Statistics(count=0, total=(), squares=(), projection=found)
