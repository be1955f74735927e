"""The noisy full-batch gradient: clipped as one would by hand, noised as accounted."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.client.outcomes import OUTCOMES, labels_of
from torch import nn

from cohortium.client.training.full_batch import FullBatchPlan, clipped_sum, train
from cohortium.common.arrays import flatten, load_into
from cohortium.common.errors import ProtocolError
from cohortium.common.layout import table_layout
from cohortium.common.loss import per_example
from cohortium.common.models.building import build_seeded
from cohortium.common.models.options import ModelOptions
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.privacy.noise import NoiseSource

CPU = torch.device("cpu")


def mlp(outputs: int = 1) -> nn.Module:
    options = ModelOptions(name="mlp", hidden=(5,), activation="gelu")
    return build_seeded(options, table_layout(4), outputs, seed=3)


def table(rows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 4)).astype(np.float32)
    return torch.tensor(features), torch.tensor(rng.integers(0, 2, rows).astype(np.float32))


def by_loop(
    module: nn.Module, x: torch.Tensor, y: torch.Tensor, outcome: Any, clip_norm: float
) -> np.ndarray:
    total = np.zeros(sum(p.numel() for p in module.parameters()))
    for i in range(len(x)):
        loss = per_example(outcome, module(x[i : i + 1]), y[i : i + 1]).sum()
        parts = torch.autograd.grad(loss, list(module.parameters()))
        gradient = np.concatenate([g.reshape(-1).double().numpy() for g in parts])
        length = max(float(np.linalg.norm(gradient)), 1e-30)  # nobody watched teaches nothing
        total += gradient * min(1, clip_norm / length)
    return total


@pytest.mark.parametrize(("outcome", "outputs"), OUTCOMES)
@pytest.mark.parametrize("clip_norm", [0.1, 0.8, 1e6])
def test_the_sum_of_clipped_gradients_equals_a_loop(
    outcome: Any, outputs: int, clip_norm: float
) -> None:
    module, (x, _) = mlp(outputs), table(23)
    y = torch.tensor(labels_of(outcome, 23))
    expected = by_loop(module, x, y, outcome, clip_norm)
    assert clipped_sum(module, x, y, outcome, clip_norm) == pytest.approx(expected, abs=1e-5)


def test_chunks_do_not_change_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    module, (x, y) = mlp(), table(23)
    whole = clipped_sum(module, x, y, "binary", 0.5)
    monkeypatch.setattr("cohortium.client.training.full_batch.CHUNK_VALUES", 5 * 31)
    assert clipped_sum(module, x, y, "binary", 0.5) == pytest.approx(whole, abs=1e-7)


@settings(max_examples=60, deadline=None, database=None)
@given(
    values=st.lists(st.floats(-(2.0**126), 2.0**126, width=32), min_size=4, max_size=4),
    label=st.sampled_from([0.0, 1.0]),
    scale=st.sampled_from([1e-20, 1.0, 1e6, 1e30]),
    clip_norm=st.sampled_from([0.01, 1.0, 50.0]),
)
def test_one_patient_more_moves_the_sum_by_at_most_the_clip_norm(
    values: list[float], label: float, scale: float, clip_norm: float
) -> None:
    module, (x, y) = mlp(), table(6)
    load_into(module, np.float32(scale) * flatten(module))
    before = clipped_sum(module, x, y, "binary", clip_norm)
    more = torch.cat([x, torch.tensor([values])]), torch.cat([y, torch.tensor([label])])
    after = clipped_sum(module, *more, "binary", clip_norm)
    assert np.isfinite(after).all()
    assert np.linalg.norm(after - before) <= clip_norm * (1 + 1e-9)


def test_the_update_is_minus_the_sum_by_the_public_size() -> None:
    module, (x, y) = mlp(), table(11)
    start = flatten(module)
    plan = FullBatchPlan("binary", clip_norm=0.5, noise_multiplier=0.0, nominal_rows=40.0)
    update = train(module, start, x.numpy(), y.numpy(), plan, NoiseSource(), CPU)
    assert update.delta == pytest.approx(-by_loop(module, x, y, "binary", 0.5) / 40, abs=1e-6)
    assert update.delta.dtype == np.float32


def test_exactly_one_full_batch_release_is_accounted() -> None:
    module, (x, y) = mlp(), table(3)
    plan = FullBatchPlan("binary", clip_norm=0.5, noise_multiplier=2.0, nominal_rows=40.0)
    update = train(module, flatten(module), x.numpy(), y.numpy(), plan, NoiseSource(), CPU)
    assert update.mechanism == Mechanism(
        sampler="full-batch", sample_rate=1.0, noise_multiplier=2.0, steps=1
    )


def test_the_noise_has_the_scale_that_is_accounted_even_without_patients() -> None:
    module = nn.Linear(1_000_000, 1)
    plan = FullBatchPlan("binary", clip_norm=0.5, noise_multiplier=3.0, nominal_rows=4.0)
    nobody = np.zeros((0, 1_000_000), np.float32), np.zeros(0, np.float32)
    update = train(module, np.zeros(1_000_001, np.float32), *nobody, plan, NoiseSource(), CPU)
    scale = update.delta.std(dtype=np.float64) / (3.0 * 0.5 / 4.0)
    assert abs(scale - 1) < 0.003


def test_a_start_that_does_not_fit_is_refused() -> None:
    plan = FullBatchPlan("binary", clip_norm=0.5, noise_multiplier=3.0, nominal_rows=4.0)
    x, y = table(3)
    with pytest.raises(ProtocolError, match="31 float32"):
        train(mlp(), np.zeros(30, np.float32), x.numpy(), y.numpy(), plan, NoiseSource(), CPU)
