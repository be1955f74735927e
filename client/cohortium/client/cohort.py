"""A site's patients as one study sees them: read, checked, encoded, in memory while it runs."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cohortium.client.config import Dataset
from cohortium.client.data.table import read_table
from cohortium.common import bands
from cohortium.common.document import digest
from cohortium.common.errors import RefusedError
from cohortium.common.preprocessing.encode import (
    Encoded,
    encode,
    reduction_sums,
    require_classes,
    site_statistics,
)
from cohortium.common.preprocessing.split import train_mask
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.privacy.noise import NoiseSource
from cohortium.common.study import Study
from cohortium.common.table import Table

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Cohort:
    """What training and evaluation need.

    Attributes:
        features, labels: float32 (n, inputs), and (n,) or (n, columns), of the training patients;
            the outcome as a model learns it (see `preprocessing/labels.py`).
        test_features: float32 (m, inputs) of the held-out patients.
        test_labels: float64 (m,) or (m, columns), their outcome as it was observed, in its units.
        test_attributes: int16 level per held-out patient (-1 unknown), by fairness attribute.
        validation_features, validation_labels: float32, as of the training patients: of those who
            decide when to stop, and are in neither of the others.
        nominal: public number that stands for `patients` (their size band), used wherever a size
            leaves.
        band: the same as text.
    """

    features: Floats
    labels: Floats
    test_features: Floats
    test_labels: npt.NDArray[np.float64]
    test_attributes: dict[str, npt.NDArray[np.int16]]
    nominal: int
    band: str
    validation_features: Floats = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    validation_labels: Floats = field(default_factory=lambda: np.zeros(0, np.float32))

    @property
    def patients(self) -> int:
        """Exact number of training patients, or of all at a site that only evaluates.

        It never leaves unless the policy allows it.
        """
        return len(self.labels) or len(self.test_labels)


def load_table(study: Study, dataset: Dataset, site: str, also: tuple[str, ...] = ()) -> Table:
    """Read the columns that the study may read; no split where every patient is held out.

    Args:
        also: further columns, for the site's own use.

    Raises:
        RefusedError: the dataset was registered with another schema than the study's.
        DataError: the file does not fit the schema.
    """
    if digest(dataset.data_model) != digest(study.data_model):
        raise RefusedError(
            "data.schema",
            f'dataset "{dataset.name}" is registered here with another schema than the study\'s; '
            "coordinator and site operator must agree on one schema.toml",
        )
    split = None if site in study.sites.evaluate_only else study.split.column
    extra = (split,) if split else ()
    agreeing = study.task.columns
    columns = tuple(dict.fromkeys((*study.columns_read, *also)))
    return read_table(dataset.path, dataset.data_model, columns, extra, agreeing)


def prepare(table: Table, study: Study, site: str, statistics: Statistics | None = None) -> Cohort:
    """Encode a table for one study; raises DataError for what cannot be trained on."""
    encoded = encode(table, study, site, statistics)
    require_classes(encoded, study, site)
    cohort = _split(encoded)
    _require_a_batch(cohort, study)
    return cohort


def measure(table: Table, study: Study, site: str) -> Statistics:
    """This site's sums for federated-standard scaling, over training patients."""
    return site_statistics(table, study, site)


def measure_reduction(
    table: Table, study: Study, site: str, mechanism: Mechanism | None
) -> tuple[int, Floats]:
    """How many patients train, and their sums for `preprocessing.reduce`, float32.

    Args:
        mechanism: whose noise they get; None only where the study promises no privacy.
    """
    total = reduction_sums(table, study, site)
    if mechanism is not None:
        total = total + NoiseSource().gaussian(total.shape, mechanism.noise_multiplier)
    elif study.privacy.mechanism != "none":
        raise RefusedError("privacy.reduce", "sums without noise leave no private study")
    return int(train_mask(table, study, site).sum()), total.astype(np.float32)


def _require_a_batch(cohort: Cohort, study: Study) -> None:
    """Raise RefusedError where a batch is meant to hold more patients than the site trains on.

    By the number that stands for its band: by its own, studies with ever larger batches could find
    that out.
    """
    size = study.training.batch_size
    if size is not None and len(cohort.labels) and size > cohort.nominal:
        raise RefusedError(
            "data.batch",
            f"training.batch_size = {size} is too much for a site with {cohort.band} patients to "
            f"train on, counted as {cohort.nominal}; the coordinator makes the batch smaller, or "
            "leaves the site out",
        )


def _split(encoded: Encoded) -> Cohort:
    train, watched = encoded.train, encoded.validation
    test = ~train & ~watched
    patients = int(train.sum()) or int(test.sum())
    return Cohort(
        features=encoded.features[train],
        labels=encoded.labels[train],
        test_features=encoded.features[test],
        test_labels=encoded.outcomes[test],
        test_attributes={name: levels[test] for name, levels in encoded.attributes.items()},
        nominal=bands.nominal(patients),
        band=bands.text(patients),
        validation_features=encoded.features[watched],
        validation_labels=encoded.labels[watched],
    )
