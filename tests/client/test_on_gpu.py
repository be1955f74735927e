"""What only a GPU can show: run on a machine that has one, `pytest tests/client/test_on_gpu.py`.

Needs nothing but this file's imports; everything is made up, and it takes about a minute.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.common.test_per_sample_gradients import TRIED, question
from tests.common.test_per_sample_gradients import options as options_of
from tests.common.test_per_sample_gradients import rows as rows_of
from torch import nn

from cohortium.client.training import full_batch, memory, plain, private
from cohortium.client.training.batch_order import own_stream
from cohortium.client.training.device import choose, of_rank
from cohortium.client.training.full_batch import FullBatchPlan
from cohortium.client.training.optimiser import Optimiser
from cohortium.client.training.plain import PlainPlan
from cohortium.client.training.private import PrivatePlan
from cohortium.common.arrays import flatten
from cohortium.common.layout import table_layout
from cohortium.common.models.building import build_seeded
from cohortium.common.models.options import ModelOptions
from cohortium.common.privacy.noise import NoiseSource

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

CPU, GPU = torch.device("cpu"), torch.device("cuda")
N = 300
RNG = np.random.default_rng(8)
X = RNG.normal(size=(N, 12)).astype(np.float32)
Y = (X[:, :3].sum(1) + RNG.normal(size=N) > 0).astype(np.float32)
PLAN = PlainPlan("binary", Optimiser(0.05, name="adam"), accumulate=2)
PRIVATE = PrivatePlan("binary", Optimiser(0.3, 0.9), 4, 1.0, N, 0.5, 0.0)


def mlp(dropout: float = 0.0) -> nn.Module:
    options = ModelOptions(name="mlp", hidden=(64, 64), dropout=dropout)
    return build_seeded(options, table_layout(12), 1, seed=2)


def trained(plan: PlainPlan, device: torch.device, dropout: float = 0.0) -> np.ndarray:
    batches = own_stream(N, 64, 20, 1, 0, 0)
    return plain.train(mlp(dropout), flatten(mlp()), X, Y, plan, batches, device).delta


@pytest.fixture(autouse=True)
def _exact() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def test_the_gpu_is_chosen_without_being_asked_for() -> None:
    assert choose().torch.type == "cuda"
    assert of_rank(GPU, torch.cuda.device_count()).index == 0


def test_it_trains_as_a_processor_does() -> None:
    sgd = replace(PLAN, optimiser=Optimiser(0.3, 0.9))
    assert trained(sgd, GPU) == pytest.approx(trained(sgd, CPU), abs=1e-4)


def test_private_engines_clip_as_on_a_processor() -> None:
    full = FullBatchPlan("binary", 0.5, 0.0, N)
    for engine, plan in ((private, PRIVATE), (full_batch, full)):
        train: Any = engine.train
        found = [
            train(mlp(), flatten(mlp()), X, Y, plan, NoiseSource(), device).delta
            for device in (GPU, CPU)
        ]
        assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_noise_on_the_gpu_has_the_scale_that_is_accounted() -> None:
    plan = replace(PRIVATE, optimiser=Optimiser(1.0), local_steps=1, noise_multiplier=3.0)
    wide = nn.Linear(1_000_000, 1, bias=False)
    none = np.zeros((0, 1_000_000), np.float32)
    start = np.zeros(1_000_000, np.float32)
    update = private.train(wide, start, none, Y[:0], plan, NoiseSource(), GPU)
    scale = update.delta.std(dtype=np.float64) / (3.0 * plan.clip_norm / N)
    assert abs(scale - 1) < 0.003


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns_nearly_the_same(precision: Any) -> None:
    sgd = replace(PLAN, optimiser=Optimiser(0.1))
    whole, half = trained(sgd, GPU), trained(replace(sgd, precision=precision), GPU)
    assert not np.array_equal(half, whole)
    assert np.linalg.norm(half - whole) < 0.05 * np.linalg.norm(whole)


def test_float16_that_overflows_takes_the_step_at_a_smaller_scale() -> None:
    y, start = (300 * X[:, 0]).astype(np.float32), np.zeros(13, np.float32)
    plans = [
        PlainPlan("regression", Optimiser(1e-3), precision=precision)
        for precision in ("float32", "float16")
    ]
    found = [
        plain.train(nn.Linear(12, 1), start, X, y, plan, [np.arange(N)], GPU).delta
        for plan in plans
    ]
    assert np.abs(found[0]).max() > 0.1
    assert found[1] == pytest.approx(found[0], rel=0.02, abs=2e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_seed_gives_the_same_bits_with_dropout(precision: Any) -> None:
    plan = replace(PLAN, precision=precision, seed=7)
    assert trained(plan, GPU, 0.4).tobytes() == trained(plan, GPU, 0.4).tobytes()


def test_a_gpu_that_is_nearly_full_takes_fewer_patients_at_a_time_to_the_same_result() -> None:
    """All but 2 GiB of the device is forbidden: gradients of 300 patients of this model are 5."""
    wide = ModelOptions(name="mlp", hidden=(2048, 2048))

    def model() -> nn.Module:
        return build_seeded(wide, table_layout(12), 1, seed=2)

    args = (flatten(model()), X, Y, PRIVATE, NoiseSource())
    before = private.train(model(), *args, GPU)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    rows: list[int] = []
    fitting = memory.fitting
    patch = pytest.MonkeyPatch()

    def too_many(*arguments: Any, **options: Any) -> memory.Physical:
        found = fitting(*arguments, **options)
        found.rows = N  # as if the estimate were wrong
        rows.append(found.rows)
        return found

    try:
        patch.setattr(memory, "fitting", too_many)
        torch.cuda.set_per_process_memory_fraction(2 * 2**30 / total)
        after = private.train(model(), *args, GPU)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        patch.undo()
    assert rows == [N]
    assert after.mechanism == before.mechanism
    assert after.delta == pytest.approx(before.delta, abs=1e-4)


def test_the_estimate_of_what_fits_does_not_run_out() -> None:
    wide = build_seeded(ModelOptions(name="mlp", hidden=(4096, 4096)), table_layout(12), 1, seed=2)
    physical = memory.fitting(wide.to(GPU), torch.tensor(X, device=GPU), of_each=True, device=GPU)
    parameters = sum(p.numel() for p in wide.parameters())
    free, _ = torch.cuda.mem_get_info()
    assert physical.rows * parameters * 4 < free


def test_two_processes_train_on_gpus_as_one(tmp_path: Any) -> None:
    """Over NCCL where there are two GPUs, else both on one over gloo."""
    from tests.client.test_ranks import two
    from tests.client.two_ranks import every_engine

    from cohortium.client.training.team import ALONE

    together, alone = two(tmp_path, "cuda"), every_engine(ALONE, GPU)
    for engine in ("plain", "private", "full"):
        assert together[0][engine] == pytest.approx(alone[engine], abs=1e-4)
    assert together[0]["noise"].tobytes() == together[1]["noise"].tobytes()


@pytest.mark.parametrize("name", sorted(set(TRIED) - {"vae", "gan"}))
def test_every_model_trains_there_as_on_a_processor(name: str) -> None:
    layout = TRIED[name][1]
    rows = np.tile(rows_of(layout).numpy(), (8, 1))
    outcome, outputs, labels = question(name, "patient", layout, torch.from_numpy(rows[:5]))
    binary = np.arange(len(rows)) % 2.0
    answers = binary if outcome == "binary" else np.tile(labels.numpy(), (8, 1))
    plan = replace(PRIVATE, outcome=outcome, expected_batch_size=len(rows))
    found = []
    for device in (CPU, GPU):
        module = build_seeded(options_of(name), layout, outputs, seed=1)
        start = flatten(module)
        given = (start, rows, answers.astype(np.float32), plan, NoiseSource(), device)
        found.append(private.train(module, *given).delta)
    assert found[1] == pytest.approx(found[0], abs=2e-3)
