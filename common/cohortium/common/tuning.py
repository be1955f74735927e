"""Trials of a study's settings before anybody is asked to approve it, and what came of them.

Trials train on patients who never were, or on a public table; never on a site's patients. So they
cost nobody any privacy, and what they found is a claim of whoever leads the study.
"""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from cohortium.common.continuation import Sha256
from cohortium.common.document import Document, nearest, parse
from cohortium.common.errors import DocumentError
from cohortium.common.metrics.followed import followed

if TYPE_CHECKING:
    from cohortium.common.study import Study

MOST_TRIALS = 1000
TUNED = ("model.", "training.", "strategy.", "privacy.clip_norm")
PROMISED: Mapping[str, str] = {
    "training.rounds": "how often sites are asked is part of what they approve; decide on it",
    "training.seed": "the best of several seeds is luck, and no better model",
    "training.patience": "trials train all rounds",
    "training.shared_stream_rows": "it replays a paper's batches",
    "strategy.weighting": "it decides what sites tell of their size",
}

Plain = str | int | float | bool
Value = Plain | tuple[Plain, ...]


class Range(Document):
    """Numbers from `low` to `high`, both included; whole ones where both are.

    log: drawn evenly by their logarithm.
    """

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if not self.low < self.high:
            raise ValueError("low must be below high")
        if self.log and self.low <= 0:
            raise ValueError("log = true needs a low above 0")
        return self

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


Choices = Annotated[tuple[Value, ...], Field(min_length=1, max_length=100)] | Range


class Found(Document):
    """What `cohortium study tune` found, as whoever leads the study says.

    values: of the best trial. trials: how many there were; failed: how many of them came to
    nothing. score: of the best, by the objective. data: SHA-256 of the public table; none for mock
    patients. record: SHA-256 of tuning.json, which holds every trial.
    """

    values: Mapping[str, Value]
    trials: PositiveInt
    failed: Annotated[int, Field(ge=0)]
    score: float
    data: Sha256 | None = None
    record: Sha256


class Tuning(Document):
    """Which settings are tried, how, and on whose patients.

    search: every combination (`grid`), drawn evenly (`random`), or where earlier trials did well
    (`bayesian`: Optuna's tree-structured Parzen estimator, Bergstra et al. 2011, NeurIPS).
    space: by key of the study, a list of values or a range. objective: by default the foremost
    measure of the kind of outcome. on: mock patients of the study's schema, `patients` at each
    site, or the public `table`, a path relative to the study.toml. folds: of the cross-validation.
    """

    search: Literal["grid", "random", "bayesian"]
    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)] | None = None
    on: Literal["mock", "public"]
    table: str | None = None
    patients: Annotated[int, Field(ge=10, le=1_000_000)] | None = None
    folds: Annotated[int, Field(ge=2, le=20)] = 3
    objective: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    space: Annotated[Mapping[str, Choices], Field(min_length=1)]
    found: Found | None = None

    @field_validator("space", mode="before")
    @classmethod
    def _one_level(cls, space: Any) -> Any:
        """TOML reads `training.momentum = [0, 0.9]` as a table in a table."""
        return dict(_flat(space)) if isinstance(space, Mapping) else space

    @field_validator("on", mode="before")
    @classmethod
    def _nobody_s(cls, on: Any) -> Any:
        if on == "sites":
            raise ValueError(
                "trials at the sites would train on patients, and choosing the best of them would "
                "tell what no epsilon covers yet; tune on mock patients or a public table"
            )
        return on

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.on == "public") != (self.table is not None):
            raise ValueError('table and on = "public" go together')
        if (self.on == "mock") != (self.patients is not None):
            raise ValueError(
                'patients and on = "mock" go together: about how many a site has, as the effect of '
                "noise and of batches depends on it"
            )
        if self.search == "grid":
            self._check_grid()
        elif self.trials is None:
            raise ValueError(f'search = "{self.search}" needs trials')
        return self

    def _check_grid(self) -> None:
        if self.trials is not None:
            raise ValueError('search = "grid" tries every combination: remove trials')
        for key, choices in self.space.items():
            if isinstance(choices, Range):
                raise ValueError(
                    f'space.{key}: search = "grid" needs a list of values; use "random" or '
                    '"bayesian" for a range'
                )
        if self.count > MOST_TRIALS:
            raise ValueError(f"space: {self.count} combinations, {MOST_TRIALS} are the most")

    @property
    def count(self) -> int:
        """How many trials there are."""
        if self.trials is not None:
            return self.trials
        return math.prod(len(one) for one in self.space.values() if not isinstance(one, Range))


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Each key with all its dots, and its choices."""
    for key, value in values.items():
        name = f"{before}{key}"
        if not isinstance(value, Mapping):
            yield name, _tuples(value)
        elif {"low", "high", "log"} & set(value):
            yield name, _range(name, value)
        else:
            yield from _flat(value, f"{name}.")


def _tuples(value: Any) -> Any:
    """JSON and TOML know lists only."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _range(name: str, value: Mapping[str, Any]) -> Range:
    try:
        return parse(value, Range, name)
    except DocumentError as error:  # of its own, not of all that choices may be
        raise ValueError(str(error)) from None


