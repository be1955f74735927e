"""One noisy gradient over all rows: exact accounting, and the better bargain for small sites."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from cohortium.client.training import memory
from cohortium.client.training.team import ALONE, Team
from cohortium.client.training.update import LocalUpdate
from cohortium.common import arrays
from cohortium.common.loss import LOSS_CAP, Outcome, per_example, weighted
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.privacy.noise import NoiseSource

LOSS_SHARE = 0.5  # of the clip norm: as long as the largest loss makes a patient's contribution
CHUNK_VALUES = 2**22  # per-example gradient values at a time, 32 MiB in float64

PerExample = Callable[[dict[str, Tensor], Tensor, Tensor], tuple[dict[str, Tensor], Tensor]]


@dataclass(frozen=True)
class FullBatchPlan:
    """How to take the one step.

    Attributes:
        clip_norm: L2 bound on one patient's gradient, and so the sum's sensitivity.
        noise_multiplier: standard deviation of the noise in units of `clip_norm`.
        nominal_rows: public number that the noisy sum is divided by; never the site's own count.
        tell_loss: let the noisy sum tell the mean loss as well. Each patient's gradient gets one
            more coordinate, the loss capped and scaled, before it is clipped: one release, one
            noise, one price.
        class_weights: of a patient's loss, by its class; clipping follows.
    """

    outcome: Outcome
    clip_norm: float
    noise_multiplier: float
    nominal_rows: float
    tell_loss: bool = False
    class_weights: tuple[float, ...] = ()


def train(
    module: nn.Module,
    start: NDArray[np.float32],
    features: NDArray[np.float32],
    labels: NDArray[np.float32],
    plan: FullBatchPlan,
    source: NoiseSource,
    device: torch.device,
    team: Team = ALONE,
) -> LocalUpdate:
    """delta = -(sum of clipped gradients + noise) / nominal rows, at learning rate 1.

    Args:
        features: (n, f), one row for each patient.
        labels: (n,).
        team: the processes that train together; the first one's update is the site's.

    Raises:
        ProtocolError: `start` does not fit the module.
    """
    arrays.load_into(module, start)
    total = clipped_sum(
        module.to(device),
        team.share(torch.tensor(features, device=device)),
        team.share(torch.tensor(labels, device=device)),
        plan.outcome,
        plan.clip_norm,
        plan.tell_loss,
        plan.class_weights,
    )
    team.add_up([torch.from_numpy(total)])
    noise = source.gaussian(total.shape, plan.noise_multiplier * plan.clip_norm)
    mean = (total + noise) / plan.nominal_rows
    loss = None
    if plan.tell_loss:
        mean, loss = mean[:-1], float(mean[-1]) * LOSS_CAP / (LOSS_SHARE * plan.clip_norm)
    delta = np.zeros(len(start), np.float32)
    delta[arrays.trained(module)] = -mean  # what is frozen tells nothing, and gets no noise
    return LocalUpdate(
        delta,
        Mechanism(
            sampler="full-batch",
            sample_rate=1.0,
            noise_multiplier=plan.noise_multiplier,
            steps=1,
        ),
        loss,
    )


def clipped_sum(
    module: nn.Module,
    features: Tensor,
    labels: Tensor,
    outcome: Outcome,
    clip_norm: float,
    tell_loss: bool = False,
    class_weights: tuple[float, ...] = (),
) -> NDArray[np.float64]:
    """Sum over rows of each row's gradient, scaled down to norm `clip_norm` where above.

    (trained,), in the order of `arrays.trained_of`. With `tell_loss` one more: before the scaling
    a row's loss follows its gradient, capped at LOSS_CAP and scaled so that the cap is LOSS_SHARE
    of `clip_norm`.

    One row more or less moves it by at most `clip_norm`, whatever the parameters are: a gradient
    that overflows counts as zero instead of spoiling, and so betraying, the sum.
    """
    module.train()
    gradients = _per_example(module, outcome, class_weights)
    parameters = {name: p.detach() for name, p in arrays.trained_of(module)}
    size = sum(p.numel() for p in parameters.values())
    total = torch.zeros(size + tell_loss, dtype=torch.float64)
    physical = memory.fitting(module, features, of_each=True, device=features.device)
    physical.rows = min(physical.rows, max(1, CHUNK_VALUES // size))

    def sum_up(rows: Tensor) -> None:
        found, losses = gradients(parameters, features[rows], labels[rows])
        flat = torch.cat([found[name].flatten(1).cpu() for name in parameters], dim=1).double()
        flat.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        if tell_loss:
            flat = torch.cat([flat, _scaled(losses, clip_norm)], dim=1)
        total.add_(_clipped(flat, clip_norm))

    if len(features):
        physical.over(torch.arange(len(features), device=features.device), sum_up)
    return total.numpy()


def _scaled(losses: Tensor, clip_norm: float) -> Tensor:
    """(B, 1): what of a patient's contribution is the loss; one that overflows is the cap."""
    known = losses.cpu().double().nan_to_num(nan=LOSS_CAP, posinf=LOSS_CAP)
    return (known.clamp(0.0, LOSS_CAP) * LOSS_SHARE * clip_norm / LOSS_CAP)[:, None]


def _clipped(flat: Tensor, clip_norm: float) -> Tensor:
    factors = clip_norm / torch.linalg.vector_norm(flat, dim=1).clamp(min=clip_norm)
    return torch.einsum("i,ij->j", factors, flat)


def _per_example(
    module: nn.Module, outcome: Outcome, class_weights: tuple[float, ...]
) -> PerExample:
    frozen = {n: p.detach() for n, p in module.named_parameters() if not p.requires_grad}

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        logits = functional_call(module, {**frozen, **parameters}, (x[None],))
        return weighted(per_example(outcome, logits, y[None]), y[None], class_weights)[0]

    return vmap(grad_and_value(loss), in_dims=(None, 0, 0), randomness="different")
