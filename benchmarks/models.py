"""What one step of each model costs on a processor, plainly and with each patient's own gradient.

    python -m benchmarks.models [--steps 10] [--json]

Thirty-two made-up patients, one thread, seconds of processor time for a step, least of three
runs. Plain is `training/plain.py`; Poisson is `training/private.py`, clipping and noise and all;
full is `training/full_batch.py` over the same patients.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cohortium.client.training import full_batch, plain, private
from cohortium.client.training.full_batch import FullBatchPlan
from cohortium.client.training.optimiser import Optimiser
from cohortium.client.training.plain import PlainPlan
from cohortium.client.training.private import PrivatePlan
from cohortium.common.arrays import flatten
from cohortium.common.layout import ATOM, BOND, Block, Layout
from cohortium.common.models.building import build_seeded
from cohortium.common.models.options import FAMILIES
from cohortium.common.privacy.noise import NoiseSource

PATIENTS = 32
REPEATS = 3
CPU = torch.device("cpu")
SGD = Optimiser(0.01)
Floats = NDArray[np.float32]

TABLE = Layout((Block("table", "table", 0, (20,)),))
DNA = Layout((Block("dna", "sequence", 0, (60,), levels=6),))
SCAN = Layout((Block("scan", "image", 0, (1, 28, 28)),))
VISITS = Layout((Block("visits", "series", 0, (20, 1 + 2 * 4)),))
DRUG = Layout((Block("drug", "molecule", 0, (40 * ATOM + 44 * BOND,), sizes=(40, 44)),))
NAMES = tuple(f"g{number}" for number in range(200))
GENES = Layout((Block("gene", "numbers", 0, (200,), names=NAMES),))
OMICS = Layout((*GENES.blocks, Block("protein", "numbers", 201, (100,))))

CASES: dict[str, tuple[dict[str, Any], Layout]] = {
    "logistic": ({}, TABLE),
    "mlp": ({"hidden": (32, 32)}, TABLE),
    "cnn1d": ({"kernel": 9}, DNA),
    "rnn": ({}, DNA),
    "gru": ({}, DNA),
    "lstm": ({}, DNA),
    "transformer": ({}, DNA),
    "cnn2d": ({}, SCAN),
    "resnet": ({}, SCAN),
    "neural_ode": ({}, VISITS),
    "gnn": ({}, DRUG),
    "network": ({"edges": tuple(pairwise(NAMES))}, GENES),
    "fusion": ({"how": "attention"}, OMICS),
    "mps": ({}, GENES),
}


@dataclass(frozen=True)
class Row:
    model: str
    parameters: int
    plain_ms: float
    poisson_ms: float
    full_ms: float
    poisson_over_plain: float
    full_over_plain: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(name, options.steps) for name in CASES]
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    print(
        "| model | parameters | plain, ms | Poisson | full |\n| --- | ---: | ---: | ---: | ---: |"
    )
    for row in rows:
        ratios = f"{row.poisson_over_plain:.1f} x | {row.full_over_plain:.1f} x"
        print(f"| `{row.model}` | {row.parameters:,} | {row.plain_ms:.1f} | {ratios} |")


def measure(name: str, steps: int) -> Row:
    """Milliseconds of one step of a model, by each of the three."""
    words, layout = CASES[name]
    (family,) = (one for one in FAMILIES if name in str(one.model_fields["name"].annotation))
    module = build_seeded(family(name=name, **words), layout, 1, seed=0)
    start, features = flatten(module), _features(layout)
    labels = (np.arange(PATIENTS) % 2).astype(np.float32)
    job = (module, start, features, labels)
    batches = [np.arange(PATIENTS)] * steps
    noisy = PrivatePlan("binary", SGD, steps, 1.0, PATIENTS, 1.0, 1.0)
    whole = FullBatchPlan("binary", 1.0, 1.0, PATIENTS)
    source = NoiseSource()
    plainly = _ms(lambda: plain.train(*job, PlainPlan("binary", SGD), batches, CPU), steps)
    poisson = _ms(lambda: private.train(*job, noisy, source, CPU), steps)
    full = _ms(lambda: full_batch.train(*job, whole, source, CPU), 1)
    times = (round(plainly, 2), round(poisson, 2), round(full, 2))
    return Row(name, start.size, *times, round(poisson / plainly, 2), round(full / plainly, 2))


def _ms(work: Callable[[], object], steps: int) -> float:
    work()
    spent = []
    for _ in range(REPEATS):
        begin = time.process_time()
        work()
        spent.append(time.process_time() - begin)
    return 1000 * min(spent) / steps


def _features(layout: Layout) -> Floats:
    """Rows as sites make them, of nobody."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(PATIENTS, layout.inputs)).astype(np.float32)
    for block in layout.blocks:
        inside = rows[:, block.first : block.stop]
        if block.kind != "table":
            rows[:, block.start] = 1
        if block.kind == "sequence":
            inside[:] = rng.integers(1, block.levels, inside.shape)
        if block.kind == "series":
            series = inside.reshape(PATIENTS, *block.shape)
            series[:, :, 0] = np.sort(rng.uniform(size=series.shape[:2]), axis=1)
            series[:, :, 1 + series.shape[2] // 2 :] = 1
            inside[:] = series.reshape(inside.shape)
        if block.kind == "molecule":
            inside[:] = _chain(block)
    return rows


def _chain(block: Block) -> Floats:
    """Twenty carbons in a row."""
    atoms, bonds = (np.zeros((n, k)) for n, k in zip(block.sizes, (ATOM, BOND), strict=True))
    atoms[:20] = (1, 2, 3, 2, 0, 0)
    bonds[:19] = [(place, place + 1, 1) for place in range(19)]
    return np.concatenate([atoms.ravel(), bonds.ravel()]).astype(np.float32)


if __name__ == "__main__":
    main()
