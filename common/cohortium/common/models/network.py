"""Graph convolution over a public network of measured quantities (Kipf & Welling 2017)."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from cohortium.common.layout import Block, Layout
from cohortium.common.models.activations import ACTIVATIONS
from cohortium.common.models.blocks import values
from cohortium.common.models.mlp import perceptron
from cohortium.common.models.options_graph import NetworkModel


class InteractionNetwork(nn.Module):
    """Logits (B, outputs) from features (B, inputs): every quantity hears its neighbours.

    names: of the block's values, in order; edges name two of them each.
    """

    _edges: Tensor

    def __init__(
        self, block: Block, options: NetworkModel, names: tuple[str, ...], outputs: int
    ) -> None:
        super().__init__()
        self._block = block
        self.register_buffer("_edges", adjacency(names, options.edges), persistent=False)
        widths = (1, *(options.width for _ in range(options.layers)))
        self.layers = nn.ModuleList(
            nn.Linear(2 * before, after) for before, after in pairwise(widths)
        )
        self.activation = ACTIVATIONS[options.activation]()
        self.dropout = nn.Dropout(options.dropout)
        self.each = nn.Linear(options.width, 1)
        self.head = perceptron(
            len(names), options.hidden, outputs, options.activation, options.dropout
        )

    def forward(self, features: Tensor) -> Tensor:
        nodes = values(features, self._block)[..., None]
        for layer in self.layers:
            heard = self._edges @ nodes
            nodes = self.dropout(self.activation(layer(torch.cat([nodes, heard], dim=2))))
        found: Tensor = self.head(self.each(nodes)[:, :, 0])
        return found


def adjacency(names: tuple[str, ...], edges: tuple[tuple[str, str], ...]) -> Tensor:
    """(k, k): D^-1/2 A D^-1/2 of the undirected network, without loops."""
    place = {name: number for number, name in enumerate(names)}
    made = torch.zeros(len(names), len(names))
    for first, second in edges:
        made[place[first], place[second]] = made[place[second], place[first]] = 1.0
    scale = made.sum(dim=1).clamp(min=1.0).rsqrt()
    return scale[:, None] * made * scale


def network(options: NetworkModel, layout: Layout, outputs: int) -> nn.Module:
    """For the one block of numbers of a layout, whose names the block carries."""
    (block,) = (block for block in layout.blocks if block.kind == "numbers")
    return InteractionNetwork(block, options, block.names, outputs)
