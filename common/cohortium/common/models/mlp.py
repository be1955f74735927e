"""A multilayer perceptron."""

from collections.abc import Callable

from torch import nn

from cohortium.common.models.options import Activation, ModelOptions

ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def mlp(options: ModelOptions, inputs: int, outputs: int) -> nn.Module:
    """Logits (B, outputs) from features (B, inputs); linear, activation, dropout, and so on."""
    layers: list[nn.Module] = []
    width = inputs
    for hidden in options.hidden:
        layers += [nn.Linear(width, hidden), ACTIVATIONS[options.activation]()]
        if options.dropout:
            layers.append(nn.Dropout(options.dropout))
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, outputs))
