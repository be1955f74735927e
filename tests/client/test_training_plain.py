"""Training without privacy: SGD as written down, the same bits every time."""

import csv
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.client.outcomes import OUTCOMES, labels_of
from torch import nn

from cohortium.client.training.batch_order import own_stream, shared_stream
from cohortium.client.training.device import choose
from cohortium.client.training.optimiser import Optimiser
from cohortium.client.training.plain import PlainPlan, train
from cohortium.client.training.update import LocalUpdate
from cohortium.common.arrays import flatten
from cohortium.common.errors import UsageError
from cohortium.common.layout import table_layout
from cohortium.common.loss import per_example
from cohortium.common.models.building import build_seeded
from cohortium.common.models.options import ModelOptions

CPU = torch.device("cpu")
DATA = Path(os.environ.get("COHORTIUM_TEST_DATA", Path(__file__).parents[3] / "shared/data"))
X = np.array([[1.0, 2.0], [0.0, -1.0], [3.0, 0.5]], np.float32)
Y = np.array([1.0, -2.0, 0.5], np.float32)
START = np.array([0.1, -0.2, 0.05], np.float32)
ALL = [np.arange(3)] * 4


def test_each_step_is_sgd_with_momentum_decay_and_a_pull_to_the_start() -> None:
    plan = PlainPlan("regression", Optimiser(0.05, momentum=0.9, weight_decay=0.1), proximal=0.7)
    rows = np.column_stack([X, np.ones(3)]).astype(np.float64)
    w, velocity = START.astype(np.float64), np.zeros(3)
    for _ in ALL:
        gradient = 2 * rows.T @ (rows @ w - Y) / 3 + 0.7 * (w - START) + 0.1 * w
        velocity = 0.9 * velocity + gradient
        w = w - 0.05 * velocity
    update = train(nn.Linear(2, 1), START, X, Y, plan, ALL, CPU)
    assert update.delta == pytest.approx(w - START, abs=1e-5)
    assert update.mechanism is None


@pytest.mark.parametrize(("outcome", "outputs"), OUTCOMES)
def test_a_step_follows_the_mean_of_the_patients_gradients_whatever_the_outcome(
    outcome: Any, outputs: int
) -> None:
    module = build_seeded(ModelOptions(name="mlp", hidden=(4,)), table_layout(2), outputs, seed=1)
    start, labels = flatten(module), labels_of(outcome, 3)
    x, y = torch.tensor(X), torch.tensor(labels)
    mean = np.zeros(len(start))
    for i in range(3):
        loss = per_example(outcome, module(x[i : i + 1]), y[i : i + 1]).sum()
        parts = torch.autograd.grad(loss, list(module.parameters()))
        mean += np.concatenate([g.reshape(-1).double().numpy() for g in parts]) / 3
    plan = PlainPlan(outcome, Optimiser(1.0))
    update = train(module, start, X, labels, plan, [np.arange(3)], CPU)
    assert update.delta == pytest.approx(-mean, abs=1e-5)


def test_a_strong_proximal_term_keeps_the_model_near_its_start() -> None:
    free = PlainPlan("regression", Optimiser(0.05))
    held = replace(free, proximal=10.0)
    moved = [
        np.linalg.norm(train(nn.Linear(2, 1), START, X, Y, p, ALL, CPU).delta) for p in (free, held)
    ]
    assert moved[1] < 0.7 * moved[0]


def test_the_same_round_twice_gives_the_same_bits_and_leaves_the_random_state_alone() -> None:
    module = build_seeded(
        ModelOptions(name="mlp", hidden=(8,), dropout=0.5), table_layout(2), 1, seed=0
    )
    start = flatten(module)
    plan = PlainPlan("regression", Optimiser(0.05), seed=3)

    def run(plan: PlainPlan) -> LocalUpdate:
        return train(module, start, X, Y, plan, own_stream(3, 2, 6, 2, 3, 0), CPU)

    before = torch.get_rng_state()
    first = run(plan)
    torch.manual_seed(99)
    second = run(plan)
    assert first.delta.tobytes() == second.delta.tobytes()
    assert run(replace(plan, seed=4)).delta.tobytes() != first.delta.tobytes()
    torch.set_rng_state(before)
    run(plan)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_device_is_named_and_a_missing_one_refused() -> None:
    assert choose("cpu").torch == CPU
    assert choose().description.endswith("chosen automatically")
    if not torch.backends.mps.is_available():
        with pytest.raises(UsageError, match='"mps" was asked for, but torch finds only'):
            choose("mps")


def hospital(path: Path) -> tuple[np.ndarray, ...]:
    """Train and test features and labels of one hospital, as the published benchmark has them."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    numbers = ("age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak")
    dummies = [("cp", 2), ("cp", 3), ("cp", 4), ("restecg", 1), ("restecg", 2)]
    x = torch.tensor(
        [
            [float(row[k]) for k in numbers] + [float(float(row[k]) == v) for k, v in dummies]
            for row in rows
        ]
    )
    y = np.array([row["label"] for row in rows], np.float32)
    train_rows = np.array([row["split"] == "train" for row in rows])
    x = (x - x[train_rows].mean(0)) / (x[train_rows].std(0) + 1e-9)
    return x.numpy()[train_rows], y[train_rows], x.numpy()[~train_rows], y[~train_rows]


@pytest.mark.skipif(
    not (DATA / "heart_flamby").is_dir(),
    reason="no heart_flamby folder in COHORTIUM_TEST_DATA: the published table is not reproduced",
)
def test_flambys_fedavg_on_heart_disease_is_reproduced() -> None:
    """FLamby, Fed-Heart-Disease, FedAvg of 15 rounds of 100 steps: .6915 for seed 42."""
    names = ("cleveland", "hungarian", "switzerland", "va")
    sites = [hospital(DATA / "heart_flamby" / f"{name}.csv") for name in names]
    counts = [len(site[0]) for site in sites]
    module = build_seeded(ModelOptions(name="logistic"), table_layout(13), 1, seed=42)
    plan = PlainPlan("binary", Optimiser(1e-3))
    w = flatten(module)
    for number in range(1, 16):
        updates = [
            train(module, w, x, y, plan, shared_stream(counts, 4, 100, number, 42, i), CPU)
            for i, (x, y, _, _) in enumerate(sites)
        ]
        w = w + np.average([u.delta for u in updates], axis=0, weights=counts).astype(np.float32)
    accuracy = [np.mean((x @ w[:13] + w[13] > 0) == (y > 0.5)) for _, _, x, y in sites]
    assert np.mean(accuracy) == pytest.approx(0.691492, abs=1e-6)
