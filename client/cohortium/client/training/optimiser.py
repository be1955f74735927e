"""The sites' optimiser: what is done with a gradient, noisy or not."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from cohortium.common import arrays
from cohortium.common.schedule import learning_rate
from cohortium.common.training import Training


@dataclass(frozen=True)
class Optimiser:
    """SGD, Adam (Kingma & Ba 2015) or AdamW (Loshchilov & Hutter 2019), as torch.optim has them.

    Its state starts anew in every round. With privacy it is given the noisy mean of clipped
    gradients: what it makes of that costs nothing more.

    Attributes:
        momentum: of SGD.
        weight_decay: L2; added to the gradient, or by AdamW taken off the parameters beside it.
        beta1, beta2: of Adam and AdamW.
        l1: times the parameters' signs, which are no patient's, is added to the gradient last:
            behind clipping and noise.
    """

    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    name: Literal["sgd", "adam", "adamw"] = "sgd"
    beta1: float = 0.9
    beta2: float = 0.999
    l1: float = 0.0

    def of(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimiser for the parameters of a module that are trained."""
        optimiser = self.bare(module)
        if self.l1:
            optimiser.register_step_pre_hook(self._add_l1)
        return optimiser

    def bare(self, module: nn.Module) -> torch.optim.Optimizer:
        """Without the L1 penalty: its steps are given what was released."""
        trained = [parameter for _, parameter in arrays.trained_of(module)]
        if self.name == "sgd":
            return torch.optim.SGD(
                trained,
                lr=self.learning_rate,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
            )
        adam = torch.optim.Adam if self.name == "adam" else torch.optim.AdamW
        return adam(
            trained,
            lr=self.learning_rate,
            betas=(self.beta1, self.beta2),
            weight_decay=self.weight_decay,
        )

    def _add_l1(self, optimiser: torch.optim.Optimizer, *_: Any) -> None:
        """Where a parameter is 0 its subgradient is 0."""
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach().sign(), alpha=self.l1)


def of_round(training: Training, round_number: int) -> Optimiser:
    """The optimiser of a study's round, counted from 1."""
    return Optimiser(
        learning_rate=learning_rate(training, round_number),
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        name=training.optimiser,
        beta1=training.beta1,
        beta2=training.beta2,
        l1=training.l1,
    )
