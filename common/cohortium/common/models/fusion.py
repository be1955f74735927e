"""Several modalities of one patient; what is missing counts for nothing.

`early` puts all values side by side, each block behind the number that says whether it is there.
`late` takes the mean of the answers of the blocks that are there. `attention` weighs each block's
features by what they say (Ilse et al. 2018, Equation 8, over modalities).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cohortium.common.layout import Block, Layout
from cohortium.common.models.blocks import there
from cohortium.common.models.mlp import perceptron
from cohortium.common.models.options_base import ModelDocument, TableModel
from cohortium.common.models.options_fusion import FusionModel

Build = Callable[[ModelDocument, Layout, int], nn.Module]

NOWHERE = -1e9  # what a block that is not there weighs, before the softmax


class LateFusion(nn.Module):
    """The mean of the answers (B, outputs) of the blocks that a patient has."""

    def __init__(self, layout: Layout, branches: dict[str, nn.Module]) -> None:
        super().__init__()
        self._blocks = layout.blocks
        self.branches = nn.ModuleList(branches[block.name] for block in layout.blocks)

    def forward(self, features: Tensor) -> Tensor:
        here = torch.stack([there(features, block) for block in self._blocks], dim=1)
        answers = torch.stack([branch(features) for branch in self.branches], dim=1)
        total = (answers * here[..., None]).sum(dim=1)
        return total / here.sum(dim=1, keepdim=True).clamp(min=1.0)


class AttentionFusion(nn.Module):
    """One answer from the blocks' features, weighed by what they say."""

    def __init__(
        self, layout: Layout, branches: dict[str, nn.Module], options: FusionModel, outputs: int
    ) -> None:
        super().__init__()
        self._blocks = layout.blocks
        self.branches = nn.ModuleList(branches[block.name] for block in layout.blocks)
        self.weigh = nn.Sequential(
            nn.Linear(options.width, options.width), nn.Tanh(), nn.Linear(options.width, 1)
        )
        self.dropout = nn.Dropout(options.dropout)
        self.head = nn.Linear(options.width, outputs)

    def forward(self, features: Tensor) -> Tensor:
        said = torch.stack([torch.tanh(branch(features)) for branch in self.branches], dim=1)
        weights = self.weights(features, said)
        found: Tensor = self.head(self.dropout((weights[..., None] * said).sum(dim=1)))
        return found

    def weights(self, features: Tensor, said: Tensor) -> Tensor:
        """(B, blocks): how much each block counts; they add up to 1 where there is any."""
        here = torch.stack([there(features, block) for block in self._blocks], dim=1)
        scores = self.weigh(said)[:, :, 0] + NOWHERE * (1 - here)
        return torch.softmax(scores, dim=1) * here


class EarlyFusion(nn.Module):
    """One MLP over the values of all blocks side by side."""

    def __init__(self, inputs: int, options: FusionModel, outputs: int) -> None:
        super().__init__()
        self.layers = perceptron(
            inputs, options.hidden, outputs, options.activation, options.dropout
        )

    def forward(self, features: Tensor) -> Tensor:
        found: Tensor = self.layers(features)
        return found


class OneBlock(nn.Module):
    """An MLP that sees one block of the features alone."""

    def __init__(self, block: Block, options: FusionModel, outputs: int) -> None:
        super().__init__()
        self._first, self._stop = block.first, block.stop
        self.layers = perceptron(
            block.stop - block.first, options.hidden, outputs, options.activation, options.dropout
        )

    def forward(self, features: Tensor) -> Tensor:
        found: Tensor = self.layers(features[:, self._first : self._stop])
        return found


def fusion(options: FusionModel, layout: Layout, outputs: int, build: Build) -> nn.Module:
    """Logits (B, outputs) from features (B, inputs).

    Args:
        build: makes a branch's model, for one block of the same rows.
    """
    if options.how == "early":
        return EarlyFusion(layout.inputs, options, outputs)
    wide = options.width if options.how == "attention" else outputs
    branches = {block.name: _branch(options, layout, block, wide, build) for block in layout.blocks}
    if options.how == "late":
        return LateFusion(layout, branches)
    return AttentionFusion(layout, branches, options, outputs)


def _branch(
    options: FusionModel, layout: Layout, block: Block, outputs: int, build: Build
) -> nn.Module:
    chosen = options.branches.get(block.name)
    if chosen is None:
        return OneBlock(block, options, outputs)
    if isinstance(chosen, TableModel):
        as_mlp = options.model_copy(update={"hidden": chosen.hidden, "dropout": chosen.dropout})
        return OneBlock(block, as_mlp, outputs)
    return build(chosen, layout.only(block.name), outputs)
