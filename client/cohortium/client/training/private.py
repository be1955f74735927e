"""DP-SGD: Poisson-sampled batches, per-patient clipping by Opacus, noise of our own.

Abadi et al. 2016, Algorithm 1. The batch that a step gets is drawn by our coins, so that what is
accounted is what was run; the noise is cryptographic (Opacus' own secure mode needs a package
that is no longer built). Everything that scales the step is public: the site's count of patients
is not divided by.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from cohortium.client.training import memory
from cohortium.client.training.generator import follower
from cohortium.client.training.memory import Physical
from cohortium.client.training.optimiser import Optimiser
from cohortium.client.training.team import ALONE, Team
from cohortium.client.training.update import LocalUpdate
from cohortium.common import arrays
from cohortium.common.errors import RefusedError
from cohortium.common.loss import Outcome, per_example, weighted
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.privacy.noise import NoiseSource, poisson_sample

PASS_VALUES = 2**23  # per-example gradient values at a time on a processor, 32 MiB


@dataclass(frozen=True)
class PrivatePlan:
    """How to train; every number is the study's, known to all.

    Attributes:
        sample_rate: probability of each patient to be in a step's batch.
        expected_batch_size: what noisy sums are divided by; public, not derived from the rows.
        clip_norm: L2 bound on one patient's gradient.
        noise_multiplier: standard deviation of the noise in units of `clip_norm`.
        class_weights: of a patient's loss, by its class; clipping follows.
    """

    outcome: Outcome
    optimiser: Optimiser
    local_steps: int
    sample_rate: float
    expected_batch_size: float
    clip_norm: float
    noise_multiplier: float
    class_weights: tuple[float, ...] = ()


class OwnNoise(DPOptimizer):  # type: ignore[misc]  # Opacus has no types
    """Opacus' optimiser with noise from a `NoiseSource` and proof against overflow."""

    def __init__(
        self,
        optimiser: torch.optim.Optimizer,
        plan: PrivatePlan,
        source: NoiseSource,
        team: Team = ALONE,
    ) -> None:
        super().__init__(
            optimiser,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.clip_norm,
            expected_batch_size=plan.expected_batch_size,
        )
        self._source = source
        self._team = team

    def clip_and_accumulate(self) -> None:
        """Clip as Opacus does; what overflows counts as zero, or it would betray its patient.

        All of a part of a batch is added to the sum, or nothing where it raises.
        """
        for parameter in self.params:
            parameter.grad_sample = torch.nan_to_num(parameter.grad_sample, 0.0, 0.0, 0.0)
        before = [parameter.summed_grad for parameter in self.params]
        try:
            for parameter in self.params:
                parameter.summed_grad = None
            super().clip_and_accumulate()
        except BaseException:
            for parameter, summed in zip(self.params, before, strict=True):
                parameter.summed_grad = summed
            raise
        for parameter, summed in zip(self.params, before, strict=True):
            if summed is not None:
                parameter.summed_grad += summed

    def add_noise(self) -> None:
        """Noise of std noise_multiplier x clip norm on each parameter's clipped sum.

        The sum is that of all processes; the first one's noise is every one's.
        """
        std = self.noise_multiplier * self.max_grad_norm
        self._team.add_up([parameter.summed_grad for parameter in self.params])
        for parameter in self.params:
            noise = torch.from_numpy(self._source.gaussian(tuple(parameter.shape), std))
            parameter.grad = parameter.summed_grad + noise.to(parameter.device)
        self._team.hear_first([parameter.grad for parameter in self.params])

    def release(self) -> None:
        """Noise on the sum, its mean over the public batch size, and a step with that."""
        self.add_noise()
        for parameter in self.params:
            parameter.grad /= self.expected_batch_size
        self.original_optimizer.step()
        self.zero_grad()

    def forget_part(self) -> None:
        """Drop the gradients of single patients, whose sum is kept."""
        for parameter in self.params:
            parameter.grad_sample = parameter.grad = None


