"""One of two processes that train together: `python -m tests.client.two_ranks MEETING RANK OUT`.

Every engine once, on the same made-up patients; what came out goes into OUT, an .npz file.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed, nn

from cohortium.client.ranks import join
from cohortium.client.training import full_batch, plain, private
from cohortium.client.training.batch_order import own_stream
from cohortium.client.training.full_batch import FullBatchPlan
from cohortium.client.training.optimiser import Optimiser
from cohortium.client.training.plain import PlainPlan
from cohortium.client.training.private import PrivatePlan
from cohortium.client.training.team import Team
from cohortium.common.arrays import flatten
from cohortium.common.layout import table_layout
from cohortium.common.models.building import build_seeded
from cohortium.common.models.options import ModelOptions
from cohortium.common.models.options_generative import AdversarialModel
from cohortium.common.privacy.noise import NoiseSource

N, WIDE = 37, 200_000
RNG = np.random.default_rng(4)
X = RNG.normal(size=(N, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.float32)
ADAM = Optimiser(0.05, 0.0, 0.01, "adamw", l1=0.01)
PLAIN = PlainPlan("binary", ADAM, proximal=0.1, accumulate=3)
PRIVATE = PrivatePlan("binary", Optimiser(0.3, 0.9), 3, 1.0, N, 0.5, 0.0)
FULL = FullBatchPlan("binary", 0.5, 0.0, N, tell_loss=True)


def mlp() -> nn.Module:
    return build_seeded(ModelOptions(name="mlp", hidden=(16,)), table_layout(4), 1, seed=2)


def gan(team: Team) -> nn.Module:
    torch.manual_seed(team.rank)  # each draws codes and blur of its own
    options = AdversarialModel(
        name="gan", hidden=(8,), latent=2, discriminator=(8,), generator_every=1
    )
    return build_seeded(options, table_layout(4), 4, seed=2)


def batches() -> list[np.ndarray]:
    return own_stream(N, 15, 6, 1, 0, 0)


def every_engine(team: Team, device: torch.device) -> dict[str, Any]:
    """Updates of the three engines, of noise alone, and of coins that only one process tosses."""
    start = flatten(mlp())
    args = (start, X, Y)
    full = full_batch.train(mlp(), *args, FULL, NoiseSource(), device, team)
    coins = replace(PRIVATE, sample_rate=0.5, local_steps=8)
    wide = (np.zeros(WIDE, np.float32), np.zeros((0, WIDE), np.float32), Y[:0])
    game = replace(PRIVATE, outcome="generation")
    noise = replace(PRIVATE, optimiser=Optimiser(1.0), local_steps=1, noise_multiplier=2.0)
    return {
        "plain": plain.train(mlp(), *args, PLAIN, batches(), device, team=team).delta,
        "private": private.train(mlp(), *args, PRIVATE, NoiseSource(), device, team).delta,
        "full": full.delta,
        "loss": full.loss,
        "coins": private.train(mlp(), *args, coins, NoiseSource(), device, team).delta,
        "gan": private.train(
            gan(team), flatten(gan(team)), X, X, game, NoiseSource(), device, team
        ).delta,
        "noise": private.train(
            nn.Linear(WIDE, 1, bias=False), *wide, noise, NoiseSource(), device, team
        ).delta,
    }


def sharded(team: Team, device: torch.device) -> dict[str, Any]:
    """The same plain training, each process holding half a model."""
    from torch.distributed.tensor import DTensor

    from cohortium.client.training import sharded

    module = mlp()
    plan = replace(PLAIN, precision="float32")
    done = sharded.train(module, flatten(mlp()), X, Y, plan, batches(), device, team)
    held = sum(
        parameter.to_local().numel() if isinstance(parameter, DTensor) else parameter.numel()
        for parameter in module.parameters()
    )
    return {"sharded": done.delta, "held": held}


def main() -> None:
    meeting, rank, out, kind = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    device = torch.device(kind)
    join(device, meeting, rank, 2)
    team = Team(rank, 2)
    shards = sharded(team, device) if distributed.get_backend() == "nccl" or kind == "cpu" else {}
    np.savez(out, **every_engine(team, device), **shards)  # gloo shards no model on GPUs


if __name__ == "__main__":
    main()
