"""DP-SGD does what the accounting believes: clipping, coins, noise and the count of steps."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from opacus import GradSampleModule
from tests.client.outcomes import OUTCOMES, labels_of
from torch import nn

from cohortium.client.training.optimiser import Optimiser
from cohortium.client.training.private import OwnNoise, PrivatePlan, train
from cohortium.common.arrays import flatten
from cohortium.common.errors import RefusedError
from cohortium.common.layout import table_layout
from cohortium.common.loss import per_example
from cohortium.common.models.building import build_seeded
from cohortium.common.models.options import ModelOptions
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.privacy.noise import NoiseSource

CPU = torch.device("cpu")
PLAN = PrivatePlan(
    outcome="binary",
    optimiser=Optimiser(learning_rate=1.0),
    local_steps=1,
    sample_rate=1.0,
    expected_batch_size=1.0,
    clip_norm=1.0,
    noise_multiplier=0.0,
)
FEATURES = np.array([[1.0, 2.0], [0.0, -1.0], [3.0, 0.5]], np.float32)
LABELS = np.array([1.0, 0.0, 0.0], np.float32)
START = np.array([0.1, -0.2, 0.05], np.float32)


def clipped_gradients(w: np.ndarray, clip_norm: float) -> np.ndarray:
    """Logistic regression by hand: (sigmoid(z) - y) (x, 1) for each row, scaled into the ball."""
    rows = np.column_stack([FEATURES, np.ones(3)])
    gradients: np.ndarray = (1 / (1 + np.exp(-rows @ w)) - LABELS)[:, None] * rows
    gradients *= np.minimum(1, clip_norm / np.linalg.norm(gradients, axis=1, keepdims=True))
    return gradients


@pytest.mark.parametrize("clip_norm", [0.3, 1.0, 100.0])
def test_without_noise_or_sampling_it_is_clipped_gradient_descent(clip_norm: float) -> None:
    plan = replace(
        PLAN,
        optimiser=Optimiser(learning_rate=0.5, momentum=0.9, weight_decay=0.1),
        local_steps=4,
        expected_batch_size=2.0,
        clip_norm=clip_norm,
    )
    w, velocity = START.astype(np.float64), np.zeros(3)
    for _ in range(4):
        gradient = clipped_gradients(w, clip_norm).sum(0) / 2 + 0.1 * w
        velocity = 0.9 * velocity + gradient
        w = w - 0.5 * velocity
    update = train(nn.Linear(2, 1), START, FEATURES, LABELS, plan, NoiseSource(), CPU)
    assert update.delta == pytest.approx(w - START, abs=2e-5)
    assert update.delta.dtype == np.float32


def test_the_mechanism_is_the_one_that_was_run() -> None:
    plan = replace(PLAN, local_steps=7, sample_rate=0.25, noise_multiplier=1.5)
    update = train(nn.Linear(2, 1), START, FEATURES, LABELS, plan, NoiseSource(), CPU)
    assert update.mechanism == Mechanism(
        sampler="poisson", sample_rate=0.25, noise_multiplier=1.5, steps=7
    )


def test_the_steps_that_are_accounted_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    add_noise = OwnNoise.add_noise

    def counted(self: OwnNoise) -> None:
        taken.append(self.noise_multiplier)
        add_noise(self)

    monkeypatch.setattr(OwnNoise, "add_noise", counted)
    for rate in (1e-9, 0.5, 1.0):  # empty batches, some, all
        taken.clear()
        plan = replace(PLAN, local_steps=9, sample_rate=rate, noise_multiplier=1.0)
        update = train(nn.Linear(2, 1), START, FEATURES, LABELS, plan, NoiseSource(), CPU)
        assert update.mechanism is not None
        assert len(taken) == update.mechanism.steps == 9


def test_empty_batches_and_an_empty_site_send_noise_alone() -> None:
    plan = replace(PLAN, local_steps=2, sample_rate=1e-9, noise_multiplier=1.0)
    for rows in (3, 0):
        update = train(
            nn.Linear(2, 1), START, FEATURES[:rows], LABELS[:rows], plan, NoiseSource(), CPU
        )
        assert np.isfinite(update.delta).all()
        assert update.delta.all()


def test_the_noise_of_a_step_has_the_scale_that_is_accounted() -> None:
    module = nn.Linear(1_000_000, 1)
    start = np.zeros(1_000_001, np.float32)
    features = np.zeros((0, 1_000_000), np.float32)
    plan = replace(PLAN, clip_norm=0.5, noise_multiplier=3.0, expected_batch_size=4.0)
    update = train(module, start, features, LABELS[:0], plan, NoiseSource(), CPU)
    scale = update.delta.std(dtype=np.float64) / (3.0 * 0.5 / 4.0)
    assert abs(scale - 1) < 0.003


def test_no_patient_moves_the_sum_by_more_than_the_clip_norm() -> None:
    module = build_seeded(ModelOptions(name="mlp", hidden=(6,)), table_layout(2), 1, seed=1)
    start = flatten(module)
    plan = replace(PLAN, clip_norm=0.7)
    rng = np.random.default_rng(5)
    features = (100 * rng.normal(size=(20, 2))).astype(np.float32)
    labels = rng.integers(0, 2, 20).astype(np.float32)
    whole = train(module, start, features, labels, plan, NoiseSource(), CPU).delta
    for left_out in range(20):
        keep = np.arange(20) != left_out
        rest = train(module, start, features[keep], labels[keep], plan, NoiseSource(), CPU).delta
        assert np.linalg.norm((whole - rest).astype(np.float64)) <= 0.7 * (1 + 1e-5)


def test_a_gradient_that_overflows_does_not_betray_its_patient() -> None:
    start = np.array([3e38, 3e38, 0.0], np.float32)  # what a hostile coordinator might send
    features = np.array([[3e38, -3e38], [1.0, 1.0]], np.float32)
    update = train(nn.Linear(2, 1), start, features, LABELS[:2], PLAN, NoiseSource(), CPU)
    assert np.isfinite(update.delta).all()
    assert np.linalg.norm(update.delta) <= 2


def test_a_batch_too_large_for_one_pass_gives_the_same_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = replace(PLAN, local_steps=3, optimiser=Optimiser(0.5, momentum=0.5))
    whole = train(nn.Linear(2, 1), START, FEATURES, LABELS, plan, NoiseSource(), CPU).delta
    monkeypatch.setattr("cohortium.client.training.private.PASS_VALUES", 3)  # a row at a time
    parts = train(nn.Linear(2, 1), START, FEATURES, LABELS, plan, NoiseSource(), CPU).delta
    assert parts == pytest.approx(whole, abs=1e-6)


def test_noise_differs_between_two_runs_and_two_sites() -> None:
    plan = replace(PLAN, noise_multiplier=1.0)
    first, second = (
        train(nn.Linear(2, 1), START, FEATURES, LABELS, plan, NoiseSource(), CPU).delta
        for _ in range(2)
    )
    assert not set(first.tolist()) & set(second.tolist())


def test_batch_norm_is_refused_with_the_reason() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    with pytest.raises(RefusedError, match="BatchNorm") as refusal:
        train(module, flatten(module), FEATURES, LABELS, PLAN, NoiseSource(), CPU)
    assert refusal.value.rule == "privacy.model"
    assert "\n" not in str(refusal.value)


def test_the_module_can_be_used_again_afterwards() -> None:
    module = build_seeded(
        ModelOptions(name="mlp", hidden=(4,), dropout=0.1), table_layout(2), 1, seed=1
    )
    start = flatten(module)
    for _ in range(2):
        train(module, start, FEATURES, LABELS, PLAN, NoiseSource(), CPU)
    assert next(name for name, _ in module.named_parameters()) == "0.weight"
    assert module(torch.zeros(1, 2)).shape == (1, 1)


def by_loop(
    module: nn.Module, outcome: Any, features: np.ndarray, labels: np.ndarray, clip_norm: float
) -> np.ndarray:
    """The sum of each patient's gradient, scaled into the ball."""
    x, y = torch.tensor(features), torch.tensor(labels)
    total = np.zeros(len(flatten(module)))
    for i in range(len(x)):
        loss = per_example(outcome, module(x[i : i + 1]), y[i : i + 1]).sum()
        parts = torch.autograd.grad(loss, list(module.parameters()))
        gradient = np.concatenate([g.reshape(-1).double().numpy() for g in parts])
        total += gradient * min(1, clip_norm / float(np.linalg.norm(gradient) + 1e-12))
    return total


