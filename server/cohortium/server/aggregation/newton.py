"""Newton's method over sites: their gradients and information matrices add up to one step."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cohortium.common.newton import split
from cohortium.common.training import Strategy

if TYPE_CHECKING:
    from cohortium.server.aggregation.optimizer import ServerState

Floats = NDArray[np.float64]

LEAST = 1e-6  # eigenvalue, of a diagonal of ones, that is more than rounding to float32
OVERSHOT = 0.9  # of the slope at the start of a step, that the other way at its end is too far


def step(state: "ServerState", told: NDArray[np.float32], strategy: Strategy) -> "ServerState":
    """The next model from the sites' sums at the present one, over any common number.

    Where the last step went too far (the loss rises at its end nearly as steeply as it fell at its
    start), half of it is taken back instead, and the next sums decide. `state.m` is the last step,
    `state.v` the gradient that it started from.
    """
    gradient, information = split(told, len(state.model))
    if _overshot(state, gradient):
        back = state.m / np.float32(2)
        return replace(state, model=state.model - back, m=back)
    move = -strategy.learning_rate * solve(information, gradient)
    return replace(
        state,
        model=(state.model + move).astype(np.float32),
        m=move.astype(np.float32),
        v=gradient.astype(np.float32),
    )


def solve(information: Floats, gradient: Floats) -> Floats:
    """information^-1 gradient (d,); nothing along what the patients say nothing about.

    Inputs that are constant at every site, or sums of others, leave such directions, and the
    model as it was along them. Inputs are scaled to a diagonal of ones first, so that their units
    do not matter.
    """
    scale = np.sqrt(np.maximum(np.diag(information), 0.0))
    known = scale > 0
    found = np.zeros(len(gradient))
    if known.any():
        units = scale[known]
        values, vectors = np.linalg.eigh(information[np.ix_(known, known)] / np.outer(units, units))
        kept = values > LEAST
        along = vectors[:, kept].T @ (gradient[known] / units) / values[kept]
        found[known] = vectors[:, kept] @ along / units
    return found


def _overshot(state: "ServerState", gradient: Floats) -> bool:
    if not len(state.m):
        return False
    last = state.m.astype(np.float64)
    fell, rises = float(state.v.astype(np.float64) @ last), float(gradient @ last)
    return rises > -OVERSHOT * fell > 0
