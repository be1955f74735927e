"""How well a site's own model does on its own patients, by cross-validation; nothing is sent.

Every usable patient of the table takes part, whether the study trains on it or holds it out. In
each fold a model is trained by the recipe of `own_model.py` and scores the patients kept from it:
all of it, from the study's seed, whatever the study begins with or freezes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cohortium.client.cohort import load_table
from cohortium.client.config import Dataset
from cohortium.client.own_model import train_own
from cohortium.client.scoring import scores
from cohortium.common.document import Document
from cohortium.common.errors import DataError, UsageError
from cohortium.common.metrics.evaluation import FEDERATED, evaluate
from cohortium.common.metrics.tallies import BinaryTally
from cohortium.common.preprocessing.encode import Encoded, encode
from cohortium.common.schema import NumberColumn
from cohortium.common.study import Study
from cohortium.common.table import Table
from cohortium.common.transfer import Transfer

MOST_LEFT_OUT = 1000  # models to train, of one patient less each

# stratified: folds with the outcome as frequent in each. leave-one-out: a fold for each patient.
# time-ordered: trained on the earlier patients, measured on the next ones.
Kind = Literal["stratified", "leave-one-out", "time-ordered"]
Rows = NDArray[np.int64]


class CrossValidation(Document):
    """Each fold's results, and those of all patients who were scored, by the model of their fold.

    folds: empty for leave-one-out. `together` compares scores of different models in its AUROC.
    """

    kind: str
    patients: int
    scored: int
    folds: tuple[BinaryTally, ...]
    together: BinaryTally


@dataclass(frozen=True, eq=False)
class Fold:
    """Places of the rows to train on and of those to score."""

    train: Rows
    test: Rows


def crossvalidate(
    study: Study, dataset: Dataset, site: str, kind: Kind, folds: int, time_column: str = ""
) -> CrossValidation:
    """Train and score fold by fold.

    Raises:
        UsageError: the study or the choice of folds does not fit.
        DataError: the table does not: too few patients of an outcome, or no time.
    """
    _check(study, kind, folds, time_column)
    study = study.model_copy(update={"transfer": Transfer()})
    table = load_table(study, dataset, site, (time_column,) if time_column else ())
    encoded = encode(table, study, site)
    places = list(_folds(encoded, table, kind, folds, time_column))
    said = np.full(len(encoded.outcomes), np.nan)
    for fold in places:
        model, _ = train_own(study, encoded.features[fold.train], encoded.labels[fold.train])
        said[fold.test] = scores(study, model, encoded.features[fold.test])
    alone = kind == "leave-one-out"
    scored = np.flatnonzero(np.isfinite(said))
    return CrossValidation(
        kind=kind,
        patients=len(said),
        scored=len(scored),
        folds=() if alone else tuple(_tally(study, encoded, said, f.test) for f in places),
        together=_tally(study, encoded, said, scored),
    )


def _check(study: Study, kind: Kind, folds: int, time_column: str) -> None:
    if study.task.kind != "binary":
        raise UsageError(f"not yet for a {study.task.kind} outcome, only for a binary one")
    if study.measures_first:
        raise UsageError(
            f"{study.name} prepares its inputs by statistics of all sites, which this site alone "
            "has not; it cannot be cross-validated here"
        )
    if kind != "leave-one-out" and folds < 2:
        raise UsageError(f"--folds {folds}: two or more")
    if (kind == "time-ordered") != bool(time_column):
        raise UsageError("--time-column and --kind time-ordered go together")
    column = study.data_model.columns.get(time_column)
    if time_column and column is not None and not isinstance(column, NumberColumn):
        raise UsageError(f'--time-column: "{time_column}" is no number column of the schema')


def _folds(
    encoded: Encoded, table: Table, kind: Kind, folds: int, time_column: str
) -> Iterator[Fold]:
    positive = encoded.outcomes > 0.5
    made: dict[Kind, Callable[[], Iterator[Fold]]] = {
        "stratified": lambda: _stratified(positive, folds),
        "leave-one-out": lambda: _left_out(positive),
        "time-ordered": lambda: _by_time(_times(encoded, table, time_column), positive, folds),
    }
    yield from made[kind]()


def _stratified(positive: NDArray[np.bool_], folds: int) -> Iterator[Fold]:
    """Each outcome's patients are shuffled, and dealt out in turn."""
    fewest = min(int(positive.sum()), int((~positive).sum()))
    if fewest < folds:
        raise DataError(
            f"--folds {folds}: only {fewest} patients have the rarer outcome, and each fold needs "
            "one; ask for fewer folds"
        )
    rng = np.random.default_rng(0)
    fold = np.empty(len(positive), np.int64)
    for rows in (np.flatnonzero(positive), np.flatnonzero(~positive)):
        fold[rng.permutation(rows)] = np.arange(len(rows)) % folds
    for number in range(folds):
        yield Fold(np.flatnonzero(fold != number), np.flatnonzero(fold == number))


def _left_out(positive: NDArray[np.bool_]) -> Iterator[Fold]:
    n = len(positive)
    if n > MOST_LEFT_OUT:
        raise UsageError(
            f"--kind leave-one-out: {n} patients would be {n} models, {MOST_LEFT_OUT} are the "
            "most; use --kind stratified"
        )
    if min(positive.sum(), n - positive.sum()) < 2:
        raise DataError(
            "--kind leave-one-out: fewer than two patients have the rarer outcome, and without "
            "one of them nothing is left to learn it from"
        )
    rows = np.arange(n)
    for place in rows:
        yield Fold(np.delete(rows, place), rows[place : place + 1])


def _by_time(times: NDArray[np.float64], positive: NDArray[np.bool_], folds: int) -> Iterator[Fold]:
    """`folds` + 1 blocks of patients in order of time; equal times stay together."""
    order = np.argsort(times, kind="stable")
    cuts = np.linspace(0, len(times), folds + 2).round().astype(int)[1:-1]
    edges = [int(np.searchsorted(times[order], times[order[cut]])) for cut in cuts]
    bounds = [*edges, len(times)]
    if len(set(bounds)) < len(bounds) or not edges[0]:
        raise DataError(
            f"--folds {folds}: too many patients share a time to make {folds + 1} blocks of them; "
            "ask for fewer folds"
        )
    for begin, end in pairwise(bounds):
        if positive[order[:begin]].min() == positive[order[:begin]].max():
            raise DataError(
                f"--folds {folds}: the earliest {begin} patients all have one outcome, from which "
                "nothing is learnt; ask for fewer folds"
            )
        yield Fold(np.sort(order[:begin]), np.sort(order[begin:end]))


def _times(encoded: Encoded, table: Table, name: str) -> NDArray[np.float64]:
    """Of the usable rows, which `encode` may have made fewer."""
    by_patient = dict(zip(table.patients.tolist(), table.numbers[name].tolist(), strict=True))
    times = np.array([by_patient[patient] for patient in encoded.patients.tolist()])
    if missing := int(np.isnan(times).sum()):
        raise DataError(f'--time-column: "{name}" is missing for {missing} patients')
    return times


def _tally(study: Study, encoded: Encoded, said: NDArray[np.float64], rows: Rows) -> BinaryTally:
    found = evaluate({FEDERATED: said[rows]}, encoded.outcomes[rows], {}, study, 0).overall
    assert isinstance(found, BinaryTally)
    return found