@pytest.mark.parametrize(("outcome", "outputs"), OUTCOMES)
@pytest.mark.parametrize("clip_norm", [0.3, 1e6])
def test_a_step_takes_each_patients_clipped_gradient_whatever_the_outcome(
    outcome: Any, outputs: int, clip_norm: float
) -> None:
    options = ModelOptions(name="mlp", hidden=(4,), activation="tanh")
    module = build_seeded(options, table_layout(2), outputs, seed=1)
    features = np.random.default_rng(2).normal(size=(17, 2)).astype(np.float32)
    labels = labels_of(outcome, 17)
    start, expected = flatten(module), by_loop(module, outcome, features, labels, clip_norm)
    plan = replace(PLAN, outcome=outcome, clip_norm=clip_norm)
    update = train(module, start, features, labels, plan, NoiseSource(), CPU)
    assert update.delta == pytest.approx(-expected, rel=1e-4, abs=1e-4)


def test_a_pass_that_memory_broke_off_halfway_back_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second layer's gradients are there, the first one's did not fit: half as many, anew."""
    options, rows = ModelOptions(name="mlp", hidden=(6,)), np.tile(FEATURES, (4, 1))
    labels = np.tile(LABELS, 4)
    plan = replace(PLAN, sample_rate=1.0, noise_multiplier=0.0, local_steps=2)
    module = build_seeded(options, table_layout(2), 1, seed=1)
    start = flatten(module)
    whole = train(module, start, rows, labels, plan, NoiseSource(), CPU).delta
    sampler, seen = GradSampleModule.GRAD_SAMPLERS[nn.Linear], list[int]()

    def small(layer: nn.Linear, activations: Any, backprops: Any) -> Any:
        if layer.in_features == 2:
            seen.append(len(backprops))
            if len(backprops) > len(rows) // 2:
                raise MemoryError
        return sampler(layer, activations, backprops)

    monkeypatch.setitem(GradSampleModule.GRAD_SAMPLERS, nn.Linear, small)
    cut = train(module, start, rows, labels, plan, NoiseSource(), CPU).delta
    assert seen[0] == len(rows)
    assert max(seen[1:]) <= len(rows) // 2
    np.testing.assert_allclose(cut, whole, rtol=1e-5, atol=1e-7)
