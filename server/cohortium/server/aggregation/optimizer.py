"""The server's half of federated optimisation (Reddi et al. 2021, Algorithm 2), as a value."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohortium.common.errors import ProtocolError
from cohortium.common.training import Strategy
from cohortium.server.aggregation import newton

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ServerState:
    """What a checkpoint holds of the optimiser; all vectors have shape (d,), or none if unused.

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
        unused = np.zeros(0, np.float32)
        return cls(model, unused, unused, np.zeros(0), 0)


def step(
    state: ServerState, mean_delta: Floats, strategy: Strategy, round: int, rounds: int
) -> ServerState:
    """The state after round `round` (from 1) of `rounds`.

    Args:
        mean_delta: float32 (d,), weighted mean of (site's model - model); for `newton` of what
            `common/newton.py` describes. `strategy.weight_decay`
            times the model is taken off it first. It is used up: a large model is in memory as
            seldom as possible.

    Raises:
        ProtocolError: the new model is not finite.
    """
    delta = mean_delta
    if strategy.weight_decay:
        delta = mean_delta - np.float32(strategy.weight_decay) * state.model
    with np.errstate(over="ignore", invalid="ignore"):  # found and explained just below
        stepped = RULES[strategy.name](state, delta, strategy)
    if not np.isfinite(stepped.model).all():
        raise ProtocolError(f"round {round}: training diverged; lower strategy.learning_rate")
    if round <= rounds - tail_length(strategy, rounds):
        return stepped
    tail = state.tail_sum if len(state.tail_sum) else np.zeros(len(stepped.model))
    tail = tail + stepped.model.astype(np.float64)
    return replace(stepped, tail_sum=tail, tail_count=state.tail_count + 1)


def tail_length(strategy: Strategy, rounds: int) -> int:
    """How many of the last models the final one averages; 0 takes the last as it is."""
    return round(rounds * strategy.average_last)


def final_model(state: ServerState) -> Floats:
    """The mean of the models of the last `average_last` of the rounds, or else the last one."""
    if not state.tail_count:
        return state.model
    return (state.tail_sum / state.tail_count).astype(np.float32)


def write(state: ServerState, file: io.RawIOBase | io.BytesIO) -> None:
    """Write the state as an uncompressed .npz file; `file` need not be seekable."""
    np.savez(
        file,
        model=state.model,
        m=state.m,
        v=state.v,
        tail_sum=state.tail_sum,
        tail_count=np.int64(state.tail_count),
    )


def read(file: io.BytesIO) -> ServerState:
    """Read what `write` wrote; never unpickles.

    Raises:
        ProtocolError: it is something else.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            state = ServerState(
                model=_vector(arrays["model"], np.float32),
                m=_vector(arrays["m"], np.float32),
                v=_vector(arrays["v"], np.float32),
                tail_sum=_vector(arrays["tail_sum"], np.float64),
                tail_count=int(arrays["tail_count"]),
            )
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile):
        raise ProtocolError("a checkpoint is damaged") from None
    unused = (0, len(state.model))
    if any(len(vector) not in unused for vector in (state.m, state.v, state.tail_sum)):
        raise ProtocolError("a checkpoint's vectors differ in length")
    return state


def _vector(array: NDArray[Any], dtype: type[np.floating[Any]]) -> NDArray[Any]:
    if array.dtype != dtype or array.ndim != 1:
        raise ValueError
    return array


def _or_zeros(vector: Floats, like: Floats) -> Floats:
    """What a rule has not used before is zero: it costs nothing where it is never used."""
    return vector if len(vector) else np.zeros_like(like)


def _average(state: ServerState, delta: Floats, strategy: Strategy) -> ServerState:
    """w += lr D (McMahan et al. 2017, Algorithm 1, at lr 1)."""
    np.multiply(delta, np.float32(strategy.learning_rate), out=delta)
    np.add(state.model, delta, out=delta)
    return replace(state, model=delta)


def _momentum(state: ServerState, delta: Floats, strategy: Strategy) -> ServerState:
    """m = momentum m + D; w += lr m (Hsu, Qi & Brown 2019)."""
    m = np.float32(strategy.momentum) * _or_zeros(state.m, delta) + delta
    return replace(state, model=state.model + np.float32(strategy.learning_rate) * m, m=m)


def _adam(state: ServerState, delta: Floats, strategy: Strategy) -> ServerState:
    beta2 = strategy.beta2
    v = np.float32(beta2) * _or_zeros(state.v, delta) + np.float32(1 - beta2) * delta**2
    return _adaptive(state, delta, v, strategy)


def _yogi(state: ServerState, delta: Floats, strategy: Strategy) -> ServerState:
    square, before = delta**2, _or_zeros(state.v, delta)
    v = before - np.float32(1 - strategy.beta2) * square * np.sign(before - square)
    return _adaptive(state, delta, v, strategy)


def _adagrad(state: ServerState, delta: Floats, strategy: Strategy) -> ServerState:
    return _adaptive(state, delta, _or_zeros(state.v, delta) + delta**2, strategy)


def _adaptive(state: ServerState, delta: Floats, v: Floats, strategy: Strategy) -> ServerState:
    """m = beta1 m + (1 - beta1) D; w += lr m / (sqrt(v) + tau)."""
    beta1 = strategy.beta1
    m = np.float32(beta1) * _or_zeros(state.m, delta) + np.float32(1 - beta1) * delta
    scale: Floats = np.sqrt(v) + np.float32(strategy.tau)
    move = np.float32(strategy.learning_rate) * m / scale
    return replace(state, model=state.model + move, m=m, v=v)


RULES: dict[str, Callable[[ServerState, Floats, Strategy], ServerState]] = {
    "fedavg": _average,
    "fedprox": _average,  # the proximal term acts at the sites
    "qfedavg": _average,  # losses act on the weights
    "fedavgm": _momentum,
    "fedadam": _adam,
    "fedyogi": _yogi,
    "fedadagrad": _adagrad,
    "newton": newton.step,
}
