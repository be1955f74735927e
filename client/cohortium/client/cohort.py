"""A site's patients as one study sees them: read, checked, encoded, in memory while it runs."""

from dataclasses import dataclass

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
    require_both_classes,
    site_statistics,
)
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.study import Study
from cohortium.common.table import Table

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Cohort:
    """What training and evaluation need.

    Attributes:
        features: float32 (n, inputs) and labels float32 (n,) of the training patients.
        test_features, test_labels: the same of the held-out patients.
        test_attributes: int16 level per held-out patient (-1 unknown), by fairness attribute.
        nominal: public number that stands for n (its size band), used wherever a size leaves.
        band: the same as text.
    """

    features: Floats
    labels: Floats
    test_features: Floats
    test_labels: Floats
    test_attributes: dict[str, npt.NDArray[np.int16]]
    nominal: int
    band: str

    @property
    def patients(self) -> int:
        """Exact number of training patients: never leaves unless the policy allows it."""
        return len(self.labels)


def load_table(study: Study, dataset: Dataset) -> Table:
    """Read the columns that the study may read.

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
    extra = (study.split.column,) if study.split.column else ()
    agreeing = (study.task.label,)
    return read_table(dataset.path, dataset.data_model, study.columns_read, extra, agreeing)


def prepare(table: Table, study: Study, site: str, statistics: Statistics | None = None) -> Cohort:
    """Encode a table for one study; raises DataError for what cannot be trained on."""
    encoded = encode(table, study, site, statistics)
    if study.task.one_class_sites == "refuse":
        require_both_classes(encoded, site)
    return _split(encoded)


def measure(table: Table, study: Study, site: str) -> Statistics:
    """This site's sums for federated-standard scaling, over training patients."""
    return site_statistics(table, study, site)


def _split(encoded: Encoded) -> Cohort:
    train, test = encoded.train, ~encoded.train
    patients = int(train.sum())
    return Cohort(
        features=encoded.features[train],
        labels=encoded.labels[train],
        test_features=encoded.features[test],
        test_labels=encoded.labels[test],
        test_attributes={name: levels[test] for name, levels in encoded.attributes.items()},
        nominal=bands.nominal(patients),
        band=bands.text(patients),
    )
