"""Options in, a torch module out."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from cohortium.common import arrays
from cohortium.common.errors import ProtocolError
from cohortium.common.layout import Layout
from cohortium.common.models.adapters import adapt, of_adapter
from cohortium.common.models.adversarial import adversarial
from cohortium.common.models.autoencoder import autoencoder
from cohortium.common.models.cnn1d import cnn1d
from cohortium.common.models.fusion import fusion
from cohortium.common.models.graph import graph
from cohortium.common.models.image import cnn2d, resnet
from cohortium.common.models.initialising import initialise
from cohortium.common.models.linear import cox, linear
from cohortium.common.models.mlp import mlp
from cohortium.common.models.network import network
from cohortium.common.models.neural_ode import neural_ode
from cohortium.common.models.options import ModelDocument
from cohortium.common.models.recurrent import recurrent
from cohortium.common.models.sequence import Per
from cohortium.common.models.tensor_train import tensor_train
from cohortium.common.models.transformer import transformer
from cohortium.common.study import Study
from cohortium.common.transfer import Transfer, matches

Builder = Callable[..., nn.Module]  # each takes the document of its own family

BUILDERS: dict[str, Builder] = {
    "logistic": linear,
    "linear": linear,
    "cox": cox,
    "mlp": mlp,
    "cnn1d": cnn1d,
    "rnn": recurrent,
    "lstm": recurrent,
    "gru": recurrent,
    "transformer": transformer,
    "cnn2d": cnn2d,
    "resnet": resnet,
    "neural_ode": neural_ode,
    "gnn": graph,
    "network": network,
    "mps": tensor_train,
    "autoencoder": autoencoder,
    "vae": autoencoder,
    "gan": adversarial,
    "fusion": lambda options, layout, outputs: fusion(options, layout, outputs, build),
}

_GENERATOR = threading.Lock()  # torch's generator is one for all threads: two studies at once


def build(options: ModelDocument, layout: Layout, outputs: int, per: Per = "patient") -> nn.Module:
    """Build a module from features (B, layout.inputs) to logits (B, outputs).

    The parameters are drawn from torch's global generator.

    Args:
        per: what one answer is about; places and pairs are a sequence's.

    Raises:
        ProtocolError: this version has no such model.
    """
    builder = BUILDERS.get(options.name)
    if builder is None:
        raise ProtocolError(f'model.name: "{options.name}" is not built in this version')
    asked = {} if per == "patient" else {"per": per}
    return initialise(builder(options, layout, outputs, **asked), options.initialisation)


def build_seeded(
    options: ModelDocument, layout: Layout, outputs: int, seed: int, per: Per = "patient"
) -> nn.Module:
    """As `build` after `torch.manual_seed(seed)`; the caller's random state is left as it was."""
    with _seeded(seed):
        return build(options, layout, outputs, per)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with _GENERATOR, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def study_module(study: Study) -> nn.Module:
    """The module that a study trains, initialised by its seed: the same at every site.

    What `transfer` freezes needs no gradient; that and what is each site's own stays (`arrays.py`).
    """
    transfer = study.transfer
    with _seeded(study.training.seed):
        module = build(study.model, study.layout, study.outputs, study.task.per)
        if transfer.adapters is not None:
            module = adapt(module, transfer.adapters, transfer.initialise)
    frozen = {name for name, _ in module.named_parameters() if not _is_trained(name, transfer)}
    for name in frozen:
        module.get_parameter(name).requires_grad_(False)
    own = {name for name, _ in module.named_parameters() if matches(name, transfer.own)}
    arrays.let_stay(module, frozen | own)
    return module


def travelling(study: Study) -> int | None:
    """How many parameters travel, which are the vector's first; None for all."""
    if not study.transfer.holds:
        return None
    with torch.device("meta"):  # nothing of that size is made
        return arrays.travelling(study_module(study))


def released_module(study: Study) -> nn.Module:
    """The module whose parameters a released model holds: nothing adapted, nothing frozen."""
    seed = study.training.seed
    return build_seeded(study.model, study.layout, study.outputs, seed, study.task.per)


def _is_trained(name: str, transfer: Transfer) -> bool:
    if transfer.adapters is not None:
        return of_adapter(name) or matches(name, transfer.initialise)
    return not matches(name, transfer.freeze)
