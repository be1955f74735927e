"""From a model's outputs to what people understand: probabilities, values, survival."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cohortium.common.errors import ProtocolError
from cohortium.common.loss import Outcome
from cohortium.common.study import Study
from cohortium.common.task import (
    GenerationTask,
    LabellingTask,
    ReconstructionTask,
    RegressionTask,
    SurvivalTask,
)


def predictions(study: Study, logits: Tensor) -> NDArray[np.float64]:
    """What a study's model says of n patients, from its logits (n, outputs).

    binary: probability (n,). multiclass: probability of each class (n, classes), in the schema's
    order. multilabel: probability of each label (n, labels). regression: value (n,) in the units of
    the outcome, which may lie outside the schema's bounds. survival: probability to have no event
    until each horizon (n, horizons), which never rises; with likelihood `cox` the logarithm of the
    hazard ratio (n,). labelling: probability of each state at each place (n, length, states).
    contacts: probability that each two places touch (n, length^2). reconstruction and generation:
    the inputs as the model gives them back (n, inputs).

    Raises:
        ProtocolError: a number is not finite: the model that was sent is broken.
    """
    found: NDArray[np.float64] = answers(study, logits.double()).numpy()
    if not np.isfinite(found).all():
        raise ProtocolError("the model's predictions are not finite: training diverged")
    return found


def answers(study: Study, logits: Tensor) -> Tensor:
    """As `predictions`, in torch and unchecked: what a model's file ends with."""
    task = study.task
    match task:
        case RegressionTask():
            centre, spread = task.scale(study.data_model)
            return centre + spread * logits[:, 0]
        case SurvivalTask(likelihood="cox"):
            return logits[:, 0]
        case LabellingTask():
            states = len(task.states(study.data_model))
            return torch.softmax(logits.reshape(logits.shape[0], -1, states), dim=2)
        case ReconstructionTask() | GenerationTask():
            return logits[:, : study.layout.inputs]  # without a divergence, if it has one
        case _:
            return _FORMS[task.kind](logits)


def _survival(logits: Tensor) -> Tensor:
    """S(t_j) is the product of 1 - h_i up to j, taken as a sum of logarithms."""
    return torch.exp(-functional.softplus(logits).cumsum(dim=1))


_FORMS: dict[Outcome, Callable[[Tensor], Tensor]] = {
    "binary": lambda logits: torch.sigmoid(logits[:, 0]),
    "multiclass": lambda logits: torch.softmax(logits, dim=1),
    "multilabel": torch.sigmoid,
    "survival": _survival,
    "contacts": torch.sigmoid,
}
