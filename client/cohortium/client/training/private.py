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

from cohortium.client.training.sgd import Sgd
from cohortium.client.training.update import LocalUpdate
from cohortium.common import arrays
from cohortium.common.errors import RefusedError
from cohortium.common.loss import Outcome, per_example
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.privacy.noise import NoiseSource, poisson_sample

PASS_VALUES = 2**23  # per-example gradient values at a time, 32 MiB


@dataclass(frozen=True)
class PrivatePlan:
    """How to train; every number is the study's, known to all.

    Attributes:
        sample_rate: probability of each patient to be in a step's batch.
        expected_batch_size: what noisy sums are divided by; public, not derived from the rows.
        clip_norm: L2 bound on one patient's gradient.
        noise_multiplier: standard deviation of the noise in units of `clip_norm`.
    """

    outcome: Outcome
    sgd: Sgd
    local_steps: int
    sample_rate: float
    expected_batch_size: float
    clip_norm: float
    noise_multiplier: float


class OwnNoise(DPOptimizer):  # type: ignore[misc]  # Opacus has no types
    """Opacus' optimiser with noise from a `NoiseSource` and proof against overflow."""

    def __init__(self, optimiser: torch.optim.SGD, plan: PrivatePlan, source: NoiseSource) -> None:
        super().__init__(
            optimiser,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.clip_norm,
            expected_batch_size=plan.expected_batch_size,
        )
        self._source = source

    def clip_and_accumulate(self) -> None:
        """Clip as Opacus does; what overflows counts as zero, or it would betray its patient."""
        for parameter in self.params:
            parameter.grad_sample = torch.nan_to_num(parameter.grad_sample, 0.0, 0.0, 0.0)
        super().clip_and_accumulate()

    def add_noise(self) -> None:
        """Noise of std noise_multiplier x clip norm on each parameter's clipped sum."""
        std = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            noise = torch.from_numpy(self._source.gaussian(tuple(parameter.shape), std))
            parameter.grad = parameter.summed_grad + noise.to(parameter.device)


def train(
    module: nn.Module,
    start: NDArray[np.float32],
    features: NDArray[np.float32],
    labels: NDArray[np.float32],
    plan: PrivatePlan,
    source: NoiseSource,
    device: torch.device,
) -> LocalUpdate:
    """Run `local_steps` steps; an empty batch is a step of noise alone, and counts.

    Args:
        features: (n, f), one row for each patient.
        labels: (n,).

    Raises:
        RefusedError: the module has a layer, such as batch norm, that mixes patients.
        ProtocolError: `start` does not fit the module.
    """
    refuse_unfit(module)
    arrays.load_into(module, start)
    wrapped = GradSampleModule(module.to(device), loss_reduction="sum")
    try:
        optimiser = OwnNoise(plan.sgd.of(module), plan, source)
        data = torch.tensor(features, device=device), torch.tensor(labels, device=device)
        for _ in range(plan.local_steps):
            batch = poisson_sample(len(features), plan.sample_rate, source)
            _step(wrapped, optimiser, *data, batch, plan.outcome)
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


def _step(
    module: Any,
    optimiser: OwnNoise,
    features: Tensor,
    labels: Tensor,
    batch: NDArray[np.int64],
    outcome: Outcome,
) -> None:
    """One clipped and noised step, over several passes where the batch is too large for one."""
    rows = max(1, PASS_VALUES // sum(p.numel() for p in module.parameters()))
    parts = torch.split(torch.from_numpy(batch).to(features.device), rows)
    for number, part in enumerate(parts, start=1):
        optimiser.signal_skip_step(number < len(parts))
        # torch warns where a hooked layer's input needs no gradient, so it gets one
        logits = module(features[part].requires_grad_())
        losses = per_example(outcome, logits, labels[part])
        torch.autograd.backward(losses.sum())
        optimiser.step()
        optimiser.zero_grad()


def _mechanism(plan: PrivatePlan) -> Mechanism:
    return Mechanism(
        sampler="poisson",
        sample_rate=plan.sample_rate,
        noise_multiplier=plan.noise_multiplier,
        steps=plan.local_steps,
    )
