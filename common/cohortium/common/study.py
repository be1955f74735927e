"""A study: everything that will happen, as data. Its identity is the SHA-256 of its canonical form.

`study.toml` names its schema by file; the loaded `Study` holds the schema itself, so that the
digest covers all that a site is asked to agree to.
"""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from cohortium.common import coherence
from cohortium.common.continuation import Continues
from cohortium.common.document import Document, GrownDocument, digest, nearest, parse, read_toml
from cohortium.common.errors import DocumentError
from cohortium.common.evaluating import Evaluation, Fairness, Fraction, Mitigation, Release
from cohortium.common.models.options import ModelOptions
from cohortium.common.participation import Sites
from cohortium.common.purpose import Purpose
from cohortium.common.schema import CategoryColumn, Name, NumberColumn, Schema, load_schema
from cohortium.common.task import Task
from cohortium.common.tracks import Track, check_left_out, track

Share = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]


class Data(Document):
    """Which registered dataset, and which of its columns are read as inputs."""

    dataset: Name
    features: Annotated[tuple[Name, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _once(self) -> Self:
        if len(set(self.features)) < len(self.features):
            raise ValueError("features names a column twice")
        return self


class Preprocessing(Document):
    """From columns to model inputs.

    scaling: `public-range` uses the schema's public bounds; `federated-standard` one mean and
    deviation over all sites; `site-standard` each site's own (for reproducing papers); `none`.
    missing: a gap gets the column's public centre (`impute`), the same and, for the columns in
    missing_indicators, one more input that says so (`indicator`), or costs the row (`exclude`).
    site_intercept: one 0/1 input per site, so that base rates may differ.
    """

    scaling: Literal["public-range", "federated-standard", "site-standard", "none"] = "public-range"
    missing: Literal["indicator", "impute", "exclude"] = "indicator"
    missing_indicators: tuple[Name, ...] = ()
    site_intercept: bool = False


class Split(Document):
    """Which patients are held out for evaluation: by a column of the table, or by seed."""

    test_fraction: Fraction | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    column: Name | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if (self.test_fraction is None) == (self.column is None):
            raise ValueError("give exactly one of test_fraction and column (values: train, test)")
        return self


class Training(Document):
    """What a site does in a round.

    batches: `poisson` draws each patient independently with probability sample_rate at each of
    local_steps steps; `full` takes one gradient over all patients a round; `shuffle` is ordinary
    minibatch training, without privacy only.
    """

    rounds: Annotated[int, Field(ge=1, le=10_000)]
    batches: Literal["poisson", "full", "shuffle"]
    local_steps: PositiveInt = 1
    sample_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    batch_size: PositiveInt | None = None
    learning_rate: PositiveFloat | None = None
    momentum: Share = 0.0
    weight_decay: NotNegative = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    shared_stream_rows: tuple[PositiveInt, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        needs = {"poisson": "sample_rate", "shuffle": "batch_size"}
        for batches, key in needs.items():
            given = getattr(self, key) is not None
            if given != (self.batches == batches):
                verb = "needs" if self.batches == batches else "does not use"
                raise ValueError(f'batches = "{self.batches}" {verb} {key}')
        if self.batches == "full":
            if self.local_steps != 1 or self.learning_rate is not None:
                raise ValueError(
                    'batches = "full" sends one gradient a round: leave out local_steps and '
                    "learning_rate, and set strategy.learning_rate"
                )
            if self.momentum or self.weight_decay:
                raise ValueError(
                    'batches = "full" takes no step at the site: leave out momentum and '
                    "weight_decay, and set strategy.momentum and strategy.weight_decay"
                )
        elif self.learning_rate is None:
            raise ValueError(f'batches = "{self.batches}" needs learning_rate')
        if self.shared_stream_rows and self.batches != "shuffle":
            raise ValueError(
                'shared_stream_rows replays a paper\'s shuffling: batches = "shuffle" only'
            )
        return self


class Strategy(GrownDocument):
    """How the coordinator turns updates into the next model (Reddi et al. 2021, Algorithm 2).

    weighting: `bands` by the public size band of each site, `equal`, or `exact` row counts, which
    a site sends only when its policy allows.
    average_last: share of the rounds whose models are averaged into the final one.
    q: of `qfedavg`: a site counts by its loss to the power of q times its weight, so that those
    whom the model serves worst count most (Li et al. 2020, q-FFL).
    """

    later: ClassVar[frozenset[str]] = frozenset({"q"})

    name: Literal["fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "qfedavg"] = (
        "fedavg"
    )
    weighting: Literal["bands", "equal", "exact"] = "bands"
    learning_rate: PositiveFloat = 1.0
    momentum: Share = 0.9
    beta1: Share = 0.9
    beta2: Share = 0.999
    tau: PositiveFloat = 1e-8
    proximal_mu: NotNegative = 0.0
    weight_decay: NotNegative = 0.0
    average_last: Share = 0.0
    q: Annotated[float, Field(gt=0, le=10)] | None = None

    @model_validator(mode="after")
    def _has_a_power(self) -> Self:
        if (self.name == "qfedavg") != (self.q is not None):
            raise ValueError('q and name = "qfedavg" go together')
        return self

    @model_validator(mode="after")
    def _proximal(self) -> Self:
        if (self.name == "fedprox") != (self.proximal_mu > 0):
            raise ValueError('proximal_mu above 0 and name = "fedprox" go together')
        return self


class Privacy(Document):
    """The promise to each patient: (epsilon, delta) over the whole study, add-or-remove-one."""

    mechanism: Literal["gaussian", "none"]
    unit: Literal["patient"] = "patient"
    epsilon: Annotated[float, Field(gt=0, le=100)] | None = None
    delta: Annotated[float, Field(gt=0, le=1e-2)] | None = None
    clip_norm: PositiveFloat | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        keys = ("epsilon", "delta", "clip_norm")
        given = [key for key in keys if getattr(self, key) is not None]
        if self.mechanism == "none" and given:
            raise ValueError(f'mechanism = "none" protects nobody: remove {", ".join(given)}')
        if self.mechanism == "gaussian" and len(given) < len(keys):
            absent = [key for key in keys if key not in given]
            raise ValueError(f'mechanism = "gaussian" needs {", ".join(absent)}')
        return self


class Study(GrownDocument):
    """One study, checked as a whole: what is impossible together is refused with the reason."""

    later: ClassVar[frozenset[str]] = frozenset({"mitigation", "release"})

    name: Name
    purpose: Purpose
    data: Data
    data_model: Schema
    task: Task
    model: ModelOptions
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
        coherence.check_model(self)
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
        if self.sites.min_patients and self.preprocessing.scaling == "federated-standard":
            raise ValueError(
                'sites.min_patients: with preprocessing.scaling = "federated-standard" no site '
                "says its size band beforehand; use min_sites alone, or another scaling"
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
        check_left_out(self)
        return self

    @model_validator(mode="after")
    def _training_fits(self) -> Self:
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
        return self.task.outputs(self.data_model)

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
    return parse({**values, "data": data, "data_model": schema.model_dump()}, Study, str(path))
