"""Who takes part in a study, how many must, and how long anybody is waited for."""

import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from cohortium.common.document import GrownDocument
from cohortium.common.schema import Name

UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def seconds(value: object) -> object:
    """A duration as people write it, `90s`, `10m`, `2h` or `7d`, in seconds; a number stays one."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", value.strip())
    if found is None:
        raise ValueError('a duration is a number with a unit: "90s", "10m", "2h" or "7d"')
    return float(found[1]) * UNITS_S[found[2]]


Duration = Annotated[float, Field(gt=0, le=90 * 86_400), BeforeValidator(seconds)]


class Sites(GrownDocument):
    """Who is asked, the quorum of a round, and what happens when somebody stays silent.

    min_patients: how many patients the replying sites must have together, counted by the lower
    ends of their public size bands.
    on_missing: with the quorum there and a site missing at the deadline, `continue` without it,
    `wait` for it however long it takes, or `stop` the study. Without the quorum, `wait` waits and
    the others end the study as failed.
    evaluate_only: sites that train on nobody: every patient of theirs is held out, as in external
    validation. They count for no quorum and spend no privacy on training.
    """

    later: ClassVar[frozenset[str]] = frozenset({"evaluate_only"})

    names: Annotated[tuple[Name, ...], Field(min_length=1, max_length=1000)]
    min_sites: PositiveInt
    min_patients: Annotated[int, Field(ge=0)] = 0
    round_deadline: Duration = 600.0
    approval_deadline: Duration = 7 * 86_400.0
    on_missing: Literal["continue", "wait", "stop"] = "continue"
    evaluate_only: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _quorum(self) -> Self:
        if len(set(self.names)) < len(self.names):
            raise ValueError("names holds a site twice")
        for name in self.evaluate_only:
            if name not in self.names:
                raise ValueError(f'evaluate_only: "{name}" is not in names')
        if len(set(self.evaluate_only)) < len(self.evaluate_only):
            raise ValueError("evaluate_only holds a site twice")
        if not self.training:
            raise ValueError("evaluate_only holds every site, so that none is left to train")
        if self.min_sites > len(self.training):
            only = " for training" if self.evaluate_only else ""
            raise ValueError(
                f"min_sites is {self.min_sites} but only {len(self.training)} are named{only}"
            )
        return self

    @property
    def training(self) -> tuple[Name, ...]:
        """The sites that train, in their order."""
        return tuple(name for name in self.names if name not in self.evaluate_only)
