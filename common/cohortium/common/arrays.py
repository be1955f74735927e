"""A model's parameters as one flat float32 vector, the only form in which they travel.

Those that travel each round come first, in the order of `module.parameters()`, then those that do
not (`let_stay`): what goes over the wire is the vector's beginning.
"""

from collections.abc import Collection

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cohortium.common.errors import ProtocolError

STAYING = "parameters_that_stay"


def let_stay(module: nn.Module, names: Collection[str]) -> None:
    """Say which parameters do not travel; they come last in the vector."""
    vars(module)[STAYING] = frozenset(names)


def named(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Every parameter with its name, in the order of the vector."""
    staying = vars(module).get(STAYING, frozenset())
    return sorted(module.named_parameters(), key=lambda one: one[0] in staying)


def travelling(module: nn.Module) -> int:
    """How many values travel: they are the vector's first."""
    staying = vars(module).get(STAYING, frozenset())
    return sum(p.numel() for name, p in module.named_parameters() if name not in staying)


def flatten(module: nn.Module) -> NDArray[np.float32]:
    """Copy all parameters into shape (d,)."""
    parts = [parameter.detach().reshape(-1) for _, parameter in named(module)]
    return torch.cat(parts).to("cpu", torch.float32, copy=True).numpy()


def load_into(module: nn.Module, vector: NDArray[np.float32]) -> None:
    """Copy a vector of shape (d,) into the module's parameters, the inverse of `flatten`.

    Raises:
        ProtocolError: another length than the module's, not float32, or not all finite; the
            module is then unchanged.
    """
    parameters = [parameter for _, parameter in named(module)]
    _check(vector, sum(parameter.numel() for parameter in parameters))
    whole = torch.from_numpy(vector.copy())  # the vector may be a read-only view of a message
    start = 0
    with torch.no_grad():
        for parameter in parameters:
            end = start + parameter.numel()
            parameter.copy_(whole[start:end].view_as(parameter))
            start = end


def trained_of(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that are trained, in the order of the vector."""
    return [(name, parameter) for name, parameter in named(module) if parameter.requires_grad]


def trained(module: nn.Module) -> NDArray[np.bool_]:
    """bool (d,): which values of the vector are trained."""
    return np.concatenate([np.full(p.numel(), p.requires_grad) for _, p in named(module)])


def layout(module: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape of each parameter, in the order of the vector."""
    return [(name, tuple(parameter.shape)) for name, parameter in named(module)]


def _check(vector: NDArray[np.float32], expected: int) -> None:
    if vector.dtype != np.float32 or vector.shape != (expected,):
        raise ProtocolError(
            f"parameters: got {vector.dtype} of shape {vector.shape}, this study's model has "
            f"{expected} float32 values; the sender must use the study's own model"
        )
    if not np.isfinite(vector).all():
        raise ProtocolError(
            "parameters: a value is not finite; the sender's training diverged, lower its "
            "learning rate"
        )
