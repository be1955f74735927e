"""Parts of a batch, precision, memory, rare classes: what they change, and what they must not."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from cohortium.client.training import full_batch, memory, plain, private
from cohortium.client.training.batch_order import own_stream
from cohortium.client.training.batches import balanced
from cohortium.client.training.full_batch import FullBatchPlan
from cohortium.client.training.optimiser import Optimiser
from cohortium.client.training.plain import PlainPlan
from cohortium.client.training.private import PrivatePlan
from cohortium.common.arrays import flatten
from cohortium.common.layout import table_layout
from cohortium.common.loss import per_example, weighted
from cohortium.common.models.building import build_seeded
from cohortium.common.models.options import ModelOptions
from cohortium.common.privacy.noise import NoiseSource

CPU = torch.device("cpu")
N = 48
RNG = np.random.default_rng(3)
X = RNG.normal(size=(N, 4)).astype(np.float32)
Y = (X[:, 0] + 0.5 * RNG.normal(size=N) > 0.8).astype(np.float32)


def mlp(dropout: float = 0.0) -> nn.Module:
    options = ModelOptions(name="mlp", hidden=(16,), dropout=dropout)
    return build_seeded(options, table_layout(4), 1, seed=2)


def trained(plan: PlainPlan, dropout: float = 0.0, steps: int = 5) -> np.ndarray:
    module = mlp(dropout)
    batches = own_stream(N, 20, steps, 1, 0, 0)
    return plain.train(module, flatten(module), X, Y, plan, batches, CPU).delta


@pytest.mark.parametrize("parts", [2, 3, 20])
def test_a_batch_in_parts_is_the_whole_batch(parts: int) -> None:
    whole = trained(PlainPlan("binary", Optimiser(0.3, 0.9)))
    in_parts = trained(PlainPlan("binary", Optimiser(0.3, 0.9), accumulate=parts))
    assert in_parts == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns_nearly_the_same(precision: Any) -> None:
    whole = trained(PlainPlan("binary", Optimiser(0.3)))
    half = trained(PlainPlan("binary", Optimiser(0.3), precision=precision))
    assert half.dtype == np.float32
    assert not np.array_equal(half, whole)
    assert np.linalg.norm(half - whole) < 0.02 * np.linalg.norm(whole)


def test_a_step_that_overflows_in_float16_is_taken_at_a_smaller_scale() -> None:
    y = (300 * X[:, 0]).astype(np.float32)  # squared errors whose gradients exceed 65504 x 2^-12
    start = np.zeros(5, np.float32)
    found = [
        plain.train(nn.Linear(4, 1), start, X, y, plan, [np.arange(N)], CPU).delta
        for plan in (
            PlainPlan("regression", Optimiser(1e-3)),
            PlainPlan("regression", Optimiser(1e-3), precision="float16"),
        )
    ]
    assert np.abs(found[0]).max() > 0.1
    assert found[1] == pytest.approx(found[0], rel=0.02, abs=1e-3)


@pytest.mark.parametrize(
    "plan",
    [
        PlainPlan("binary", Optimiser(0.1, name="adam"), seed=7, accumulate=3),
        PlainPlan("binary", Optimiser(0.1, 0.9), seed=7, precision="bfloat16"),
    ],
)
def test_the_same_seed_gives_the_same_bits_with_dropout(plan: PlainPlan) -> None:
    assert trained(plan, dropout=0.4).tobytes() == trained(plan, dropout=0.4).tobytes()


class Small(nn.Module):
    """A model on a device that holds so many patients at a time, and says no to more."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.inner, self.most = mlp(), most
        self.refused, self.largest = 0, 0

    def forward(self, features: Tensor) -> Tensor:
        if len(features) > self.most:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.largest = max(self.largest, len(features))
        out: Tensor = self.inner(features)
        return out


PRIVATE = PrivatePlan("binary", Optimiser(0.3, 0.9), 3, 1.0, N, 0.5, 0.0)


def test_private_training_that_runs_out_of_memory_goes_on_with_the_same_result() -> None:
    large, small = Small(1000), Small(5)
    found = [
        private.train(model, flatten(model), X, Y, PRIVATE, NoiseSource(), CPU)
        for model in (large, small)
    ]
    assert small.refused > 0
    assert small.largest <= 5
    assert found[1].delta == pytest.approx(found[0].delta, abs=1e-6)
    assert found[1].mechanism == found[0].mechanism


def test_ordinary_training_that_runs_out_of_memory_goes_on_with_the_same_result() -> None:
    large, small = Small(1000), Small(3)
    plan = PlainPlan("binary", Optimiser(0.3, 0.9))
    batches = own_stream(N, 20, 4, 1, 0, 0)
    found = [
        plain.train(model, flatten(model), X, Y, plan, batches, CPU).delta
        for model in (large, small)
    ]
    assert small.refused > 0
    assert found[1] == pytest.approx(found[0], abs=1e-6)


