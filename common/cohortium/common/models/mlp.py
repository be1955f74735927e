"""A multilayer perceptron."""

from collections.abc import Sequence

from torch import nn

from cohortium.common.layout import Layout
from cohortium.common.models.activations import ACTIVATIONS
from cohortium.common.models.options_base import Activation, TableModel


def mlp(options: TableModel, layout: Layout, outputs: int) -> nn.Module:
    """Logits (B, outputs) from features (B, inputs); linear, activation, dropout, and so on."""
    return perceptron(layout.inputs, options.hidden, outputs, options.activation, options.dropout)


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
