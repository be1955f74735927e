"""L0: the mechanism that the ledger counts is the one that runs. Seconds, on made-up rows.

Every check runs the engines that train (`training/private.py`, `training/full_batch.py`) and the
noise of counts (`common/privacy/discrete_gaussian.py`) and compares what they release with
arithmetic done here. A statistical check is failed by chance once in 16,000 times, so that the
whole self-test is failed by a sound site less than once in a thousand times.
"""

import subprocess
import sys
from fractions import Fraction

import numpy as np
import torch
from torch import nn

from cohortium.client.selftest.check import (
    CPU,
    Check,
    Checks,
    Vector,
    Wide,
    no_rows,
    one_coordinate_each,
    released,
    statistical,
)
from cohortium.client.selftest.rehearsal import ledger_and_steps
from cohortium.client.training import full_batch
from cohortium.common import arrays
from cohortium.common.errors import CohortiumError
from cohortium.common.layout import table_layout
from cohortium.common.models.building import build_seeded
from cohortium.common.models.options import ModelOptions
from cohortium.common.privacy import empirical
from cohortium.common.privacy.count_noise import count_noise
from cohortium.common.privacy.discrete_gaussian import draws
from cohortium.common.privacy.noise import NoiseSource

DRAWS = 1_000_000  # a wrong scale of the noise is found from 0.28 % on
PAIRED = 250_000  # values whose correlation is looked at: at most 0.008
COUNTS = 20_000  # draws of the discrete noise, which is slow and exact
SIGMA, CLIP, NOMINAL = 1.5, 0.5, 3.0
PATIENTS, SAMPLE_RATE, STEPS = 200, 0.1, 1000  # of the batches whose sizes are looked at
ROUNDING = 1e-5  # float32
FRESH_S = 300.0
HOSTILE = (3e38, -3e38, 1e30, np.inf, -np.inf, np.nan)


def run(device: torch.device = CPU, values: int = DRAWS, steps: int = STEPS) -> Checks:
    """Yield each check as it is done.

    Args:
        values: draws of each engine's noise. steps: whose batches are looked at.
    """
    yield from noise_of_batches(device, values)
    yield from noise_of_full_batch(device, values)
    yield from contributions(device)
    yield from batches(device, steps)
    yield from repetition(device, min(values, PAIRED))
    yield from counts()
    yield ledger()


def noise_of_batches(device: torch.device, values: int) -> Checks:
    """The engine for Poisson batches, everybody in its one batch."""
    features, labels = _few_rows(values)
    seen = released(
        nn.Linear(values, 1, bias=False),
        features,
        labels,
        clip_norm=CLIP,
        noise_multiplier=SIGMA,
        device=device,
    )
    yield from _noise("poisson", seen.sums[0] - _clipped_sum(features, labels))


def noise_of_full_batch(device: torch.device, values: int) -> Checks:
    """The engine for full batches."""
    features, labels = _few_rows(values)
    total = _full_batch(nn.Linear(values, 1, bias=False), features, labels, SIGMA, device)
    yield from _noise("full-batch", total - _clipped_sum(features, labels))


def _noise(engine: str, residual: Wide) -> Checks:
    """Noisy sum minus sum of clipped gradients: normal, with the deviation that is accounted."""
    std, n = SIGMA * CLIP, len(residual)
    scale = float(np.sqrt(np.mean(residual**2))) / std
    said = f"noise of {engine}: {scale:.4f} of the deviation that is accounted"
    yield statistical(f"{engine}-scale", empirical.scale_off(residual, std), said)
    mean = empirical.mean_off(residual, std)
    yield statistical(f"{engine}-mean", mean, f"noise of {engine}: its mean over {n} draws")
    tails = empirical.tail_off(residual, std)
    yield statistical(f"{engine}-tails", tails, f"noise of {engine}: draws beyond 4 deviations")


