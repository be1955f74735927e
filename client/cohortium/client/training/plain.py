"""Training without privacy, for studies and sites that both allow it."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cohortium.client.training.batch_order import Batch
from cohortium.client.training.sgd import Sgd
from cohortium.client.training.update import LocalUpdate
from cohortium.common import arrays
from cohortium.common.loss import Outcome, per_example


@dataclass(frozen=True)
class PlainPlan:
    """How to train: FedAvg's local SGD, or FedProx's where `proximal` is above zero.

    Attributes:
        proximal: mu of FedProx (Li et al. 2020, Equation 2): adds mu/2 |w - start|^2 to the loss.
        seed: of dropout; ordering the batches is `batch_order`'s.
    """

    outcome: Outcome
    sgd: Sgd
    proximal: float = 0.0
    seed: int = 0


def train(
    module: nn.Module,
    start: NDArray[np.float32],
    features: NDArray[np.float32],
    labels: NDArray[np.float32],
    plan: PlainPlan,
    batches: Iterable[Batch],
    device: torch.device,
    anchor: NDArray[np.float32] | None = None,
) -> LocalUpdate:
    """One SGD step for each batch of indices into features (n, f) and labels (n,).

    The caller's random state is left as it was; the same arguments give the same bits.

    Args:
        anchor: what the proximal term pulls towards, where that is not `start`.

    Raises:
        ProtocolError: `start` does not fit the module.
    """
    module.to(device).train()
    anchors = list[Tensor]()
    if plan.proximal:
        arrays.load_into(module, start if anchor is None else anchor)
        anchors = [parameter.detach().clone() for parameter in module.parameters()]
    arrays.load_into(module, start)
    data = torch.tensor(features, device=device), torch.tensor(labels, device=device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(plan.seed)
        _descend(module, *data, plan, batches, anchors)
    return LocalUpdate(arrays.flatten(module) - start, None)


def _descend(
    module: nn.Module,
    features: Tensor,
    labels: Tensor,
    plan: PlainPlan,
    batches: Iterable[Batch],
    anchors: list[Tensor],
) -> None:
    optimiser = plan.sgd.of(module)
    for batch in batches:
        index = torch.from_numpy(batch).to(features.device)
        loss = per_example(plan.outcome, module(features[index]), labels[index]).mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        if plan.proximal:
            _pull_towards(anchors, module, plan.proximal)
        optimiser.step()


def _pull_towards(anchors: list[Tensor], module: nn.Module, strength: float) -> None:
    """Add the gradient of strength/2 |w - anchor|^2."""
    for parameter, anchor in zip(module.parameters(), anchors, strict=True):
        if parameter.grad is not None:
            parameter.grad.add_(parameter.detach() - anchor, alpha=strength)
