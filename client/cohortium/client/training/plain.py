"""Training without privacy, for studies and sites that both allow it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cohortium.client.training import memory
from cohortium.client.training.batch_order import Batch
from cohortium.client.training.generator import follower
from cohortium.client.training.memory import Physical
from cohortium.client.training.optimiser import Optimiser
from cohortium.client.training.team import ALONE, Team
from cohortium.client.training.update import LocalUpdate
from cohortium.common import arrays
from cohortium.common.errors import ProtocolError
from cohortium.common.loss import Outcome, per_example, weighted

Precision = Literal["float32", "bfloat16", "float16"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FIRST_SCALE = 2.0**12  # of a loss in float16, whose gradients would vanish otherwise


@dataclass(frozen=True)
class PlainPlan:
    """How to train: FedAvg's local SGD, or FedProx's where `proximal` is above zero.

    Attributes:
        proximal: mu of FedProx (Li et al. 2020, Equation 2): adds mu/2 |w - start|^2 to the loss.
        seed: of dropout; ordering the batches is `batch_order`'s.
        accumulate: in how many parts a batch is worked through, at least.
        precision: of the forward and backward pass; parameters and their steps are float32.
        class_weights: of a patient's loss, by its class.
    """

    outcome: Outcome
    optimiser: Optimiser
    proximal: float = 0.0
    seed: int = 0
    accumulate: int = 1
    precision: Precision = "float32"
    class_weights: tuple[float, ...] = ()


def train(
    module: nn.Module,
    start: NDArray[np.float32],
    features: NDArray[np.float32],
    labels: NDArray[np.float32],
    plan: PlainPlan,
    batches: Iterable[Batch],
    device: torch.device,
    anchor: NDArray[np.float32] | None = None,
    team: Team = ALONE,
) -> LocalUpdate:
    """One step of the optimiser for each batch of indices into features (n, f) and labels (n,).

    The caller's random state is left as it was; the same arguments give the same bits.

    Args:
        anchor: what the proximal term pulls towards, where that is not `start`.
        team: the processes that train together; every one returns the same update.

    Raises:
        ProtocolError: `start` does not fit the module, or float16 overflows at every scale.
    """
    module.to(device).train()
    anchors = list[Tensor]()
    if plan.proximal:
        arrays.load_into(module, start if anchor is None else anchor)
        anchors = [parameter.detach().clone() for parameter in module.parameters()]
    arrays.load_into(module, start)
    data = torch.tensor(features, device=device), torch.tensor(labels, device=device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(plan.seed + team.rank)
        _Descent(module, *data, plan, anchors, team).go(batches)
    return LocalUpdate(arrays.flatten(module) - start, None)


class _Descent:
    """A model on its way down."""

    def __init__(
        self,
        module: nn.Module,
        features: Tensor,
        labels: Tensor,
        plan: PlainPlan,
        anchors: list[Tensor],
        team: Team,
    ) -> None:
        self._module, self._plan, self._team = module, plan, team
        self._features, self._labels, self._anchors = features, labels, anchors
        self._trained = [p for p in module.parameters() if p.requires_grad]
        self._optimiser = plan.optimiser.of(module)
        self._follow = follower(module, plan.optimiser, team)
        self._device = features.device
        self._memory = memory.fitting(module, features, of_each=False, device=self._device)
        self._scaler = torch.amp.GradScaler(
            self._device.type, init_scale=FIRST_SCALE, enabled=plan.precision == "float16"
        )

    def go(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            index = torch.from_numpy(batch).to(self._device)
            while not self._step(index):
                if self._scaler.get_scale() < 1.0:
                    raise ProtocolError(
                        'training.precision = "float16": gradients overflow at every scale; the '
                        'study needs "bfloat16" or "float32", or scaled inputs'
                    )
            self._follow()

    def _step(self, batch: Tensor) -> bool:
        """One step; not taken where float16 overflowed, whose scale is then half as large."""
        self._optimiser.zero_grad()
        asked = max(1, -(-len(batch) // self._plan.accumulate))
        parts = Physical(min(self._memory.rows, asked))
        parts.over(self._team.share(batch), lambda part: self._add(part, len(batch)))
        if parts.rows < asked:
            self._memory.rows = parts.rows  # what did not fit once is not tried again
        self._team.add_up([p.grad for p in self._trained if p.grad is not None])
        self._scaler.unscale_(self._optimiser)
        if self._plan.proximal:
            _pull_towards(self._anchors, self._module, self._plan.proximal)
        scale = self._scaler.get_scale()
        self._scaler.step(self._optimiser)
        self._scaler.update()
        return self._scaler.get_scale() >= scale

    def _add(self, part: Tensor, patients: int) -> None:
        """Add a part's gradients, of the mean over so many patients, to those there are."""
        gradients = torch.autograd.grad(
            self._scaler.scale(self._losses(part).sum() / patients),
            self._trained,
            allow_unused=True,
        )
        for parameter, gradient in zip(self._trained, gradients, strict=True):
            if gradient is not None:
                before = parameter.grad
                parameter.grad = gradient if before is None else before.add_(gradient)

    def _losses(self, part: Tensor) -> Tensor:
        """The loss is float32 whatever the forward pass is."""
        dtype = DTYPES[self._plan.precision]
        with torch.autocast(self._device.type, dtype, enabled=dtype != torch.float32):
            logits = self._module(self._features[part])
        labels = self._labels[part]
        losses = per_example(self._plan.outcome, logits.float(), labels)
        return weighted(losses, labels, self._plan.class_weights)


def _pull_towards(anchors: list[Tensor], module: nn.Module, strength: float) -> None:
    """Add the gradient of strength/2 |w - anchor|^2."""
    for parameter, anchor in zip(module.parameters(), anchors, strict=True):
        if parameter.grad is not None:
            parameter.grad.add_(parameter.detach() - anchor, alpha=strength)
