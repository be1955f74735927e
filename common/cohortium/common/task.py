"""What is predicted: one document for each kind of outcome.

`check` refuses, with the reason, columns of a schema that cannot be such an outcome; `outputs` is
how many numbers a model gives for it.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from cohortium.common.document import Document, GrownDocument
from cohortium.common.schema import CategoryColumn, Code, FlagColumn, Name, NumberColumn, Schema
from cohortium.common.wide_columns import PairsColumn, SequenceColumn

MOST_CLASSES = 100

OneClass = Literal["refuse", "allow"]
Per = Literal["patient", "place", "pair"]


class Outcome(Document):
    """What all kinds of outcome have in common: columns of the table that hold it."""

    @property
    def named(self) -> dict[str, tuple[Name, ...]]:
        """The columns that hold the outcome, by the key that names them."""
        raise NotImplementedError

    @property
    def per(self) -> Per:
        """What one answer of the model is about."""
        return "patient"

    @property
    def columns(self) -> tuple[Name, ...]:
        """The columns of the table that hold the outcome."""
        return tuple(name for names in self.named.values() for name in names)


class BinaryTask(Outcome):
    """Ill or well: `label` above a threshold, or one of the positive codes.

    one_class_sites: `refuse` a site whose training patients all have the same label, which is
    nearly always a mistake, or `allow` it, as where a clinic sees only the ill.
    """

    kind: Literal["binary"]
    label: Name
    positive_above: float | None = None
    positive_codes: tuple[Code, ...] = ()
    one_class_sites: OneClass = "refuse"

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if (self.positive_above is None) == (not self.positive_codes):
            raise ValueError("give exactly one of positive_above and positive_codes")
        return self

    @property
    def named(self) -> dict[str, tuple[Name, ...]]:
        return {"label": (self.label,)}

    @property
    def outcome(self) -> str:
        """What is predicted, in words: `progression above 140`, `num is 1 or 2`."""
        if self.positive_above is not None:
            return f"{self.label} above {self.positive_above:g}"
        return f"{self.label} is {' or '.join(self.positive_codes)}"

    def outputs(self, schema: Schema) -> int:
        return 1

    def check(self, schema: Schema) -> None:
        column = schema.narrow(self.label)
        if isinstance(column, NumberColumn):
            self._check_threshold(column)
            return
        if not self.positive_codes:
            raise ValueError(f'task: "{self.label}" has codes: give positive_codes')
        unknown = set(self.positive_codes) - set(column.codes)
        if unknown:
            raise ValueError(f"task.positive_codes: {sorted(unknown)} are no codes of the label")
        if set(self.positive_codes) == set(column.codes):
            raise ValueError("task.positive_codes: every code is positive, nothing is left to tell")

    def _check_threshold(self, column: NumberColumn) -> None:
        above = self.positive_above
        if above is None:
            raise ValueError(f'task: "{self.label}" is a number: give positive_above')
        if not column.low <= above < column.high:
            raise ValueError(
                f"task.positive_above: {above} is outside the label's bounds, "
                "so every patient would have the same label"
            )


class MulticlassTask(Outcome):
    """One of the codes of a category column; classes are numbered in the schema's order."""

    kind: Literal["multiclass"]
    label: Name
    one_class_sites: OneClass = "refuse"

    @property
    def named(self) -> dict[str, tuple[Name, ...]]:
        return {"label": (self.label,)}

    @property
    def outcome(self) -> str:
        return f"which {self.label}"

    def outputs(self, schema: Schema) -> int:
        return len(self.classes(schema))

    def classes(self, schema: Schema) -> tuple[str, ...]:
        """The names of the classes, in the schema's order."""
        column = schema.columns[self.label]
        assert isinstance(column, CategoryColumn)
        return column.labels or column.codes

    def check(self, schema: Schema) -> None:
        column = schema.columns[self.label]
        if not isinstance(column, CategoryColumn):
            raise ValueError(
                f'task.label: "{self.label}" is a {column.kind}, and classes are the codes of a '
                f'category; use kind = "{"regression" if column.kind == "number" else "binary"}"'
            )
        if len(column.codes) > MOST_CLASSES:
            raise ValueError(
                f'task.label: "{self.label}" has {len(column.codes)} codes; at most '
                f"{MOST_CLASSES} classes can be told apart"
            )


