"""Where a study's patients are read and trained on: the same work inline, or in its own process."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cohortium.client.calibration import Inquiry
from cohortium.client.cohort import Cohort, load_table, measure, measure_reduction, prepare
from cohortium.client.config import Dataset
from cohortium.client.results import Evaluation
from cohortium.client.training.team import ALONE, Team
from cohortium.client.training.update import LocalUpdate
from cohortium.common.document import Document, canonical
from cohortium.common.messages import EMPTY, Calibrated
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.privacy.ledger_row import CrossCheck
from cohortium.common.study import Study
from cohortium.common.table import Table

Vector = npt.NDArray[np.float32]
Stamp = tuple[int, ...]


class Prepared(Document):
    """A cohort in three numbers: `patients` is exact and for the site's eyes only.

    travelling: how many of the model's parameters are in a round's message; None for all.
    """

    patients: int
    band: str
    weight: float
    travelling: int | None = None


class Workshop(Protocol):
    """One study after the other, or several; `close` forgets a study's patients.

    All methods raise DataError for a table that does not fit, RefusedError for what a rule
    forbids and CohortiumError where the work itself broke down.
    """

    def prepare(self, study: Study, statistics: Statistics | None = None) -> Prepared:
        """Read and encode the cohort; quick when it was done before."""

    def measure(self, study: Study) -> Statistics:
        """This site's sums for federated-standard scaling."""

    def reduction(self, study: Study, mechanism: Mechanism | None) -> tuple[int, Vector]:
        """How many patients, and their sums for `preprocessing.reduce`, with the noise given."""

    def train(
        self, study: Study, statistics: Statistics | None, start: Vector, round_number: int
    ) -> LocalUpdate:
        """One round from the model `start`, float32 (parameters,)."""

    def personalise(
        self,
        study: Study,
        statistics: Statistics | None,
        start: Vector,
        personal: Vector,
        round_number: int,
    ) -> Vector:
        """Ditto's personal model after a round that starts from `start`; both float32 (d,)."""

    def validate(
        self, study: Study, statistics: Statistics | None, model: Vector, minimum_cell: int
    ) -> float | None:
        """The rounded mean loss on validation patients; None where they are too few."""

    def evaluate(
        self,
        study: Study,
        statistics: Statistics | None,
        model: Vector,
        minimum_cell: int,
        last: bool = False,
        personal: Vector = EMPTY,
    ) -> Evaluation:
        """Metrics on held-out patients: what may leave, and what stays.

        Args:
            last: of the final model, with the site's own models beside it.
            personal: Ditto's, if this site has one.
        """

    def calibrate(
        self,
        study: Study,
        statistics: Statistics | None,
        model: Vector,
        inquiry: Inquiry,
        minimum_cell: int,
    ) -> Calibrated:
        """Sums for the calibration of a model on held-out patients, after disclosure control."""

    def cross_check(self, study: Study, plan: Mechanism, delta: float) -> CrossCheck | None:
        """Another program's epsilon of a plan (`privacy.cross_check`)."""

    def close(self, study: str) -> None:
        """Forget the patients of a study (by digest)."""


@dataclass
class Inline:
    """The work in this process."""

    site: str
    device: str
    load_dataset: Callable[[str], Dataset]
    tables: dict[str, tuple[Stamp, Table]] = field(default_factory=dict)
    cohorts: dict[str, tuple[tuple[Stamp, bytes], Cohort]] = field(default_factory=dict)
    team: Team = ALONE

    def prepare(self, study: Study, statistics: Statistics | None = None) -> Prepared:
        from cohortium.client.local_round import weight
        from cohortium.common.models.building import travelling

        cohort = self._cohort(study, statistics)
        return Prepared(
            patients=cohort.patients,
            band=cohort.band,
            weight=weight(study, cohort),
            travelling=travelling(study),
        )

    def measure(self, study: Study) -> Statistics:
        return measure(self._table(study)[1], study, self.site)

    def reduction(self, study: Study, mechanism: Mechanism | None) -> tuple[int, Vector]:
        return measure_reduction(self._table(study)[1], study, self.site, mechanism)

    def train(
        self, study: Study, statistics: Statistics | None, start: Vector, round_number: int
    ) -> LocalUpdate:
        from cohortium.client import local_round  # slow to import: torch and Opacus

        cohort = self._cohort(study, statistics)
        whom = (self.site, self.device, self.team)
        return local_round.train(study, cohort, start, round_number, *whom)

    def personalise(
        self,
        study: Study,
        statistics: Statistics | None,
        start: Vector,
        personal: Vector,
        round_number: int,
    ) -> Vector:
        from cohortium.client.own_model import train_personal

        cohort = self._cohort(study, statistics)
        return train_personal(study, cohort, personal, start, round_number, self.device)

    def validate(
        self, study: Study, statistics: Statistics | None, model: Vector, minimum_cell: int
    ) -> float | None:
        from cohortium.client.validation import validation_loss

        return validation_loss(study, self._cohort(study, statistics), model, minimum_cell)

    def evaluate(
        self,
        study: Study,
        statistics: Statistics | None,
        model: Vector,
        minimum_cell: int,
        last: bool = False,
        personal: Vector = EMPTY,
    ) -> Evaluation:
        from cohortium.client import local_round

        cohort = self._cohort(study, statistics)
        return local_round.evaluate(
            study,
            cohort,
            model,
            minimum_cell,
            last=last,
            personal=personal,
            device=self.device,
        )

    def calibrate(
        self,
        study: Study,
        statistics: Statistics | None,
        model: Vector,
        inquiry: Inquiry,
        minimum_cell: int,
    ) -> Calibrated:
        from cohortium.client import local_round

        cohort = self._cohort(study, statistics)
        return local_round.calibrate(study, cohort, model, inquiry, minimum_cell)

    def cross_check(self, study: Study, plan: Mechanism, delta: float) -> CrossCheck | None:
        from cohortium.common.privacy.cross_check import cross_check  # slow: torch and Opacus

        return cross_check((plan,), delta)

    def close(self, study: str) -> None:
        self.tables.pop(study, None)
        self.cohorts.pop(study, None)

    def _table(self, study: Study) -> tuple[Stamp, Table]:
        """Read again when the file changed: what a person approved is what is trained on."""
        dataset = self.load_dataset(study.data.dataset)
        stamp, kept = _stamp(dataset.path), self.tables.get(study.digest)
        if kept is None or kept[0] != stamp:
            kept = (stamp, load_table(study, dataset, self.site))
            self.tables[study.digest] = kept
        return kept

    def _cohort(self, study: Study, statistics: Statistics | None) -> Cohort:
        """Kept until the study is closed, its table changes or it asks with other statistics."""
        stamp, table = self._table(study)
        key = (stamp, b"" if statistics is None else canonical(statistics))
        kept = self.cohorts.get(study.digest)
        if kept is None or kept[0] != key:
            kept = (key, prepare(table, study, self.site, statistics))
            self.cohorts[study.digest] = kept
        return kept[1]


def _stamp(path: Path) -> Stamp:
    """Size, time of change and inode; empty for a file that is not there."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_size, found.st_mtime_ns, found.st_ino)
