"""What a model says of patients."""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from cohortium.common import arrays
from cohortium.common.loss import per_example, weighted
from cohortium.common.models.building import study_module
from cohortium.common.predict import predictions
from cohortium.common.study import Study

ROWS = 65_536  # at a time


def scores(
    study: Study, model: npt.NDArray[np.float32], features: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Predictions of a study's kind (`common/predict.py`) for features (n, f).

    Raises:
        ProtocolError: `model` does not fit the study, or gives numbers that are not finite.
    """
    return predictions(study, _logits(study, model, features))


def mean_loss(
    study: Study,
    model: npt.NDArray[np.float32],
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.float32],
) -> float:
    """What training lowers: the mean over patients (n, f) with labels as a model learns them."""
    logits = _logits(study, model, features)
    known = torch.from_numpy(labels)
    losses = weighted(
        per_example(study.task.kind, logits, known), known, study.training.class_weights
    )
    return float(losses.double().mean())


def loaded(study: Study, model: npt.NDArray[np.float32]) -> nn.Module:
    """The study's module with a model's parameters, in evaluation mode.

    Raises:
        ProtocolError: `model` does not fit the study.
    """
    module = study_module(study)
    arrays.load_into(module, model)
    return module.eval()


def _logits(
    study: Study, model: npt.NDArray[np.float32], features: npt.NDArray[np.float32]
) -> torch.Tensor:
    module = loaded(study, model)
    with torch.no_grad():
        return torch.cat([module(part) for part in torch.split(torch.from_numpy(features), ROWS)])