class MultilabelTask(Outcome):
    """Several flags of one patient, any number of which may be true."""

    kind: Literal["multilabel"]
    labels: Annotated[tuple[Name, ...], Field(min_length=2, max_length=100)]

    @model_validator(mode="after")
    def _once(self) -> Self:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("labels names a column twice")
        return self

    @property
    def named(self) -> dict[str, tuple[Name, ...]]:
        return {"labels": self.labels}

    @property
    def outcome(self) -> str:
        return f"which of {', '.join(self.labels)}"

    def outputs(self, schema: Schema) -> int:
        return len(self.labels)

    def check(self, schema: Schema) -> None:
        for name in self.labels:
            kind = schema.columns[name].kind
            if kind != "flag":
                raise ValueError(f'task.labels: "{name}" is a {kind}, and labels are flags')


class RegressionTask(Outcome):
    """A number, learnt on the scale of the schema's public centre and spread."""

    kind: Literal["regression"]
    label: Name

    @property
    def named(self) -> dict[str, tuple[Name, ...]]:
        return {"label": (self.label,)}

    @property
    def outcome(self) -> str:
        return f"the value of {self.label}"

    def outputs(self, schema: Schema) -> int:
        return 1

    def scale(self, schema: Schema) -> tuple[float, float]:
        """Public (centre, spread) that a prediction of 0 and of 1 stand for."""
        column = schema.columns[self.label]
        assert isinstance(column, NumberColumn)
        return column.scale

    def check(self, schema: Schema) -> None:
        column = schema.columns[self.label]
        if not isinstance(column, NumberColumn):
            other = "binary" if isinstance(column, FlagColumn) else "multiclass"
            raise ValueError(
                f'task.label: "{self.label}" is a {column.kind}, and a regression predicts a '
                f'number; use kind = "{other}"'
            )


class SurvivalTask(Outcome, GrownDocument):
    """Time to an event that some patients never have while they are watched.

    likelihood: with `discrete` the model gives the hazard in each interval between the `horizons`
    (discrete time, Gensheimer & Narasimhan 2019, PeerJ 7:e6257), so that its loss is a sum over
    patients and can be private. With `cox` it gives the logarithm of one hazard ratio (Cox 1972),
    by the partial likelihood within each site, every site with a baseline hazard of its own: no
    risk set leaves a site, and it cannot be private.

    time: column with the time watched; event: flag, yes if the event ended it.
    horizons: rising, above 0, in the units of `time`; the last is the end of prediction.
    """

    kind: Literal["survival"]
    time: Name
    event: Name
    horizons: Annotated[tuple[float, ...], Field(min_length=1, max_length=50)]
    likelihood: Literal["discrete", "cox"] = "discrete"

    later: ClassVar[frozenset[str]] = frozenset({"likelihood"})

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.horizons[0] <= 0 or list(self.horizons) != sorted(set(self.horizons)):
            raise ValueError("horizons must rise, from above 0")
        return self

    @property
    def named(self) -> dict[str, tuple[Name, ...]]:
        return {"time": (self.time,), "event": (self.event,)}

    @property
    def outcome(self) -> str:
        return f"{self.event} within {self.horizons[-1]:g} of {self.time}"

    def outputs(self, schema: Schema) -> int:
        return 1 if self.likelihood == "cox" else len(self.horizons)

    def check(self, schema: Schema) -> None:
        time, event = schema.columns[self.time], schema.columns[self.event]
        if not isinstance(time, NumberColumn):
            raise ValueError(f'task.time: "{self.time}" is a {time.kind}, and a time is a number')
        if not isinstance(event, FlagColumn):
            raise ValueError(
                f'task.event: "{self.event}" is a {event.kind}, and an event is a flag'
            )
        if time.low < 0:
            raise ValueError(
                f'task.time: "{self.time}" may be below 0 by the schema, and nobody is watched for '
                "less than no time; set its low to 0 or above"
            )
        if not time.low < self.horizons[0] or self.horizons[-1] > time.high:
            raise ValueError(
                f"task.horizons: outside the bounds of {self.time}, {time.low:g} to {time.high:g}, "
                "where nobody is watched"
            )


