"""Training a model of which each process holds a part only (FSDP2), for one that fits no device.

Parameters, gradients and the optimiser's state are split over the processes of a team; a layer's
parameters are put together while it computes. Without privacy only: gradients of single patients,
which would have to be clipped as a whole, are nowhere in one place.
"""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from cohortium.client.training.batch_order import Batch
from cohortium.client.training.plain import DTYPES, PlainPlan
from cohortium.client.training.team import Team
from cohortium.client.training.update import LocalUpdate
from cohortium.common import arrays
from cohortium.common.errors import RefusedError
from cohortium.common.loss import per_example, weighted


def train(
    module: nn.Module,
    start: NDArray[np.float32],
    features: NDArray[np.float32],
    labels: NDArray[np.float32],
    plan: PlainPlan,
    batches: Iterable[Batch],
    device: torch.device,
    team: Team,
) -> LocalUpdate:
    """As `plain.train`, in every process of the team; each returns the same update.

    Raises:
        RefusedError: the study wants what a model in parts cannot do.
        ProtocolError: `start` does not fit the module.
    """
    if plan.precision == "float16":
        raise refusal('training.precision = "float16"')
    arrays.load_into(module, start)
    split(module.train(), device, team)
    anchors = [parameter.detach().clone() for parameter in module.parameters()]
    data = torch.tensor(features, device=device), torch.tensor(labels, device=device)
    optimiser = plan.optimiser.of(module)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(plan.seed + team.rank)
        for batch in batches:
            optimiser.zero_grad()
            _add_up(module, *data, torch.from_numpy(batch).to(device), plan, team)
            _pull(module, anchors, plan.proximal)
            optimiser.step()
    return LocalUpdate(_whole(module) - start, None)


def refusal(what: str) -> RefusedError:
    """Why a study does not train in parts."""
    return RefusedError(
        "site.sharded",
        f"{what} does not go with a model that is split over processes (site.toml [training] "
        "sharded); the site operator sets sharded = false, or the coordinator changes the study",
    )


def split(module: nn.Module, device: torch.device, team: Team) -> None:
    """Leave to this process its part of the parameters, layer by layer."""
    mesh = init_device_mesh(device.type, (team.size,))
    for child in module.children():
        if any(True for _ in child.parameters()) and type(child).forward is not nn.Module.forward:
            fully_shard(child, mesh=mesh)
    fully_shard(module, mesh=mesh)


def _add_up(
    module: nn.Module, features: Tensor, labels: Tensor, batch: Tensor, plan: PlainPlan, team: Team
) -> None:
    """The gradients of a batch's mean loss; FSDP takes the mean over processes, so each times them.

    All processes make as many passes: each one puts parameters together.
    """
    dtype = DTYPES[plan.precision]
    size = max(1, -(-len(batch) // plan.accumulate))
    for part in torch.split(batch, size):
        own = team.share(part)
        with torch.autocast(features.device.type, dtype, enabled=dtype != torch.float32):
            logits = module(features[own])
        losses = per_example(plan.outcome, logits.float(), labels[own])
        losses = weighted(losses, labels[own], plan.class_weights)
        torch.autograd.backward(losses.sum() * (team.size / len(batch)))


def _pull(module: nn.Module, anchors: list[Tensor], strength: float) -> None:
    """Add the gradient of strength/2 |w - anchor|^2 (`plain.py`)."""
    if not strength:
        return
    for parameter, anchor in zip(module.parameters(), anchors, strict=True):
        if parameter.grad is not None:
            parameter.grad.add_(parameter.detach() - anchor, alpha=strength)


def _whole(module: nn.Module) -> NDArray[np.float32]:
    """All parameters, put together from every process."""
    parts = []
    for _, parameter in arrays.named(module):
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        parts.append(whole.detach().reshape(-1).cpu())
    flat: NDArray[np.float32] = torch.cat(parts).numpy()
    return flat
