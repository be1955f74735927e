"""The sites of a trial, made up in one process; on nobody's patients, or on public ones."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohortium.client import local_round
from cohortium.client.cohort import Cohort, measure, prepare
from cohortium.client.config import Dataset
from cohortium.client.data.table import read_table
from cohortium.client.fingerprint import Fingerprints
from cohortium.common.errors import DataError
from cohortium.common.metrics.tallies import SiteEvaluation
from cohortium.common.preprocessing.encode import encode_inputs
from cohortium.common.preprocessing.mock import mock_table
from cohortium.common.preprocessing.split import TEST, TRAIN
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.study import Study
from cohortium.common.table import Table
from cohortium.common.trials import FOLD, Trained, Vector, for_trials
from cohortium.common.tuning import Tuning

DEVICE = "cpu"
NOISE = 0.5  # in a mock outcome, in deviations of what inputs say of it


@dataclass(frozen=True)
class MadeUpSite:
    """One of a fold's sites, as `common/trials.py` asks for it."""

    name: str
    study: Study
    cohort: Cohort

    def train(self, start: Vector, round: int) -> Trained:
        """One round, as a real site trains it, with the noise that it would add."""
        found = local_round.train(self.study, self.cohort, start, round, self.name, DEVICE)
        return Trained(found.delta, local_round.weight(self.study, self.cohort), found.loss)

    def evaluate(self, model: Vector) -> SiteEvaluation:
        """Nothing hidden: they are nobody's patients, or public."""
        return local_round.evaluate(self.study, self.cohort, model, 0).leaves


@dataclass(frozen=True, eq=False)
class MadeUpSites:
    """Patients dealt to sites and folds.

    folds: int (rows,) of each site's table, from 0.
    """

    tables: Mapping[str, Table]
    folds: Mapping[str, NDArray[np.int64]]
    digest: str | None

    def statistics(self, study: Study, fold: int) -> Statistics | None:
        """Summed over the sites' training patients."""
        if study.preprocessing.scaling != "federated-standard":
            return None
        first, *others = (measure(self._table(name, fold), study, name) for name in self.tables)
        return sum(others, start=first)

    def sites(
        self, study: Study, fold: int, statistics: Statistics | None
    ) -> Mapping[str, MadeUpSite]:
        return {
            name: MadeUpSite(name, study, prepare(self._table(name, fold), study, name, statistics))
            for name in self.tables
        }

    def _table(self, name: str, fold: int) -> Table:
        side = np.where(self.folds[name] == fold, TEST, TRAIN)
        return replace(self.tables[name], extra={FOLD: side})


def open_bench(study: Study, tuning: Tuning, table: Path | None) -> MadeUpSites:
    """As `common.trials.open_bench` says.

    Raises:
        DataError: the table does not fit the study, or has too few patients.
    """
    names = study.sites.training
    rng = np.random.default_rng(tuning.seed)
    if table is None:
        assert tuning.patients is not None
        whole, digest = _mock(study, tuning.patients * len(names), rng), None
    else:
        agreeing = study.task.columns
        whole = read_table(table, study.data_model, study.columns_read, (), agreeing)
        digest = _digest(table, study)
    site, fold = _dealt(whole.patients, len(names), tuning.folds, rng)
    return MadeUpSites(
        tables={name: whole.select(site == number) for number, name in enumerate(names)},
        folds={name: fold[site == number] for number, name in enumerate(names)},
        digest=digest,
    )


def _dealt(
    patients: NDArray[np.int64], sites: int, folds: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Site and fold of each row, in turn over shuffled patients; all rows of one go together."""
    each, place = np.unique(patients, return_inverse=True)
    if len(each) < sites * folds:
        raise DataError(
            f"tuning: the table has too few patients for {sites} sites and {folds} folds; one for "
            "each fold of each site is the least, and says little"
        )
    order = rng.permutation(len(each))[place]
    return order % sites, order // sites % folds


def _mock(study: Study, count: int, rng: np.random.Generator) -> Table:
    """Mock patients whose outcome has something to do with their inputs.

    Their outcomes, drawn without regard to the inputs, are dealt again: in order of a random linear
    score of the encoded inputs, plus noise. An outcome that is more than a number (places of a
    sequence, contacts) stays as it was drawn, and so does one that is the inputs themselves.
    """
    table = mock_table(study, count, rng)
    columns = study.task.columns
    if not columns or any(name in table.wide for name in columns):
        return table
    plain = for_trials(study)
    plain = plain.model_copy(
        update={"preprocessing": plain.preprocessing.model_copy(update={"scaling": "public-range"})}
    )
    inputs = encode_inputs(table, plain, study.sites.training[0], None)
    score = inputs @ rng.normal(size=inputs.shape[1])
    score += NOISE * score.std() * rng.normal(size=count)
    drawn: dict[str, NDArray[Any]] = {**table.numbers, **table.codes}
    place = np.empty(count, np.int64)  # whose outcome each patient gets
    place[np.argsort(score)] = np.lexsort([drawn[name] for name in reversed(columns)])
    return replace(
        table,
        numbers={k: v[place] if k in columns else v for k, v in table.numbers.items()},
        codes={k: v[place] if k in columns else v for k, v in table.codes.items()},
    )


def _digest(table: Path, study: Study) -> str:
    """As a site takes that of its own: over the images that a table names, too."""
    return Fingerprints().of_dataset(Dataset("public", table, study.data_model, 0.0, 0.0))