class LabellingTask(Outcome):
    """A state for each place of a sequence, such as a protein's secondary structure.

    label: a sequence column whose letters are the states; of: the input sequence that it runs
    along.
    """

    kind: Literal["labelling"]
    label: Name
    of: Name

    @property
    def named(self) -> dict[str, tuple[Name, ...]]:
        return {"label": (self.label,)}

    @property
    def per(self) -> Per:
        return "place"

    @property
    def outcome(self) -> str:
        return f"{self.label} at each place of {self.of}"

    def states(self, schema: Schema) -> str:
        column = schema.columns[self.label]
        assert isinstance(column, SequenceColumn)
        return column.letters

    def outputs(self, schema: Schema) -> int:
        column = schema.columns[self.of]
        assert isinstance(column, SequenceColumn)
        return column.length * len(self.states(schema))

    def check(self, schema: Schema) -> None:
        _check_along(schema, self.label, self.of, SequenceColumn, "sequence")


class ContactsTask(Outcome):
    """Which places of a sequence touch, at least `apart` places from each other."""

    kind: Literal["contacts"]
    label: Name
    of: Name
    apart: Annotated[int, Field(ge=1)] = 6

    @property
    def named(self) -> dict[str, tuple[Name, ...]]:
        return {"label": (self.label,)}

    @property
    def per(self) -> Per:
        return "pair"

    @property
    def outcome(self) -> str:
        return f"which places of {self.of} touch"

    def outputs(self, schema: Schema) -> int:
        column = schema.columns[self.of]
        assert isinstance(column, SequenceColumn)
        return column.length**2

    def check(self, schema: Schema) -> None:
        _check_along(schema, self.label, self.of, PairsColumn, "pairs")


class ReconstructionTask(Outcome):
    """The inputs themselves, through a narrow layer: what is common among patients."""

    kind: Literal["reconstruction"]

    @property
    def named(self) -> dict[str, tuple[Name, ...]]:
        return {}

    @property
    def outcome(self) -> str:
        return "the inputs themselves"

    def outputs(self, schema: Schema) -> int:
        raise ValueError("as many as the study has inputs: ask the study")

    def check(self, schema: Schema) -> None:
        pass


class GenerationTask(Outcome):
    """New patients that nobody is, like those of all sites: synthetic data."""

    kind: Literal["generation"]

    @property
    def named(self) -> dict[str, tuple[Name, ...]]:
        return {}

    @property
    def outcome(self) -> str:
        return "synthetic patients"

    def outputs(self, schema: Schema) -> int:
        raise ValueError("as many as the study has inputs: ask the study")

    def check(self, schema: Schema) -> None:
        pass


def _check_along(
    schema: Schema, label: str, of: str, kind: type[SequenceColumn | PairsColumn], word: str
) -> None:
    along, column = schema.columns.get(of), schema.columns[label]
    if not isinstance(along, SequenceColumn):
        raise ValueError(f'task.of: "{of}" is no sequence column of the schema')
    if not isinstance(column, kind):
        raise ValueError(f'task.label: "{label}" is a {column.kind}, and must be a {word} column')
    if column.length != along.length:
        raise ValueError(f"task.label: {label} and {of} must have one length")


Task = Annotated[
    BinaryTask
    | MulticlassTask
    | MultilabelTask
    | RegressionTask
    | SurvivalTask
    | LabellingTask
    | ContactsTask
    | ReconstructionTask
    | GenerationTask,
    Field(discriminator="kind"),
]
