"""The server's half of federated optimisation (Reddi et al. 2021, Algorithm 2), as a value."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohortium.common.errors import ProtocolError
from cohortium.common.study import Strategy

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ServerState:
    """What a checkpoint holds of the optimiser; all vectors have shape (d,).

    Attributes:
        model: float32, the current model.
        m: float32, first moment or momentum.
        v: float32, second moment.
        tail_sum: float64, sum of the models that the final one averages.
        tail_count: how many those are.
    """

    model: Floats
    m: Floats
    v: Floats
    tail_sum: NDArray[np.float64]
    tail_count: int

    @classmethod
    def start(cls, model: Floats) -> "ServerState":
        """Before round 1: no momentum, and v = 0 as in the results we reproduce."""
        zero = np.zeros_like(model)
        return cls(model, zero, zero, np.zeros(len(model)), 0)


def step(
    state: ServerState, mean_delta: Floats, strategy: Strategy, round: int, rounds: int
) -> ServerState:
    """The state after round `round` (from 1) of `rounds`.

    Args:
        mean_delta: float32 (d,), weighted mean of (site's model - model). `strategy.weight_decay`
            times the model is taken off it first.

    Raises:
        ProtocolError: the new model is not finite.
    """
    delta = mean_delta - np.float32(strategy.weight_decay) * state.model
    with np.errstate(over="ignore", invalid="ignore"):  # found and explained just below
        stepped = RULES[strategy.name](state, delta, strategy)
    if not np.isfinite(stepped.model).all():
        raise ProtocolError(f"round {round}: training diverged; lower strategy.learning_rate")
    if round <= rounds - tail_length(strategy, rounds):
        return stepped
    return replace(
        stepped, tail_sum=state.tail_sum + stepped.model, tail_count=state.tail_count + 1
    )


def tail_length(strategy: Strategy, rounds: int) -> int:
    """How many of the last models the final one averages; 0 takes the last as it is."""
    return round(rounds * strategy.average_last)


def final_model(state: ServerState) -> Floats:
    """The mean of the models of the last `average_last` of the rounds, or else the last one."""
    if not state.tail_count:
        return state.model
    return (state.tail_sum / state.tail_count).astype(np.float32)


def to_bytes(state: ServerState) -> bytes:
    """The state as an uncompressed .npz file."""
    file = io.BytesIO()
    np.savez(
        file,
        model=state.model,
        m=state.m,
        v=state.v,
        tail_sum=state.tail_sum,
        tail_count=np.int64(state.tail_count),
    )
    return file.getvalue()


def from_bytes(data: bytes) -> ServerState:
    """Read what `to_bytes` wrote; never unpickles.

    Raises:
        ProtocolError: it is something else.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            state = ServerState(
                model=_vector(arrays["model"], np.float32),
                m=_vector(arrays["m"], np.float32),
                v=_vector(arrays["v"], np.float32),
                tail_sum=_vector(arrays["tail_sum"], np.float64),
                tail_count=int(arrays["tail_count"]),
            )
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile):
        raise ProtocolError("a checkpoint is damaged: resume from an earlier one") from None
    if len({len(vector) for vector in (state.model, state.m, state.v, state.tail_sum)}) != 1:
        raise ProtocolError("a checkpoint's vectors differ in length: resume from an earlier one")
    return state


def _vector(array: NDArray[Any], dtype: type[np.floating[Any]]) -> NDArray[Any]:
    if array.dtype != dtype or array.ndim != 1:
        raise ValueError
    return array


def _average(state: ServerState, delta: Floats, strategy: Strategy) -> ServerState:
    """w += lr D (McMahan et al. 2017, Algorithm 1, at lr 1)."""
    return replace(state, model=state.model + np.float32(strategy.learning_rate) * delta)


def _momentum(state: ServerState, delta: Floats, strategy: Strategy) -> ServerState:
    """m = momentum m + D; w += lr m (Hsu, Qi & Brown 2019)."""
    m = np.float32(strategy.momentum) * state.m + delta
    return replace(state, model=state.model + np.float32(strategy.learning_rate) * m, m=m)


def _adam(state: ServerState, delta: Floats, strategy: Strategy) -> ServerState:
    beta2 = strategy.beta2
    v = np.float32(beta2) * state.v + np.float32(1 - beta2) * delta**2
    return _adaptive(state, delta, v, strategy)


def _yogi(state: ServerState, delta: Floats, strategy: Strategy) -> ServerState:
    square = delta**2
    v = state.v - np.float32(1 - strategy.beta2) * square * np.sign(state.v - square)
    return _adaptive(state, delta, v, strategy)


def _adagrad(state: ServerState, delta: Floats, strategy: Strategy) -> ServerState:
    return _adaptive(state, delta, state.v + delta**2, strategy)


def _adaptive(state: ServerState, delta: Floats, v: Floats, strategy: Strategy) -> ServerState:
    """m = beta1 m + (1 - beta1) D; w += lr m / (sqrt(v) + tau)."""
    beta1 = strategy.beta1
    m = np.float32(beta1) * state.m + np.float32(1 - beta1) * delta
    scale: Floats = np.sqrt(v) + np.float32(strategy.tau)
    move = np.float32(strategy.learning_rate) * m / scale
    return replace(state, model=state.model + move, m=m, v=v)


RULES: dict[str, Callable[[ServerState, Floats, Strategy], ServerState]] = {
    "fedavg": _average,
    "fedprox": _average,  # the proximal term acts at the sites
    "fedavgm": _momentum,
    "fedadam": _adam,
    "fedyogi": _yogi,
    "fedadagrad": _adagrad,
}
