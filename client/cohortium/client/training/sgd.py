"""The sites' optimiser."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent as torch.optim.SGD; momentum starts anew in every round."""

    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    def of(self, module: nn.Module) -> torch.optim.SGD:
        """The optimiser for a module's parameters."""
        return torch.optim.SGD(
            module.parameters(),
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