def contributions(device: torch.device) -> Checks:
    """What one patient adds at most, whatever is written in its row or in the model."""
    shown = {"poisson": 0.0, "full-batch": 0.0}
    options = ModelOptions(name="mlp", hidden=(6,))
    for factor in (1.0, 1e20, 1e36):
        module = build_seeded(options, table_layout(3), 1, seed=7)
        start = arrays.flatten(module) * np.float32(factor)
        for engine in shown:
            shown[engine] = max(shown[engine], _largest(engine, module, start, device))
    for engine, most in shown.items():
        said = f"{engine}: one patient adds {most / CLIP:.6f} of the clip norm at most"
        numbers = {f"{engine}-contribution": most / CLIP}
        yield Check(f"{engine}-clip", most <= CLIP * (1 + ROUNDING), said, numbers)


def _largest(engine: str, module: nn.Module, start: Vector, device: torch.device) -> float:
    """The most that leaving one of the hostile rows out changes the sum by; infinite for NaN."""
    features, labels = _hostile_rows()
    sums = []
    for out in (None, *range(len(features))):
        rows = [row for row in range(len(features)) if row != out]
        chosen = (features[rows], labels[rows])
        if engine == "full-batch":
            sums.append(_full_batch(module, *chosen, 0.0, device, start))
        else:
            seen = released(module, *chosen, clip_norm=CLIP, start=start, device=device)
            sums.append(seen.sums[0].astype(np.float64))
    moves = np.linalg.norm(np.array(sums[1:]) - sums[0], axis=1)
    return float(np.where(np.isfinite(moves), moves, np.inf).max())


def _hostile_rows() -> tuple[Vector, Vector]:
    """Ordinary patients, and such as only somebody hostile would write into a table."""
    rows = [(1.0, -0.5, 2.0, 1.0), (0.0, 0.0, 0.0, 0.0), (2.0, 2.0, -2.0, -1.0)]
    rows += [(value, 1.0, value, 0.0) for value in HOSTILE]
    rows += [(1.0, 1.0, 1.0, value) for value in HOSTILE]
    table = np.array(rows, np.float32)
    return table[:, :3], table[:, 3]


def batches(device: torch.device, steps: int) -> Checks:
    """Who is in each batch: every patient by a coin of its own at every step.

    Each patient has a coordinate that only it moves, so that what is released shows who was in.
    """
    features, labels = one_coordinate_each(np.arange(PATIENTS), PATIENTS)
    seen = released(
        nn.Linear(PATIENTS, 1, bias=False),
        features,
        labels,
        steps=steps,
        sample_rate=SAMPLE_RATE,
        device=device,
    )
    inside = np.abs(seen.sums) > 0.5
    sizes, times = inside.sum(axis=1), inside.sum(axis=0)
    expected = PATIENTS * SAMPLE_RATE
    off = empirical.binomial_mean_off(sizes, PATIENTS, SAMPLE_RATE)
    yield statistical("batch-mean", off, f"batches: {sizes.mean():.2f} patients, not {expected:g}")
    off = empirical.binomial_variance_off(sizes, PATIENTS, SAMPLE_RATE)
    spread = sizes.var() / (expected * (1 - SAMPLE_RATE))
    yield statistical("batch-variance", off, f"batches: {spread:.3f} of the variance of coins")
    off = empirical.binomial_variance_off(times, steps, SAMPLE_RATE)
    yield statistical("own-coins", off, "batches: how often each patient is in one")


def repetition(device: torch.device, values: int) -> Checks:
    """Noise of two steps, two rounds, two sites and two starts of the program has nothing in
    common: what can be drawn again can be subtracted.
    """

    def noise(steps: int = 1) -> Wide:
        module = nn.Linear(values, 1, bias=False)
        seen = released(module, *no_rows(values), steps=steps, noise_multiplier=1, device=device)
        return seen.sums.astype(np.float64)

    def rounds() -> Wide:
        return _full_batch(nn.Linear(values, 1, bias=False), *no_rows(values), SIGMA, device)

    first, second = noise(steps=2)
    yield _unlike("steps", first, second)
    yield _unlike("rounds", rounds(), rounds())
    yield _unlike("sites", noise()[0], noise()[0])
    yield _unlike("restarts", *_fresh(values))


