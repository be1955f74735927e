"""Options in, a torch module out."""

import threading
from collections.abc import Callable

import torch
from torch import nn

from cohortium.common.models.linear import linear
from cohortium.common.models.mlp import mlp
from cohortium.common.models.options import ModelOptions

BUILDERS: dict[str, Callable[[ModelOptions, int, int], nn.Module]] = {
    "logistic": lambda _, inputs, outputs: linear(inputs, outputs),
    "linear": lambda _, inputs, outputs: linear(inputs, outputs),
    "mlp": mlp,
}

_GENERATOR = threading.Lock()  # torch's generator is one for all threads: two studies at once


def build(options: ModelOptions, inputs: int, outputs: int) -> nn.Module:
    """Build a module from (B, inputs) to logits (B, outputs); a binary outcome has one output.

    The parameters are drawn from torch's global generator, by PyTorch's default initialisation.
    """
    return BUILDERS[options.name](options, inputs, outputs)


def build_seeded(options: ModelOptions, inputs: int, outputs: int, seed: int) -> nn.Module:
    """As `build` after `torch.manual_seed(seed)`; the caller's random state is left as it was."""
    with _GENERATOR, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(options, inputs, outputs)