def test_a_patient_alone_who_does_not_fit_is_the_machines_failure() -> None:
    model = Small(0)
    with pytest.raises(torch.OutOfMemoryError):
        private.train(model, flatten(model), X, Y, PRIVATE, NoiseSource(), CPU)


def test_half_clipped_gradients_are_forgotten_where_memory_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = mlp()
    whole = private.train(module, flatten(module), X, Y, PRIVATE, NoiseSource(), CPU)
    einsum, calls = torch.einsum, [0]

    def short(*arguments: Any) -> Tensor:
        calls[0] += arguments[0] == "i,i..."
        if calls[0] == 2:  # the second parameter of the first part
            calls[0] += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return einsum(*arguments)

    monkeypatch.setattr(torch, "einsum", short)
    module = mlp()
    again = private.train(module, flatten(module), X, Y, PRIVATE, NoiseSource(), CPU)
    assert calls[0] > 2
    assert again.delta == pytest.approx(whole.delta, abs=1e-6)


def test_parts_shrink_with_free_memory_and_with_the_gradients_of_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = torch.tensor(X)

    def rows(free: int, of_each: bool) -> int:
        monkeypatch.setattr(memory, "free_bytes", lambda _: free)
        return memory.fitting(mlp(), x, of_each=of_each, device=CPU).rows

    assert rows(2**40, True) == memory.MOST_ROWS
    assert 1 < rows(2**20, True) < rows(2**20, False) < memory.MOST_ROWS
    assert rows(1, True) == 1


def test_what_a_process_may_still_take_is_known() -> None:
    assert 2**20 < memory.free_bytes(CPU) < 2**50


WEIGHTS = (1.0, 4.0)


def test_class_weights_are_torchs() -> None:
    logits, labels = torch.randn(6, 3), torch.tensor([0.0, 1, 2, 2, 1, 0])
    ours = weighted(per_example("multiclass", logits, labels), labels, (0.5, 2.0, 3.0))
    theirs = nn.functional.cross_entropy(
        logits, labels.long(), weight=torch.tensor([0.5, 2.0, 3.0]), reduction="none"
    )
    assert torch.allclose(ours, theirs)


def test_training_with_class_weights_ends_where_scikit_learns_does() -> None:
    y = (X[:, 0] + 2 * np.random.default_rng(5).normal(size=N) > 0.8).astype(np.float32)
    oracle = LogisticRegression(C=1e9, class_weight=dict(enumerate(WEIGHTS)), tol=1e-8)
    oracle.fit(X, y)
    plan = PlainPlan("binary", Optimiser(0.3, 0.9), class_weights=WEIGHTS)
    start = np.zeros(5, np.float32)
    found = plain.train(nn.Linear(4, 1), start, X, y, plan, [np.arange(N)] * 800, CPU).delta
    expected = [*oracle.coef_[0], oracle.intercept_[0]]
    assert found == pytest.approx(expected, rel=0.01, abs=0.01)


def test_with_privacy_the_weight_comes_before_the_clipping() -> None:
    w, clip = np.array([0.3, -0.2, 0.1, 0.0, 0.05], np.float32), 1.0
    rows = np.column_stack([X, np.ones(N)])
    each = ((1 / (1 + np.exp(-rows @ w)) - Y) * np.where(Y > 0.5, 4.0, 1.0))[:, None] * rows
    each *= np.minimum(1, clip / np.linalg.norm(each, axis=1, keepdims=True))
    poisson = PrivatePlan("binary", Optimiser(1.0), 1, 1.0, N, clip, 0.0, WEIGHTS)
    full = FullBatchPlan("binary", clip, 0.0, N, class_weights=WEIGHTS)
    expected = -each.sum(0) / N
    one = private.train(nn.Linear(4, 1), w, X, Y, poisson, NoiseSource(), CPU).delta
    two = full_batch.train(nn.Linear(4, 1), w, X, Y, full, NoiseSource(), CPU).delta
    assert one == pytest.approx(expected, abs=1e-5)
    assert two == pytest.approx(expected, abs=1e-5)


def test_oversampling_keeps_everybody_and_evens_the_classes() -> None:
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 2], np.float32)
    chosen = balanced(labels, np.random.default_rng(0), over=True)
    assert np.bincount(labels[chosen].astype(int)).tolist() == [5, 5, 5]
    assert set(chosen) == set(range(8))
    assert np.bincount(chosen)[5:7].tolist() in ([2, 3], [3, 2])


def test_undersampling_repeats_nobody_and_draws_anew() -> None:
    labels = np.array([0] * 50 + [1] * 5, np.float32)
    first, second = (balanced(labels, np.random.default_rng(k), over=False) for k in (0, 1))
    assert len(set(first)) == len(first) == 10
    assert set(range(50, 55)) <= set(first)
    assert set(first) != set(second)
