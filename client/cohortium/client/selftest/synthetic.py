"""Patients who never were, drawn from a study's public schema alone."""

import numpy as np

from cohortium.client.selftest.check import Vector
from cohortium.common.preprocessing.encode import encode
from cohortium.common.preprocessing.split import TRAIN
from cohortium.common.schema import NumberColumn
from cohortium.common.study import Study
from cohortium.common.table import Table


def patients(study: Study, count: int, rng: np.random.Generator) -> tuple[Vector, Vector]:
    """Model inputs float32 (count, inputs) and labels as the study's model learns them.

    Every number lies between its public bounds, every code is as likely as another, and the outcome
    has nothing to do with either: to a model all of them are exceptions, as canaries should be.
    The study promises privacy, so that nothing of it is scaled by statistics of patients.
    """
    encoded = encode(_table(study, count, rng), study, study.sites.training[0])
    return encoded.features, encoded.labels


def _table(study: Study, count: int, rng: np.random.Generator) -> Table:
    numbers, codes = {}, {}
    for name in study.columns_read:
        column = study.data_model.narrow(name)
        if isinstance(column, NumberColumn):
            numbers[name] = rng.uniform(column.low, column.high, count)
        else:
            codes[name] = rng.integers(0, len(column.codes), count).astype(np.int16)
    extra = {study.split.column: np.full(count, TRAIN)} if study.split.column else {}
    return Table(numbers=numbers, codes=codes, patients=np.arange(count), extra=extra)
