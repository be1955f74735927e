"""Looking for the settings that do best, and what the looking costs."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from cohortium.common.document import Document

Choice = float | int | str


class Range(Document):
    """Numbers from low to high; `log` where factors matter, `steps` for a grid."""

    low: float
    high: float
    log: bool = False
    whole: bool = False
    steps: Annotated[int, Field(ge=2, le=100)] | None = None


class Tuning(Document):
    """Which keys of the study are tried with which values.

    space: by key, such as `training.learning_rate`: a list of values, or a range.
    data: `patients` trains every trial on the sites' patients, each accounted in their ledgers;
    `mock` on rows made from the schema, which cost nothing and tell little.
    folds: of the training patients at every site, for the objective (the headline measure of the
    study's outcome, mean over folds and sites).
    """

    method: Literal["grid", "random", "bayesian"] = "random"
    trials: Annotated[int, Field(ge=1, le=200)] = 10
    data: Literal["patients", "mock"] = "patients"
    folds: Annotated[int, Field(ge=2, le=10)] = 3
    rounds: PositiveInt | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    space: Annotated[Mapping[str, tuple[Choice, ...] | Range], Field(min_length=1)]