def _unlike(name: str, one: Wide, other: Wide) -> Check:
    off = empirical.correlation_off(one, other)
    said = f"noise of two {name}: correlation {off / np.sqrt(len(one)):+.4f}"
    return statistical(f"{name}-correlation", off, said)


def _fresh(values: int) -> tuple[Wide, Wide]:
    """The first noise of two processes that have just been started, as a daemon is."""
    command = [sys.executable, "-m", "cohortium.client.selftest.fresh", str(values)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        said = [process.communicate(timeout=FRESH_S)[0] for process in started]
    except subprocess.TimeoutExpired:
        raise CohortiumError("self-test: a process of its own did not answer in time") from None
    finally:
        for process in started:
            process.kill()
            process.wait()
    if any(process.returncode for process in started) or {*map(len, said)} != {4 * values}:
        raise CohortiumError("self-test: a process of its own ended before it had answered")
    one, other = (np.frombuffer(text, np.float32).astype(np.float64) for text in said)
    return one, other


def counts() -> Checks:
    """The noise in counts of an evaluation, against the sums that define it."""
    variance = count_noise(epsilon=1.0, delta=1e-5, families=3).variance
    second, fourth = _moments(variance)
    drawn = draws(COUNTS, variance).astype(np.float64)
    std = float(np.sqrt(second))
    off = empirical.mean_off(drawn, std)
    yield statistical("counts-mean", off, f"noise of counts: its mean over {COUNTS} draws")
    share = float(drawn @ drawn) / COUNTS / second
    off = empirical.variance_off(drawn, second, fourth)
    yield statistical("counts-variance", off, f"noise of counts: {share:.4f} of its variance")


def _moments(variance: Fraction) -> tuple[float, float]:
    """Mean square and mean fourth power of the discrete Gaussian, summed up."""
    reach = int(12 * np.sqrt(float(variance))) + 12
    x = np.arange(-reach, reach + 1.0)
    weights = np.exp(-(x**2) / (2 * float(variance)))
    weights /= weights.sum()
    return float(weights @ x**2), float(weights @ x**4)


def ledger() -> Check:
    """A made-up site in a directory of its own trains some rounds for a made-up coordinator."""
    entered, taken = ledger_and_steps()
    said = f"ledger: {entered} steps entered, {taken} taken"
    numbers = {"ledger-steps": float(entered), "steps-taken": float(taken)}
    return Check("ledger-steps", entered == taken > 0, said, numbers)


def _full_batch(
    module: nn.Module,
    features: Vector,
    labels: Vector,
    noise_multiplier: float,
    device: torch.device,
    start: Vector | None = None,
) -> Wide:
    """The noisy sum that the engine for full batches releases, (d,)."""
    plan = full_batch.FullBatchPlan("regression", CLIP, noise_multiplier, NOMINAL)
    if start is None:
        start = np.zeros(sum(p.numel() for p in module.parameters()), np.float32)
    update = full_batch.train(module, start, features, labels, plan, NoiseSource(), device)
    return -NOMINAL * update.delta.astype(np.float64)


def _few_rows(values: int) -> tuple[Vector, Vector]:
    """Three rows of which the first and last are clipped by a linear model that is all zeros."""
    features = np.zeros((3, values), np.float32)
    features[0, ::2], features[1, :3], features[2, 1::3] = 1.0, 0.01, -2.0
    return features, np.array([1.0, 0.5, -3.0], np.float32)


def _clipped_sum(features: Vector, labels: Vector) -> Wide:
    """The same by hand: the gradient of (w x - y)^2 at w = 0 is -2 y x."""
    total = np.zeros(features.shape[1])
    for x, y in zip(features.astype(np.float64), labels.tolist(), strict=True):
        row = -2 * y * x
        total += row * min(1.0, CLIP / float(np.linalg.norm(row)))
    return total