def train(
    module: nn.Module,
    start: NDArray[np.float32],
    features: NDArray[np.float32],
    labels: NDArray[np.float32],
    plan: PrivatePlan,
    source: NoiseSource,
    device: torch.device,
    team: Team = ALONE,
) -> LocalUpdate:
    """Run `local_steps` steps; an empty batch is a step of noise alone, and counts.

    Args:
        features: (n, f), one row for each patient.
        labels: (n,).
        team: the processes that train together; the first one's update is the site's.

    Raises:
        RefusedError: the module has a layer, such as batch norm, that mixes patients.
        ProtocolError: `start` does not fit the module.
    """
    refuse_unfit(module)
    arrays.load_into(module, start)
    module.to(device)
    data = torch.tensor(features, device=device), torch.tensor(labels, device=device)
    physical = _physical(module, data[0], device)
    follow = follower(module, plan.optimiser, team)
    wrapped = GradSampleModule(module, loss_reduction="sum")
    try:
        optimiser = OwnNoise(plan.optimiser.of(module), plan, source, team)
        for _ in range(plan.local_steps):
            drawn = poisson_sample(len(features), plan.sample_rate, source)
            batch = team.share(team.batch_of_first(drawn, device))
            _step(wrapped, optimiser, *data, batch, plan, physical)
            follow()
    finally:
        wrapped.to_standard_module()
    return LocalUpdate(arrays.flatten(module) - start, _mechanism(plan))


def refuse_unfit(module: nn.Module) -> None:
    """Put the module into training mode and check that gradients of single patients exist.

    Raises:
        RefusedError: a layer mixes patients, such as batch norm, or Opacus cannot handle it.
    """
    errors = ModuleValidator.validate(module.train(), strict=False)
    if errors:
        reason = " ".join(str(errors[0]).split())
        raise RefusedError(
            "privacy.model",
            f"a layer of the study's model cannot be trained privately ({reason}); who wrote the "
            "study must replace it, batch norm by group norm for instance",
        )


def _physical(module: nn.Module, features: Tensor, device: torch.device) -> Physical:
    physical = memory.fitting(module, features, of_each=True, device=device)
    if device.type == "cpu":
        values = sum(p.numel() for p in module.parameters() if p.requires_grad)
        physical.rows = min(physical.rows, max(1, PASS_VALUES // values))
    return physical


def _step(
    module: Any,
    optimiser: OwnNoise,
    features: Tensor,
    labels: Tensor,
    batch: Tensor,
    plan: PrivatePlan,
    physical: Physical,
) -> None:
    """One clipped and noised step, over several passes where the batch is too large for one."""

    def sum_up(part: Tensor) -> None:
        optimiser.forget_part()
        _forget_passes(module)
        # torch warns where a hooked layer's input needs no gradient, so it gets one
        logits = module(features[part].requires_grad_())
        losses = per_example(plan.outcome, logits, labels[part])
        losses = weighted(losses, labels[part], plan.class_weights)
        torch.autograd.backward(losses.sum())
        optimiser.clip_and_accumulate()

    physical.over(batch, sum_up)
    optimiser.forget_part()
    optimiser.release()


def _forget_passes(module: nn.Module) -> None:
    """Let go of what Opacus' hooks hold of a pass that was broken off for want of memory."""
    for layer in module.modules():
        for name in ("activations", "max_batch_len"):
            vars(layer).pop(name, None)
    for parameter in module.parameters():
        vars(parameter).pop("_current_grad_sample", None)
        vars(parameter)["_forward_counter"] = 0  # of passes whose gradients have not come yet


def _mechanism(plan: PrivatePlan) -> Mechanism:
    return Mechanism(
        sampler="poisson",
        sample_rate=plan.sample_rate,
        noise_multiplier=plan.noise_multiplier,
        steps=plan.local_steps,
    )
