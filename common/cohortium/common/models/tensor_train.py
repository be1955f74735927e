"""A matrix product state over the inputs, as physics writes states of many particles.

Each input x becomes the pair (cos, sin) of pi/2 times its place between -LIMIT and LIMIT
(Stoudenmire & Schwab 2016, Equation 3), and a row of matrices, one for each input and linear in its
pair, is multiplied from left to right. What is learnt is each matrix's distance from the identity,
so that the product of hundreds neither vanishes nor explodes.
"""

import math

import torch
from torch import Tensor, nn

from cohortium.common.layout import Block, Layout
from cohortium.common.models.blocks import values
from cohortium.common.models.options_tensor import TensorTrainModel
from cohortium.common.preprocessing.encode import LIMIT

START = 0.1  # how far from the identity matrices begin, over the number of inputs


class TensorTrain(nn.Module):
    """Logits (B, outputs) from features (B, inputs)."""

    def __init__(self, block: Block, options: TensorTrainModel, outputs: int) -> None:
        super().__init__()
        self._block, self._bond = block, options.bond
        self._inputs = math.prod(block.shape)
        # One linear map holds the matrices of all inputs; each is used by its own input alone.
        self.matrices = nn.ModuleList(
            nn.Linear(2, options.bond**2, bias=False) for _ in range(self._inputs)
        )
        with torch.no_grad():
            for matrix in self.matrices:
                assert isinstance(matrix, nn.Linear)
                matrix.weight.normal_(0.0, START / math.sqrt(self._inputs))
        self.dropout = nn.Dropout(options.dropout)
        self.head = nn.Linear(options.bond, outputs)

    def forward(self, features: Tensor) -> Tensor:
        x = values(features, self._block).flatten(1)
        angle = (x.clamp(-LIMIT, LIMIT) / LIMIT + 1) * (math.pi / 4)
        pairs = torch.stack([torch.cos(angle), torch.sin(angle)], dim=2)
        state = torch.ones_like(x[:, :1]).expand(-1, self._bond) / math.sqrt(self._bond)
        for place, matrix in enumerate(self.matrices):
            change = matrix(pairs[:, place]).unflatten(1, (self._bond, self._bond))
            state = state + torch.einsum("bi,bij->bj", state, change)
        found: Tensor = self.head(self.dropout(state))
        return found


def tensor_train(options: TensorTrainModel, layout: Layout, outputs: int) -> nn.Module:
    """For the one block of a layout."""
    (block,) = layout.blocks
    return TensorTrain(block, options, outputs)
