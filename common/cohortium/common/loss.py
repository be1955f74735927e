"""The loss of each example. Opacus scales by the batch itself, so nothing here takes a mean.

Opacus 1.6 broadcasts a loss of shape (B, 1) to (B, B), after which clipping bounds nothing:
`per_example` therefore gives one number for each example or raises.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from cohortium.common.errors import ProtocolError

Outcome = Literal[
    "binary",
    "multiclass",
    "multilabel",
    "regression",
    "survival",
    "labelling",
    "contacts",
    "reconstruction",
    "generation",
]

LOSS_CAP = 2.0  # nats; where a site's loss is told with noise, a patient's counts no more


def per_example(outcome: Outcome, logits: Tensor, labels: Tensor) -> Tensor:
    """Loss of shape (B,) from logits (B, outputs) and labels as `preprocessing/labels.py` has them.

    binary: cross-entropy of one logit, labels 0 or 1. multiclass: cross-entropy, labels are class
    indices. multilabel: sum of the binary cross-entropies of all labels (B, outputs). regression:
    squared error of one output. survival: negative log-likelihood of hazards in discrete time
    (Gensheimer & Narasimhan 2019, PeerJ 7:e6257), one logit for each interval; labels (B, 2).
    labelling: cross-entropy, mean over the places that have a state; labels (B, length), -1 for
    none, logits (B, length * states). contacts: binary cross-entropy, mean over the pairs that
    count; labels (B, length^2), -1 for those that do not. reconstruction and generation: squared
    error, summed over the inputs (B, inputs), which are the labels, and what the model adds to it
    as one output more, such as a divergence.

    Raises:
        ProtocolError: the logits or labels have another shape than the outcome needs.
    """
    if outcome in ("binary", "regression") and logits.shape[1:] != (1,):
        raise ProtocolError(
            f"loss: a {outcome} outcome needs a model with one output, this one gives logits of "
            f"shape {tuple(logits.shape)}; correct the study's model"
        )
    return one_dimensional(_LOSSES[outcome](logits, labels), len(logits))


def weighted(losses: Tensor, labels: Tensor, class_weights: Sequence[float]) -> Tensor:
    """Each patient's loss (B,) times the weight of its class, labels (B,) as class indices.

    No class weights, no change. A mean over patients stays one: it is not divided by the weights.
    """
    if not class_weights:
        return losses
    weights = torch.tensor(class_weights, dtype=losses.dtype, device=losses.device)
    return losses * weights[labels.long()]


def one_dimensional(losses: Tensor, examples: int) -> Tensor:
    """Return the losses as they are, if and only if their shape is (examples,).

    Raises:
        ProtocolError: any other shape, (B, 1) above all.
    """
    if losses.shape != (examples,):
        raise ProtocolError(
            f"loss: shape {tuple(losses.shape)} where ({examples},) is needed, one number for "
            "each patient; clipping would bound nothing; give the labels as one dimension"
        )
    return losses


def _binary(logits: Tensor, labels: Tensor) -> Tensor:
    one_dimensional(labels, len(logits))
    return functional.binary_cross_entropy_with_logits(logits[:, 0], labels, reduction="none")


def _multiclass(logits: Tensor, labels: Tensor) -> Tensor:
    one_dimensional(labels, len(logits))
    return functional.cross_entropy(logits, labels.long(), reduction="none")


def _multilabel(logits: Tensor, labels: Tensor) -> Tensor:
    _shaped(labels, tuple(logits.shape))
    each = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return each.sum(dim=1)


def _regression(logits: Tensor, labels: Tensor) -> Tensor:
    one_dimensional(labels, len(logits))
    return functional.mse_loss(logits[:, 0], labels, reduction="none")


def _survival(logits: Tensor, labels: Tensor) -> Tensor:
    """-log h of the interval with the event, if any, and -log(1 - h) of those survived in full."""
    _shaped(labels, (len(logits), 2))
    survived, event = labels[:, :1], labels[:, 1:]
    interval = torch.arange(logits.shape[1], device=logits.device)
    alive = functional.softplus(logits) * (interval < survived)
    died = functional.softplus(-logits) * ((interval == survived) * event)
    return (alive + died).sum(dim=1)


def _shaped(labels: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(labels.shape) != shape:
        raise ProtocolError(
            f"loss: labels of shape {tuple(labels.shape)} where {shape} is needed; the site's "
            "labels and the study's model do not belong together"
        )


def _labelling(logits: Tensor, labels: Tensor) -> Tensor:
    places = labels.shape[1]
    if logits.shape[1] % places:
        _shaped(labels, (len(logits), logits.shape[1]))
    there = labels >= 0
    by_state = logits.view(len(logits), places, -1).transpose(1, 2)
    each = functional.cross_entropy(by_state, labels.clamp(min=0).long(), reduction="none")
    return (each * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)


def _contacts(logits: Tensor, labels: Tensor) -> Tensor:
    _shaped(labels, tuple(logits.shape))
    there = labels >= 0
    each = functional.binary_cross_entropy_with_logits(
        logits, labels.clamp(min=0), reduction="none"
    )
    return (each * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)


def _reconstruction(logits: Tensor, labels: Tensor) -> Tensor:
    inputs = labels.shape[1]
    if logits.shape[1] not in (inputs, inputs + 1):
        _shaped(labels, tuple(logits.shape))
    error = (logits[:, :inputs] - labels).square().sum(dim=1)
    return error + logits[:, inputs:].sum(dim=1)


_LOSSES: dict[Outcome, Callable[[Tensor, Tensor], Tensor]] = {
    "binary": _binary,
    "multiclass": _multiclass,
    "multilabel": _multilabel,
    "regression": _regression,
    "survival": _survival,
    "labelling": _labelling,
    "contacts": _contacts,
    "reconstruction": _reconstruction,
    "generation": _reconstruction,
}
