"""What a self-test found of one thing, and how to look at the engines without changing them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cohortium.client.training.optimiser import Optimiser
from cohortium.client.training.private import PrivatePlan, train
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.privacy.empirical import LIMIT
from cohortium.common.privacy.noise import NoiseSource

Wide = NDArray[np.float64]
Vector = NDArray[np.float32]

CPU = torch.device("cpu")
AGAINST = -1e6  # a label so far off that no step changes the gradient's direction


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    said: what was found, and what is allowed. numbers: for the record. by_chance: whether an
    engine that is right fails it once in 16,000 times (4 standard errors), or never.
    """

    name: str
    ok: bool
    said: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    by_chance: bool = False


Checks = Iterator[Check]
Tell = Callable[[Check], None]


def statistical(name: str, off: float, said: str) -> Check:
    """A check that is passed up to LIMIT standard errors; not a number is never passed."""
    text = f"{said}, {off:+.1f} standard errors from what it should be (at most {LIMIT:g})"
    return Check(name, abs(off) <= LIMIT, text, {name: off}, by_chance=True)


Look = Callable[[torch.optim.Optimizer], None]


def unwatched(_: torch.optim.Optimizer) -> None:
    """Looks at nothing."""


@dataclass(frozen=True)
class Watched(Optimiser):
    """The sites' optimiser; before each of its steps `look` sees what is applied: the release."""

    look: Look = unwatched

    def bare(self, module: nn.Module) -> torch.optim.Optimizer:
        optimiser = super().bare(module)
        optimiser.register_step_pre_hook(lambda *_: self.look(optimiser))
        return optimiser


def gradient(optimiser: torch.optim.Optimizer) -> Vector:
    """What an optimiser is about to apply, flat; (d,) float32."""
    return _flat([p.grad for group in optimiser.param_groups for p in group["params"]])


def _flat(tensors: list[Tensor]) -> Vector:
    whole = torch.cat([tensor.reshape(-1) for tensor in tensors])
    flat: Vector = whole.to("cpu", torch.float32, copy=True).numpy()
    return flat


@dataclass(frozen=True, eq=False)
class Released:
    """What the engine let out: a noisy sum of clipped gradients for each step, (steps, d)."""

    sums: Vector
    mechanism: Mechanism


def released(
    module: nn.Module,
    features: Vector,
    labels: Vector,
    *,
    steps: int = 1,
    sample_rate: float = 1.0,
    clip_norm: float = 1.0,
    noise_multiplier: float = 0.0,
    start: Vector | None = None,
    device: torch.device = CPU,
    source: NoiseSource | None = None,
) -> Released:
    """Run the engine for Poisson batches on made-up rows and watch every step."""
    seen: list[Vector] = []
    expected = 3.0  # any public number: what the engine divides by, and is multiplied by here
    plan = PrivatePlan(
        outcome="regression",
        optimiser=Watched(
            learning_rate=1.0, look=lambda optimiser: seen.append(gradient(optimiser))
        ),
        local_steps=steps,
        sample_rate=sample_rate,
        expected_batch_size=expected,
        clip_norm=clip_norm,
        noise_multiplier=noise_multiplier,
    )
    if start is None:
        start = np.zeros(sum(p.numel() for p in module.parameters()), np.float32)
    update = train(module, start, features, labels, plan, source or NoiseSource(), device)
    assert update.mechanism is not None
    return Released(np.array(seen) * np.float32(expected), update.mechanism)


def no_rows(width: int) -> tuple[Vector, Vector]:
    """Features and labels of nobody: what the engine releases of them is noise alone."""
    return np.zeros((0, width), np.float32), np.zeros(0, np.float32)


def one_coordinate_each(places: NDArray[np.int64], width: int) -> tuple[Vector, Vector]:
    """Rows whose clipped gradient is the clip norm on one coordinate of a linear model each.

    The model has no bias; a row's gradient is 2 (w_i - AGAINST) e_i, far above any clip norm.
    """
    features = np.zeros((len(places), width), np.float32)
    features[np.arange(len(places)), places] = 1.0
    return features, np.full(len(places), AGAINST, np.float32)
