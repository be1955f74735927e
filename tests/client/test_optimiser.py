"""The optimiser is torch's on the gradients it gets, and accounts for nothing else."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cohortium.client.training import plain, private
from cohortium.client.training.optimiser import Optimiser, of_round
from cohortium.client.training.private import PrivatePlan
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.privacy.noise import NoiseSource
from cohortium.common.training import Training

CPU = torch.device("cpu")
X = np.array([[1.0, 2.0], [0.0, -1.0], [3.0, 0.5]], np.float32)
Y = np.array([1.0, 0.0, 0.0], np.float32)
START = np.array([0.1, -0.2, 0.05], np.float32)
KINDS: dict[str, tuple[Optimiser, Any, dict[str, Any]]] = {
    "sgd": (Optimiser(0.1, 0.9, 0.01), torch.optim.SGD, {"momentum": 0.9}),
    "adam": (Optimiser(0.1, 0.0, 0.01, "adam", 0.8, 0.9), torch.optim.Adam, {"betas": (0.8, 0.9)}),
    "adamw": (Optimiser(0.1, 0.0, 0.01, "adamw"), torch.optim.AdamW, {"betas": (0.9, 0.999)}),
}


def by_torch(kind: str, gradients: list[np.ndarray]) -> np.ndarray:
    """Where torch.optim goes from START by these gradients."""
    _, optimiser, options = KINDS[kind]
    w = nn.Parameter(torch.tensor(START))
    steps: Any = optimiser([w], lr=0.1, weight_decay=0.01, **options)
    for gradient in gradients:
        w.grad = torch.tensor(gradient, dtype=torch.float32)
        steps.step()
    return w.detach().numpy() - START


class Drawn(NoiseSource):
    """A source that remembers the noise that it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[np.ndarray] = []

    def gaussian(self, shape: tuple[int, ...], std: float) -> np.ndarray:
        noise = super().gaussian(shape, std)
        self.given.append(noise.reshape(-1))
        return noise


@pytest.mark.parametrize("kind", KINDS)
def test_with_privacy_it_is_torchs_on_the_noisy_mean_of_clipped_gradients(kind: str) -> None:
    plan = PrivatePlan("binary", KINDS[kind][0], 1, 1.0, 2.0, 0.7, 1.5)
    seen: list[np.ndarray] = []

    class Watched(Optimiser):
        def bare(self, module: nn.Module) -> torch.optim.Optimizer:
            optimiser = super().bare(module)
            optimiser.register_step_pre_hook(lambda *_: seen.append(_gradient(module)))
            return optimiser

    source, steps = Drawn(), 5
    watched = replace(plan, local_steps=steps, optimiser=Watched(**vars(plan.optimiser)))
    update = private.train(nn.Linear(2, 1), START, X, Y, watched, source, CPU)
    assert update.delta == pytest.approx(by_torch(kind, seen), abs=1e-6)
    noise = np.concatenate(source.given).reshape(steps, 3)
    assert seen[0] == pytest.approx((clipped(START, 0.7) + noise[0]) / 2.0, abs=1e-5)
    assert update.mechanism == Mechanism(
        sampler="poisson", sample_rate=1.0, noise_multiplier=1.5, steps=steps
    )


def _gradient(module: nn.Module) -> np.ndarray:
    parts = [p.grad.reshape(-1) for p in module.parameters() if p.grad is not None]
    return torch.cat(parts).numpy().copy()


def clipped(w: np.ndarray, clip_norm: float, weights: np.ndarray | float = 1.0) -> np.ndarray:
    rows = np.column_stack([X, np.ones(3)])
    each = np.asarray((1 / (1 + np.exp(-rows @ w)) - Y) * weights)[:, None] * rows
    norms = np.linalg.norm(each, axis=1, keepdims=True)
    return np.asarray((each * np.minimum(1, clip_norm / norms)).sum(0))


@pytest.mark.parametrize("kind", KINDS)
def test_without_privacy_it_is_torchs_too(kind: str) -> None:
    module, steps = nn.Linear(2, 1), 4
    optimiser: Any = KINDS[kind][1](
        module.parameters(), lr=0.1, weight_decay=0.01, **KINDS[kind][2]
    )
    with torch.no_grad():
        module.weight.copy_(torch.tensor(START[:2]))
        module.bias.copy_(torch.tensor(START[2:]))
    for _ in range(steps):
        optimiser.zero_grad()
        logits = module(torch.tensor(X))[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor(Y))
        torch.autograd.backward(loss)
        optimiser.step()
    expected = torch.cat([p.detach().reshape(-1) for p in module.parameters()]).numpy() - START
    plan = plain.PlainPlan("binary", KINDS[kind][0])
    update = plain.train(nn.Linear(2, 1), START, X, Y, plan, [np.arange(3)] * steps, CPU)
    assert update.delta == pytest.approx(expected, abs=1e-6)


def test_l1_pulls_by_the_sign_behind_clipping_and_stops_at_zero() -> None:
    start = np.array([0.5, -0.5, 0.0], np.float32)
    plan = PrivatePlan("binary", Optimiser(1.0, l1=0.25), 1, 1e-9, 1.0, 0.1, 0.0)
    update = private.train(nn.Linear(2, 1), start, X, Y, plan, NoiseSource(), CPU)
    assert update.delta == pytest.approx([-0.25, 0.25, 0.0], abs=1e-7)


def test_l1_makes_a_useless_input_count_for_nothing() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 2)).astype(np.float32)
    y = (x[:, 0] + 0.3 * rng.normal(size=200)).astype(np.float32)
    every = [np.arange(200)] * 200
    plan = plain.PlainPlan("regression", Optimiser(0.05, l1=0.2))
    w = START + plain.train(nn.Linear(2, 1), START, x, y, plan, every, CPU).delta
    assert abs(w[1]) <= 0.05 * 0.2 + 1e-6
    assert 0.8 < w[0] < 0.95  # of 1, less about l1 / 2


def test_a_round_has_the_rate_of_its_schedule() -> None:
    training = Training(
        rounds=4,
        batches="shuffle",
        batch_size=2,
        learning_rate=0.8,
        optimiser="adam",
        schedule="linear",
        l1=0.1,
    )
    assert of_round(training, 3) == Optimiser(0.4, 0.0, 0.0, "adam", 0.9, 0.999, 0.1)


def test_frozen_parameters_are_not_penalised() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    module[0].requires_grad_(False)
    optimiser = Optimiser(0.1, l1=1.0).of(module)
    before = [p.detach().clone() for p in module[0].parameters()]
    loss: Tensor = module(torch.tensor(X)).sum()
    torch.autograd.backward(loss)
    optimiser.step()
    assert all(torch.equal(a, b) for a, b in zip(before, module[0].parameters(), strict=True))
