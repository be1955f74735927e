"""Which rows train and which are held out: the same answer every time it is asked."""

import hashlib

import numpy as np

from cohortium.common import bands
from cohortium.common.errors import DataError
from cohortium.common.study import Study
from cohortium.common.table import Mask, Table

TRAIN, TEST = "train", "test"
HASH_BYTES = 8


def train_mask(table: Table, study: Study, site: str) -> Mask:
    """bool (n,): true for rows to train on, false for rows held out.

    By `split.column`, or by seed: a patient is held out, with all rows, where a SHA-256 of (seed,
    patient) falls into the lowest `test_fraction` of its range. Each patient's side is its own: an
    exact share would move a second patient when one is added, and so train on two changed rows
    where the privacy promise counts one. Without a patient key, rows must keep their places.

    A site that only evaluates holds everybody out, and the split says nothing. One that holds out
    nobody trains, and cannot be measured.

    Raises:
        DataError: the column holds anything but train and test, or nobody is left to train on.
    """
    if site in study.sites.evaluate_only:
        return np.zeros(table.rows, np.bool_)
    column = study.split.column
    mask = _by_column(table, column) if column else _by_seed(table, study, site)
    if not mask.any():
        raise DataError(f"{site}: split: no row is left to train on; add rows or hold out fewer")
    return mask


def validation_mask(table: Table, study: Study, site: str, train: Mask) -> Mask:
    """bool (n,): true for those of `train` who decide when to stop, instead of training.

    By a coin of the patient's own, as with the split by seed, whichever rule the split has. A
    patient who is held out for evaluation is never among them.
    """
    fraction = study.split.validation_fraction
    if fraction is None:
        return np.zeros(table.rows, np.bool_)
    return train & ~_above(table, study, site, fraction, "validation/")


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
    return _above(table, study, site, study.split.test_fraction or 0.0)


def _above(table: Table, study: Study, site: str, fraction: float, coin: str = "") -> Mask:
    """Whose hash is not in the lowest `fraction` of its range."""
    # A keyed patient keeps its side at every site; a row number means another patient elsewhere.
    salt = "" if study.data_model.table.patient_key else site
    prefix = f"{coin}{study.split.seed}/{salt}/"
    limit = int(fraction * 256**HASH_BYTES)
    return np.array([_hash(f"{prefix}{patient}") >= limit for patient in table.patients.tolist()])


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:HASH_BYTES], "big")
