"""A site's intercept and slope for the federated model's scores; the fit stays at the site."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from cohortium.client.results import Recalibration

Floats = NDArray[np.float64]

FARTHEST = 30.0  # logits are kept within, as float64 probabilities are
STEPS = 100
CLOSE = 1e-10


def apply(fit: Recalibration, scores: Floats) -> Floats:
    """Recalibrated probabilities (n,) from probabilities (n,)."""
    found: Floats = expit(fit.intercept + fit.slope * _logit(scores))
    return found


def recalibrate(scores: Floats, labels: NDArray[np.float32]) -> Recalibration:
    """Logistic regression of the outcome on logit(score), with a ridge that pulls towards (0, 1).

    Maximises log-likelihood - (intercept^2 + (slope - 1)^2) / 2, by Newton's method: always one
    finite answer, also where the scores part the classes or all have one outcome. With few
    patients the scores stay nearly as they are; with hundreds the ridge no longer matters.

    Args:
        scores: (n,) probabilities of training patients.
        labels: (n,) 1.0 or 0.0.
    """
    x = np.column_stack([np.ones(len(scores)), _logit(scores)])
    y, identity = labels.astype(np.float64), np.array([0.0, 1.0])
    beta = identity.copy()
    for _ in range(STEPS):
        p = expit(x @ beta)
        slope = x.T @ (y - p) - (beta - identity)
        curve = (x * (p * (1 - p))[:, None]).T @ x + np.eye(2)
        step = np.linalg.solve(curve, slope)
        beta = beta + _shorter(x, y, beta, step)
        if np.abs(step).max() < CLOSE:
            break
    return Recalibration(intercept=float(beta[0]), slope=float(beta[1]))


def _shorter(x: Floats, y: Floats, beta: Floats, step: Floats) -> Floats:
    """Newton's step, halved until it does not lose."""
    before = _objective(x, y, beta)
    for _ in range(STEPS):
        if _objective(x, y, beta + step) >= before:
            return step
        step = step / 2
    return np.zeros_like(step)


def _objective(x: Floats, y: Floats, beta: Floats) -> float:
    z = x @ beta
    fit = float((y * z - np.logaddexp(0.0, z)).sum())
    return fit - float(beta[0] ** 2 + (beta[1] - 1) ** 2) / 2


def _logit(scores: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        found: Floats = np.log(scores) - np.log1p(-scores)
    return np.clip(found, -FARTHEST, FARTHEST)
