"""The loss of each example. Opacus scales by the batch itself, so nothing here takes a mean.

Opacus 1.6 broadcasts a loss of shape (B, 1) to (B, B), after which clipping bounds nothing:
`per_example` therefore gives one number for each example or raises.
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn import functional

from cohortium.common.errors import ProtocolError

Outcome = Literal["binary", "multiclass", "regression"]


def per_example(outcome: Outcome, logits: Tensor, labels: Tensor) -> Tensor:
    """Loss of shape (B,) from logits (B, outputs) and labels (B,).

    binary: cross-entropy of one logit, labels 0 or 1. multiclass: cross-entropy, labels are class
    indices. regression: squared error of one output.

    Raises:
        ProtocolError: the logits or labels have another shape than the outcome needs.
    """
    if outcome != "multiclass" and logits.shape[1:] != (1,):
        raise ProtocolError(
            f"loss: a {outcome} outcome needs a model with one output, this one gives logits of "
            f"shape {tuple(logits.shape)}; correct the study's model"
        )
    return one_dimensional(_LOSSES[outcome](logits, labels), len(logits))


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
    _same_length(logits, labels)
    return functional.binary_cross_entropy_with_logits(logits[:, 0], labels, reduction="none")


def _multiclass(logits: Tensor, labels: Tensor) -> Tensor:
    _same_length(logits, labels)
    return functional.cross_entropy(logits, labels.long(), reduction="none")


def _regression(logits: Tensor, labels: Tensor) -> Tensor:
    _same_length(logits, labels)
    return functional.mse_loss(logits[:, 0], labels, reduction="none")


def _same_length(logits: Tensor, labels: Tensor) -> None:
    one_dimensional(labels, len(logits))


_LOSSES: dict[Outcome, Callable[[Tensor, Tensor], Tensor]] = {
    "binary": _binary,
    "multiclass": _multiclass,
    "regression": _regression,
}
