"""A multilayer perceptron, with learnt numbers for the codes of category columns if wanted."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cohortium.common.layout import Block, Layout
from cohortium.common.models.activations import ACTIVATIONS
from cohortium.common.models.options_base import Activation, TableModel


class EntityEmbedding(nn.Module):
    """Each category's dummies become `width` learnt numbers (Guo & Berkhahn 2016).

    A table of numbers for each code is a linear map of its dummies; the reference level's are 0.
    The other inputs stay as they are, in front.
    """

    def __init__(self, table: Block, inputs: int, width: int) -> None:
        super().__init__()
        self._spans = [(first, stop) for _, first, stop in table.groups]
        inside = {place for first, stop in self._spans for place in range(first, stop)}
        self._others = [place for place in range(inputs) if place not in inside]
        self.tables = nn.ModuleList(
            nn.Linear(stop - first, width, bias=False) for first, stop in self._spans
        )
        self.width = len(self._others) + width * len(self._spans)

    def forward(self, features: Tensor) -> Tensor:
        parts = [
            table(features[:, first:stop])
            for table, (first, stop) in zip(self.tables, self._spans, strict=True)
        ]
        return torch.cat([features[:, self._others], *parts], dim=1)


def mlp(options: TableModel, layout: Layout, outputs: int) -> nn.Module:
    """Logits (B, outputs) from features (B, inputs); linear, activation, dropout, and so on."""
    chosen = (options.hidden, outputs, options.activation, options.dropout)
    table = layout.blocks[0]
    if options.embedding is None or not table.groups:
        return perceptron(layout.inputs, *chosen)
    embedding = EntityEmbedding(table, layout.inputs, options.embedding)
    return nn.Sequential(embedding, perceptron(embedding.width, *chosen))


def perceptron(
    inputs: int, hidden: Sequence[int], outputs: int, activation: Activation, dropout: float = 0.0
) -> nn.Sequential:
    """Linear layers with an activation, and perhaps dropout, after all but the last."""
    layers: list[nn.Module] = []
    width = inputs
    for wide in hidden:
        layers += [nn.Linear(width, wide), ACTIVATIONS[activation]()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = wide
    return nn.Sequential(*layers, nn.Linear(width, outputs))
