"""A study: everything that will happen, as data. Its identity is the SHA-256 of its canonical form.

`study.toml` names its schema by file; the loaded `Study` holds the schema itself, so that the
digest covers all that a site is asked to agree to.
"""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from cohortium.common import coherence, coherence_likelihood
from cohortium.common.coherence_models import check_shapes
from cohortium.common.coherence_training import check_training
from cohortium.common.continuation import Continues
from cohortium.common.document import Document, GrownDocument, digest, nearest, parse, read_toml
from cohortium.common.errors import DocumentError
from cohortium.common.evaluating import Evaluation, Fairness, Fraction, Mitigation, Release
from cohortium.common.explanation import Explanation, check_explanation
from cohortium.common.layout import Layout, layout_of
from cohortium.common.models.options import Model
from cohortium.common.participation import Sites
from cohortium.common.purpose import Purpose
from cohortium.common.reduction import Reduction, check_reduction
from cohortium.common.schema import (
    CategoryColumn,
    FlagColumn,
    Name,
    NumberColumn,
    Schema,
    load_schema,
)
from cohortium.common.task import GenerationTask, ReconstructionTask, Task
from cohortium.common.tracks import Track, check_left_out, track
from cohortium.common.training import Privacy, Strategy, Training
from cohortium.common.transfer import Transfer, check_transfer


