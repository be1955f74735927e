"""How parameters begin, where a study does not leave that to PyTorch."""

from collections.abc import Callable

from torch import Tensor, nn

from cohortium.common.models.options_base import Initialisation

WAYS: dict[Initialisation, Callable[[Tensor], object]] = {
    "xavier": nn.init.xavier_uniform_,
    "he": nn.init.kaiming_uniform_,
    "orthogonal": nn.init.orthogonal_,
    "zeros": nn.init.zeros_,
}


def initialise(module: nn.Module, how: Initialisation) -> nn.Module:
    """Draw every weight matrix anew, and set the biases beside them to zero.

    Norms keep their ones and zeros. `default` changes nothing.
    """
    if how == "default":
        return module
    for layer in module.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            if parameter.dim() >= 2:
                WAYS[how](parameter)
            elif "bias" in name:
                nn.init.zeros_(parameter)
    return module