def objective(study: "Study", tuning: Tuning) -> str:
    """By which trials are compared."""
    return tuning.objective or followed(study.task)[0]


def changed(study: "Study", values: Mapping[str, Value]) -> "Study":
    """The study without its tuning, and with other settings.

    Raises:
        DocumentError: they cannot be.
    """
    document: dict[str, Any] = study.model_dump()
    document["tuning"] = None
    for key, value in values.items():
        section, name = key.split(".", 1)
        document[section] = {**document[section], name: value}
    return parse(document, type(study), ", ".join(f"{k} = {v}" for k, v in values.items()))


def cost_in_words(study: "Study", tuning: Tuning) -> str:
    """What trials take and cost, for who writes or approves a study; what follows its name."""
    if tuning.found is not None:
        return tuned_in_words(study)
    sites, rounds = len(study.sites.training), study.training.rounds
    return (
        f"is yet to be tuned (cohortium study tune): {tuning.count} trials x {tuning.folds} folds "
        f"x {rounds} rounds at {sites} made-up sites on one machine, on {_whom(tuning)}; no site "
        "is asked, and no patient's privacy is spent"
    )


def tuned_in_words(study: "Study") -> str:
    """On what settings were tried, as whoever leads the study says; empty where none were."""
    tuning = study.tuning
    if tuning is None or tuning.found is None:
        return ""
    found, keys = tuning.found, ", ".join(tuning.found.values)
    data = f" (SHA-256 {found.data[:16]}...)" if found.data else ""
    return (
        f"was tuned on {_whom(tuning)}{data}, says its coordinator: {found.trials} trials of {keys}"
        "; no patient of a site took part, and no privacy was spent"
    )


def _whom(tuning: Tuning) -> str:
    return "mock patients of the schema" if tuning.on == "mock" else "a public table"


def check_tuning(study: "Study") -> None:
    """Raise ValueError for what cannot be tried, or is not what the trials found."""
    tuning = study.tuning
    if tuning is None:
        return
    measures = followed(study.task)
    if objective(study, tuning) not in measures:
        hint = nearest(tuning.objective or "", list(measures))
        raise ValueError(
            f'tuning.objective: a {study.task.kind} outcome has no "{tuning.objective}"{hint}'
        )
    if study.preprocessing.reduce is not None and study.preprocessing.reduce.measured:
        raise ValueError(
            "tuning: preprocessing.reduce by sums of the sites' patients is of no use to patients "
            'who are not theirs; use a random one, or remove "tuning"'
        )
    if study.training.shared_stream_rows:
        raise ValueError("tuning: training.shared_stream_rows replays a paper; remove one of them")
    if study.transfer.own:
        raise ValueError(
            "tuning: transfer.own keeps parameters at each site, which trials would average; "
            "remove one of them"
        )
    for key, choices in tuning.space.items():
        _check_key(study, key)
        ends = (choices.low, choices.high) if isinstance(choices, Range) else choices
        for value in ends if tuning.found is None else ():
            _check_value(study, key, value)
    _check_found(study, tuning)


def _check_key(study: "Study", key: str) -> None:
    why = PROMISED.get(key, "")
    if not key.startswith(TUNED) or (key.startswith("privacy.") and key != "privacy.clip_norm"):
        why = "it is part of what sites approve; keys of model, training and strategy can be tuned"
        why += ", and privacy.clip_norm"
    elif key.startswith("model.") and study.transfer.start is not None:
        why = "transfer.start brings the parameters of one model, which another has no use for"
    if why:
        raise ValueError(f"tuning.space.{key}: {why}")


def _check_value(study: "Study", key: str, value: Value) -> None:
    try:
        changed(study, {key: value})
    except DocumentError as error:
        raise ValueError(f"tuning.space.{key}: {error}") from None


def _check_found(study: "Study", tuning: Tuning) -> None:
    if tuning.found is None:
        return
    if set(tuning.found.values) != set(tuning.space):
        raise ValueError("tuning.found: it is of another tuning.space; remove it and tune again")
    document = study.model_dump()
    for key, value in tuning.found.values.items():
        section, name = key.split(".", 1)
        if document[section].get(name) != value:
            raise ValueError(
                f"tuning.found: the trials chose {key} = {value}, and the study says otherwise; "
                "take that value, or remove tuning.found and tune again"
            )