class Data(Document):
    """Which registered dataset, and which of its columns are read as inputs."""

    dataset: Name
    features: Annotated[tuple[Name, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _once(self) -> Self:
        if len(set(self.features)) < len(self.features):
            raise ValueError("features names a column twice")
        return self


class Preprocessing(GrownDocument):
    """From columns to model inputs.

    scaling: `public-range` uses the schema's public bounds; `federated-standard` one mean and
    deviation over all sites; `site-standard` each site's own (for reproducing papers); `none`.
    missing: a gap gets the column's public centre (`impute`), the same and, for the columns in
    missing_indicators, one more input that says so (`indicator`), or costs the row (`exclude`).
    site_intercept: one 0/1 input per site, so that base rates may differ.
    molecules: read as a graph of atoms and bonds, or as a Morgan fingerprint of radius 2.
    """

    later: ClassVar[frozenset[str]] = frozenset({"molecules", "fingerprint_bits", "reduce"})

    scaling: Literal["public-range", "federated-standard", "site-standard", "none"] = "public-range"
    missing: Literal["indicator", "impute", "exclude"] = "indicator"
    missing_indicators: tuple[Name, ...] = ()
    site_intercept: bool = False
    molecules: Literal["graph", "fingerprint"] = "graph"
    fingerprint_bits: Annotated[int, Field(ge=16, le=8192)] = 1024
    reduce: Reduction | None = None


class Split(GrownDocument):
    """Which patients are held out for evaluation: by a column of the table, or by seed.

    validation_fraction: of those who would train, held out by the seed to decide when to stop.
    """

    later: ClassVar[frozenset[str]] = frozenset({"validation_fraction"})

    test_fraction: Fraction | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    column: Name | None = None
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if (self.test_fraction is None) == (self.column is None):
            raise ValueError("give exactly one of test_fraction and column (values: train, test)")
        return self


class Study(GrownDocument):
    """One study, checked as a whole: what is impossible together is refused with the reason."""

    later: ClassVar[frozenset[str]] = frozenset(
        {"mitigation", "release", "explanation", "transfer"}
    )

    name: Name
    purpose: Purpose
    data: Data
    data_model: Schema
    task: Task
    model: Model
    preprocessing: Preprocessing = Preprocessing()
    split: Split
    training: Training
    strategy: Strategy = Strategy()
    privacy: Privacy
    evaluation: Evaluation = Evaluation()
    fairness: Fairness = Fairness()
    mitigation: Mitigation = Mitigation()
    release: Release = Release()
    sites: Sites
    continues: Continues | None = None
    explanation: Explanation | None = None
    transfer: Transfer = Transfer()

    @model_validator(mode="after")
    def _columns_exist(self) -> Self:
        columns = self.data_model.columns
        for key, names in {
            "data.features": self.data.features,
            **{f"task.{key}": names for key, names in self.task.named.items()},
            "fairness.attributes": self.fairness.attributes,
            "preprocessing.missing_indicators": self.preprocessing.missing_indicators,
        }.items():
            for name in names:
                if name not in columns:
                    hint = nearest(name, list(columns))
                    raise ValueError(
                        f'{key}: schema "{self.data_model.name}" has no "{name}"{hint}'
                    )
        for name in (*self.fairness.attributes, *self.preprocessing.missing_indicators):
            self.data_model.narrow(name)
        for name in self.task.columns:
            if name in self.data.features:
                raise ValueError(f'data.features: "{name}" is the label itself')
        if self.split.column in (*self.data.features, *self.task.columns):
            raise ValueError(f'split.column: "{self.split.column}" is an input or the label itself')
        return self

    @model_validator(mode="after")
    def _indicators_are_inputs(self) -> Self:
        indicators = self.preprocessing.missing_indicators
        if indicators and self.preprocessing.missing != "indicator":
            raise ValueError(
                'preprocessing.missing_indicators: only with preprocessing.missing = "indicator"'
            )
        for name in indicators:
            if name not in self.data.features:
                raise ValueError(
                    f'preprocessing.missing_indicators: "{name}" is not in data.features'
                )
        return self

    @model_validator(mode="after")
    def _outcome_can_be_learnt(self) -> Self:
        self.task.check(self.data_model)
        coherence.check_along(self)
        coherence.check_model(self)
        check_shapes(self)
        check_reduction(self)
        return self

    @model_validator(mode="after")
    def _privacy_covers_everything(self) -> Self:
        if self.privacy.mechanism == "none":
            if self.training.batches == "poisson":
                raise ValueError('training.batches = "poisson" exists for privacy: use "shuffle"')
            return self
        if self.training.batches == "shuffle":
            raise ValueError(
                'training.batches = "shuffle" cannot be private: epsilon is computed for Poisson '
                "or full batches, and shuffling spends more than it reports; "
                'use "poisson" or "full"'
            )
        if self.preprocessing.scaling in ("federated-standard", "site-standard"):
            raise ValueError(
                f'preprocessing.scaling = "{self.preprocessing.scaling}" uses statistics of the '
                'patients that no epsilon covers; with privacy use "public-range"'
            )
        if self.strategy.name == "qfedavg" and self.training.batches != "full":
            raise ValueError(
                'strategy.name = "qfedavg" asks each site for its loss, which only '
                'training.batches = "full" protects, in the noise of its gradient'
            )
        if self.strategy.weighting == "exact":
            raise ValueError(
                'strategy.weighting = "exact" reveals how many patients a site has, which the '
                'privacy promise hides; use "bands" or "equal"'
            )
        return self

    @model_validator(mode="after")
    def _patients_can_be_counted(self) -> Self:
        if self.sites.min_patients and self.measures_first:
            raise ValueError(
                'sites.min_patients: with preprocessing.scaling = "federated-standard", or '
                "preprocessing.reduce by sums of patients, no site says its size band beforehand; "
                "use min_sites alone, or another scaling"
            )
        return self

    @model_validator(mode="after")
    def _attributes_have_bands(self) -> Self:
        for name, edges in self.fairness.bands.items():
            if name not in self.fairness.attributes:
                raise ValueError(f"fairness.bands.{name}: not in fairness.attributes")
            if list(edges) != sorted(set(edges)):
                raise ValueError(f"fairness.bands.{name}: edges must rise")
        for name in self.fairness.attributes:
            banded = name in self.fairness.bands
            if isinstance(self.data_model.columns[name], NumberColumn) != banded:
                verb = "needs" if not banded else "has codes and takes no"
                raise ValueError(f"fairness.attributes: {name} {verb} fairness.bands.{name}")
        return self

    @model_validator(mode="after")
    def _groups_can_be_compared(self) -> Self:
        coherence.check_fairness(self)
        return self

    @model_validator(mode="after")
    def _sites_can_do_what_is_asked(self) -> Self:
        coherence.check_evaluation(self)
        coherence.check_evaluate_only(self)
        coherence_likelihood.check(self)
        check_left_out(self)
        check_transfer(self)
        check_explanation(self)
        return self

    @model_validator(mode="after")
    def _training_fits(self) -> Self:
        check_training(self)
        rows = self.training.shared_stream_rows
        if rows and len(rows) != len(self.sites.names):
            raise ValueError("training.shared_stream_rows: one number per site, in their order")
        if self.training.batches == "full" and self.model.dropout > 0:
            raise ValueError("model.dropout: a full-batch gradient is deterministic; set it to 0")
        if self.strategy.proximal_mu > 0 and self.training.batches != "shuffle":
            raise ValueError(
                "strategy.proximal_mu: the proximal term acts on ordinary training only; use "
                'training.batches = "shuffle" or another strategy.name'
            )
        return self

    @property
    def measures_first(self) -> bool:
        """Whether sites send sums of their patients before the first round."""
        reduces = self.preprocessing.reduce is not None and self.preprocessing.reduce.measured
        return reduces or self.preprocessing.scaling == "federated-standard"

    @property
    def left_out(self) -> tuple[Name, ...]:
        """The sites of which one after the other is left out, in a track of its own each."""
        return self.sites.training if self.evaluation.leave_one_site_out else ()

    @property
    def rounds_in_all(self) -> int:
        """The number of the last round, over all tracks (`common/tracks.py`)."""
        return self.training.rounds * (1 + len(self.left_out))

    @property
    def rounds_at_a_site(self) -> int:
        """How many rounds a site trains in at most: all tracks but the one without it."""
        return self.training.rounds * max(1, len(self.left_out))

    def track(self, round: int) -> Track:
        """Which model a round (from 1) trains, and without whom; ValueError beyond the last."""
        return track(round, self.training.rounds, self.left_out)

    @property
    def digest(self) -> str:
        """The study's identity: SHA-256 of the canonical form, hex."""
        return digest(self)

    @property
    def outputs(self) -> int:
        """How many numbers the model gives for a patient."""
        if isinstance(self.task, ReconstructionTask | GenerationTask):
            return self.layout.inputs
        return self.task.outputs(self.data_model)

    @cached_property
    def layout(self) -> Layout:
        """How the inputs of a patient lie in a row of features."""
        return layout_of(self)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A changed study has a layout of its own, whether or not this one was asked for its."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("layout", None)
        return copied

    @property
    def columns_read(self) -> tuple[str, ...]:
        """Every column of the table that a site reads for this study."""
        names = [*self.data.features, *self.task.columns, *self.fairness.attributes]
        return tuple(dict.fromkeys(names))

    def attribute_levels(self, name: str) -> tuple[str, ...]:
        """The levels of a fairness attribute, in order: band texts, or the column's labels."""
        column = self.data_model.columns[name]
        if isinstance(column, NumberColumn):
            edges = [f"{edge:g}" for edge in self.fairness.bands[name]]
            middle = [f"{a} to <{b}" for a, b in pairwise(edges)]
            return (f"<{edges[0]}", *middle, f">={edges[-1]}")
        if isinstance(column, CategoryColumn):
            return column.labels or column.codes
        assert isinstance(column, FlagColumn)
        return column.labels


def load_study(path: Path) -> Study:
    """Read `study.toml` and the schema that it names (relative to it).

    Raises:
        DocumentError: names the file and key at fault.
    """
    values = read_toml(path)
    data = values.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("schema"), str):
        raise DocumentError(f'{path}: "data.schema" is missing: the path of the schema.toml')
    schema_path = path.parent / data["schema"]
    schema = load_schema(schema_path)
    if "data_model" in values:
        raise DocumentError(f'{path}: unknown key "data_model"; the schema goes into data.schema')
    data = {key: value for key, value in data.items() if key != "schema"}
    values = _with_start(values, path)
    return parse({**values, "data": data, "data_model": schema.model_dump()}, Study, str(path))


def start_file(path: Path) -> Path | None:
    """The safetensors file that a study.toml names, if any."""
    transfer = read_toml(path).get("transfer")
    given = transfer.get("start") if isinstance(transfer, dict) else None
    return path.parent / given if isinstance(given, str) else None


def _with_start(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """With the file's hash instead of its path: the digest covers what a study begins with."""
    file = start_file(path)
    if file is None:
        return values
    try:
        with file.open("rb") as opened:
            digested = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise DocumentError(f"{path}: transfer.start: {file}: {error.strerror}") from None
    return {**values, "transfer": {**values["transfer"], "start": digested}}
