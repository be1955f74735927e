"""A site's part of a Newton step: sums of first and second derivatives of its patients' loss."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cohortium.client.training.cox import Events
from cohortium.client.training.update import LocalUpdate
from cohortium.common.newton import join

Floats = NDArray[np.float64]
Derivatives = tuple[Floats, Floats]  # gradient (d,) and information (d, d) of the loss


def train(
    model: str,
    start: NDArray[np.float32],
    features: NDArray[np.float32],
    labels: NDArray[np.float32],
    weight: float,
) -> LocalUpdate:
    """The sums over `weight`, by which the coordinator multiplies them again.

    Args:
        model: `logistic`, `linear` or `cox`; `start` (d,) its weights, then the intercept, which
            cox has not.
        features: (n, f); labels: (n,), of cox (n, 2): time watched and event.
    """
    gradient, information = DERIVATIVES[model](
        start.astype(np.float64), features.astype(np.float64), labels.astype(np.float64)
    )
    return LocalUpdate(join(gradient / weight, information / weight), None)


def _logistic(model: Floats, features: Floats, labels: Floats) -> Derivatives:
    inputs = _with_intercept(features)
    said = 1 / (1 + np.exp(-np.clip(inputs @ model, -500, 500)))
    curvature = said * (1 - said)
    return inputs.T @ (said - labels), (curvature[:, None] * inputs).T @ inputs


def _linear(model: Floats, features: Floats, labels: Floats) -> Derivatives:
    """Of half the squared error."""
    inputs = _with_intercept(features)
    return inputs.T @ (inputs @ model - labels), inputs.T @ inputs


def _cox(model: Floats, features: Floats, labels: Floats) -> Derivatives:
    events = Events.of(features @ model, labels)
    return features.T @ (events.expected() - labels[:, 1]), events.information(features)


def _with_intercept(features: Floats) -> Floats:
    return np.column_stack([features, np.ones(len(features))])


DERIVATIVES: dict[str, Callable[[Floats, Floats, Floats], Derivatives]] = {
    "logistic": _logistic,
    "linear": _linear,
    "cox": _cox,
}
