"""What is predicted: one document for each kind of outcome."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cohortium.common.document import Document
from cohortium.common.schema import Code, Name

OneClass = Literal["refuse", "allow"]


class BinaryTask(Document):
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
    def columns(self) -> tuple[Name, ...]:
        """The columns of the table that hold the outcome."""
        return (self.label,)

    @property
    def outcome(self) -> str:
        """What is predicted, in words: `progression above 140`, `num is 1 or 2`."""
        if self.positive_above is not None:
            return f"{self.label} above {self.positive_above:g}"
        return f"{self.label} is {' or '.join(self.positive_codes)}"


class MulticlassTask(Document):
    """One of the codes of a category column; classes are numbered in the schema's order."""

    kind: Literal["multiclass"]
    label: Name
    one_class_sites: OneClass = "refuse"

    @property
    def columns(self) -> tuple[Name, ...]:
        return (self.label,)

    @property
    def outcome(self) -> str:
        return f"which {self.label}"


class MultilabelTask(Document):
    """Several flags of one patient, any number of which may be true."""

    kind: Literal["multilabel"]
    labels: Annotated[tuple[Name, ...], Field(min_length=2, max_length=100)]

    @property
    def columns(self) -> tuple[Name, ...]:
        return self.labels

    @property
    def outcome(self) -> str:
        return f"which of {', '.join(self.labels)}"


class RegressionTask(Document):
    """A number, learnt on the scale of the schema's public centre and spread."""

    kind: Literal["regression"]
    label: Name

    @property
    def columns(self) -> tuple[Name, ...]:
        return (self.label,)

    @property
    def outcome(self) -> str:
        return f"the value of {self.label}"


class SurvivalTask(Document):
    """Time to an event that some patients never have while they are watched.

    The model gives the hazard in each interval between the `horizons` (discrete time, Gensheimer &
    Narasimhan 2019, PeerJ 7:e6257), so that its loss is a sum over patients and can be private.

    time: column with the time watched; event: flag, yes if the event ended it.
    horizons: rising, above 0, in the units of `time`; the last is the end of prediction.
    """

    kind: Literal["survival"]
    time: Name
    event: Name
    horizons: Annotated[tuple[float, ...], Field(min_length=1, max_length=50)]

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.horizons[0] <= 0 or list(self.horizons) != sorted(set(self.horizons)):
            raise ValueError("horizons must rise, from above 0")
        return self

    @property
    def columns(self) -> tuple[Name, ...]:
        return (self.time, self.event)

    @property
    def outcome(self) -> str:
        return f"{self.event} within {self.horizons[-1]:g} of {self.time}"


Task = Annotated[
    BinaryTask | MulticlassTask | MultilabelTask | RegressionTask | SurvivalTask,
    Field(discriminator="kind"),
]
