"""What sites do in a round, and how the coordinator and the privacy promise bound it."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from cohortium.common.document import Document, GrownDocument

Share = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]


class Training(GrownDocument):
    """What a site does in a round.

    batches: `poisson` draws each patient independently with probability sample_rate at each of
    local_steps steps; `full` takes one gradient over all patients a round; `shuffle` is ordinary
    minibatch training, without privacy only.
    optimiser: of the site's steps; its state starts anew in every round. schedule: what becomes of
    learning_rate over the rounds, after warmup_rounds in which it rises; to `final_share` of it;
    with `full` of strategy.learning_rate (`schedule.py`).
    l1: strength of the L1 penalty, whose gradient is the same for every patient.
    accumulate: a `shuffle` step's batch is worked through in so many parts.
    precision: of the forward and backward pass; parameters stay float32.
    patience: rounds without a better loss on validation patients after which training stops early;
    the model is then that of the best round.
    class_weights: by class, what a patient's loss is multiplied by; numbers that are public.
    sampling: of a `shuffle` round's patients, so that each class is seen equally often.
    """

    later: ClassVar[frozenset[str]] = frozenset(
        {
            "optimiser",
            "beta1",
            "beta2",
            "schedule",
            "warmup_rounds",
            "final_share",
            "l1",
            "accumulate",
            "precision",
            "patience",
            "class_weights",
            "sampling",
        }
    )

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
    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    beta1: Share = 0.9
    beta2: Share = 0.999
    schedule: Literal["constant", "linear", "cosine", "step"] = "constant"
    warmup_rounds: Annotated[int, Field(ge=0)] = 0
    final_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    l1: NotNegative = 0.0
    accumulate: Annotated[int, Field(ge=1, le=1024)] = 1
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    patience: PositiveInt | None = None
    class_weights: tuple[PositiveFloat, ...] = ()
    sampling: Literal["none", "over", "under"] = "none"

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
        check_craft(self)
        if self.shared_stream_rows and self.batches != "shuffle":
            raise ValueError(
                'shared_stream_rows replays a paper\'s shuffling: batches = "shuffle" only'
            )
        return self


def check_craft(training: Training) -> None:
    """Raise ValueError where an option says nothing, or something else, beside another."""
    shuffled, adaptive = training.batches == "shuffle", training.optimiser != "sgd"
    _check_schedule(training)
    if training.batches == "full" and adaptive:
        raise ValueError(
            f'optimiser = "{training.optimiser}": batches = "full" takes no step at the site; use '
            'strategy.name = "fedadam", which takes the same at the coordinator'
        )
    if adaptive and training.momentum:
        raise ValueError(
            f'momentum is of optimiser = "sgd"; "{training.optimiser}" has beta1: remove momentum'
        )
    betas = (training.beta1, training.beta2) != (0.9, 0.999)
    if betas and not adaptive:
        raise ValueError('beta1 and beta2 are of optimiser = "adam" and "adamw"; "sgd" has neither')
    if training.accumulate > 1 and not shuffled:
        raise ValueError(
            f'accumulate: batches = "{training.batches}" is cut into parts as memory asks; '
            "remove accumulate"
        )
    if training.accumulate > (training.batch_size or 1):
        raise ValueError(
            f"accumulate: a batch of {training.batch_size} has no {training.accumulate} parts"
        )
    if training.precision != "float32" and not shuffled:
        raise ValueError(
            f'precision = "{training.precision}" is for batches = "shuffle": gradients of single '
            "patients are made, clipped and given noise in float32 only; remove it"
        )
    if training.sampling != "none" and (not shuffled or training.shared_stream_rows):
        raise ValueError(
            f'sampling = "{training.sampling}" chooses who is in a batch: batches = "shuffle" '
            "without shared_stream_rows only (epsilon is computed for Poisson or full batches of "
            "all patients); use class_weights"
        )


def _check_schedule(training: Training) -> None:
    if training.warmup_rounds >= training.rounds:
        raise ValueError(
            f"warmup_rounds = {training.warmup_rounds} leaves none of {training.rounds} rounds at "
            "the learning rate; use fewer"
        )
    if training.final_share and training.schedule == "constant":
        raise ValueError('final_share: schedule = "constant" ends where it begins; remove it')
    if not training.final_share and training.schedule == "step":
        raise ValueError(
            'schedule = "step" falls by equal factors, to a final_share above 0, such as 0.01'
        )
    if training.final_share == 1:
        raise ValueError('final_share = 1 is schedule = "constant"')


class Strategy(GrownDocument):
    """How the coordinator turns updates into the next model (Reddi et al. 2021, Algorithm 2).

    weighting: `bands` by the public size band of each site, `equal`, or `exact` row counts, which
    a site sends only when its policy allows.
    average_last: share of the rounds whose models are averaged into the final one.
    q: of `qfedavg`: a site counts by its loss to the power of q times its weight, so that those
    whom the model serves worst count most (Li et al. 2020, q-FFL).
    `newton` is for linear models without privacy: sites send gradient and information matrix.
    """

    later: ClassVar[frozenset[str]] = frozenset({"q"})

    name: Literal[
        "fedavg",
        "fedprox",
        "fedavgm",
        "fedadam",
        "fedyogi",
        "fedadagrad",
        "qfedavg",
        "newton",
    ] = "fedavg"
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
