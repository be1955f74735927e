"""Options in, a torch module out."""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cohortium.common.errors import ProtocolError
from cohortium.common.layout import Layout
from cohortium.common.models.initialising import initialise
from cohortium.common.models.linear import cox, linear
from cohortium.common.models.mlp import mlp
from cohortium.common.models.options import ModelDocument
from cohortium.common.study import Study

Builder = Callable[[Any, Layout, int], nn.Module]  # each takes the document of its own family

BUILDERS: dict[str, Builder] = {
    "logistic": linear,
    "linear": linear,
    "cox": cox,
    "mlp": mlp,
}

_GENERATOR = threading.Lock()  # torch's generator is one for all threads: two studies at once


def build(options: ModelDocument, layout: Layout, outputs: int) -> nn.Module:
    """Build a module from features (B, layout.inputs) to logits (B, outputs).

    The parameters are drawn from torch's global generator.

    Raises:
        ProtocolError: this version has no such model.
    """
    builder = BUILDERS.get(options.name)
    if builder is None:
        raise ProtocolError(f'model.name: "{options.name}" is not built in this version')
    return initialise(builder(options, layout, outputs), options.initialisation)


def build_seeded(options: ModelDocument, layout: Layout, outputs: int, seed: int) -> nn.Module:
    """As `build` after `torch.manual_seed(seed)`; the caller's random state is left as it was."""
    with _GENERATOR, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(options, layout, outputs)


def study_module(study: Study) -> nn.Module:
    """The module of a study, initialised by its seed: the same at every site."""
    return build_seeded(study.model, study.layout, study.outputs, study.training.seed)
