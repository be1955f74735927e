"""A model's parameters as one flat float32 vector, the only form in which they travel."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cohortium.common.errors import ProtocolError


def flatten(module: nn.Module) -> NDArray[np.float32]:
    """Copy all parameters, in the order of `module.parameters()`, into shape (d,)."""
    parts = [parameter.detach().reshape(-1) for parameter in module.parameters()]
    return torch.cat(parts).to("cpu", torch.float32, copy=True).numpy()


def load_into(module: nn.Module, vector: NDArray[np.float32]) -> None:
    """Copy a vector of shape (d,) into the module's parameters, the inverse of `flatten`.

    Raises:
        ProtocolError: another length than the module's, not float32, or not all finite; the
            module is then unchanged.
    """
    expected = sum(parameter.numel() for parameter in module.parameters())
    _check(vector, expected)
    whole = torch.from_numpy(vector.copy())  # the vector may be a read-only view of a message
    start = 0
    with torch.no_grad():
        for parameter in module.parameters():
            end = start + parameter.numel()
            parameter.copy_(whole[start:end].view_as(parameter))
            start = end


def trained(module: nn.Module) -> NDArray[np.bool_]:
    """bool (d,): which values of the vector are trained, in the order of `flatten`."""
    parts = [np.full(p.numel(), p.requires_grad) for p in module.parameters()]
    return np.concatenate(parts)


def layout(module: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape of each parameter, in the order of `flatten`."""
    return [(name, tuple(parameter.shape)) for name, parameter in module.named_parameters()]


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
