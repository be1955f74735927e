"""The learning rate of a round: what a study's schedule makes of it, the same at every site.

Rounds count from 1. In `warmup_rounds` the rate rises in equal steps, so that the first round after
them has all of it; then it falls towards `final_share` of it, which the round after the last would
have: no round, whose privacy is paid for, learns nothing.
"""

import math
from collections.abc import Callable

from cohortium.common.training import Strategy, Training

STAGES = 3  # of `step`: equally many rounds each, and equal factors between them


def share(training: Training, round: int) -> float:
    """What part of the study's learning rate round `round` has; above 0 and at most 1."""
    warmup = training.warmup_rounds
    if round <= warmup:
        return round / (warmup + 1)
    done = (round - warmup - 1) / (training.rounds - warmup)
    return _FALLING[training.schedule](done, training.final_share)


def learning_rate(training: Training, round: int) -> float:
    """Of a site's steps in a round."""
    assert training.learning_rate is not None
    return training.learning_rate * share(training, round)


def of_the_coordinator(strategy: Strategy, training: Training, round: int) -> Strategy:
    """The strategy of a round. With full batches the coordinator takes the only step there is."""
    if training.batches != "full":
        return strategy
    rate = strategy.learning_rate * share(training, round)
    return strategy.model_copy(update={"learning_rate": rate})


def _constant(done: float, final: float) -> float:
    return 1.0


def _linear(done: float, final: float) -> float:
    return 1.0 + (final - 1.0) * done


def _cosine(done: float, final: float) -> float:
    """Loshchilov & Hutter 2017, Equation 5, without restarts."""
    return final + (1.0 - final) * (1.0 + math.cos(math.pi * done)) / 2.0


def _step(done: float, final: float) -> float:
    stage = int(done * STAGES + 1e-9)
    return float(final ** (stage / (STAGES - 1)))


_FALLING: dict[str, Callable[[float, float], float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "step": _step,
}
