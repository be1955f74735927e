"""Which rows train and which are held out: the same answer every time it is asked."""

import hashlib

import numpy as np

from cohortium.common import bands
from cohortium.common.errors import DataError
from cohortium.common.study import Study
from cohortium.common.table import Mask, Table

TRAIN, TEST = "train", "test"


def train_mask(table: Table, study: Study, site: str) -> Mask:
    """bool (n,): true for rows to train on, false for rows held out.

    By `split.column`, or by seed: patients are ordered by a SHA-256 of (seed, patient) and the
    first round(test_fraction * patients) are held out, with all their rows.

    Raises:
        DataError: the column holds anything but train and test, or one side would be empty.
    """
    column = study.split.column
    mask = _by_column(table, column) if column else _by_seed(table, study, site)
    if not mask.any():
        raise DataError(f"{site}: split: no row is left to train on; add rows or hold out fewer")
    if mask.all():
        raise DataError(f"{site}: split: no row is held out for evaluation; add rows to hold out")
    return mask


def _by_column(table: Table, column: str) -> Mask:
    values = table.extra[column]
    train = values == TRAIN
    wrong = int((~train & (values != TEST)).sum())
    if wrong:
        raise DataError(
            f'split.column "{column}": {bands.text(wrong)} rows say neither "{TRAIN}" nor '
            f'"{TEST}"; correct the column'
        )
    return np.asarray(train, dtype=np.bool_)


def _by_seed(table: Table, study: Study, site: str) -> Mask:
    fraction = study.split.test_fraction or 0.0
    # A keyed patient keeps its side at every site; a row number means another patient elsewhere.
    salt = "" if study.data_model.table.patient_key else site
    patients = np.unique(table.patients).tolist()
    order = sorted(patients, key=lambda patient: _rank(study.split.seed, salt, patient))
    held_out = order[: round(fraction * len(patients))]
    return ~np.isin(table.patients, np.array(held_out, dtype=np.int64))


def _rank(seed: int, salt: str, patient: int) -> bytes:
    return hashlib.sha256(f"{seed}/{salt}/{patient}".encode()).digest()
