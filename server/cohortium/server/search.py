"""Which settings to try next: every combination, drawn evenly, or where trials did well."""

import itertools
import math
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from cohortium.common.errors import UsageError
from cohortium.common.tuning import Range, Tuning, Value

if TYPE_CHECKING:
    from optuna.trial import Trial

Values = Mapping[str, Value]
# Yields settings; is sent their score, None where the trial came to nothing.
Search = Generator[Values, float | None, None]


def search(tuning: Tuning, *, lower: bool) -> Search:
    """As many settings as the tuning has trials, the same each time for the same scores.

    Args:
        lower: whether a lower score is better.

    Raises:
        UsageError: the search needs a package that is not installed.
    """
    match tuning.search:
        case "grid":
            return _grid(tuning)
        case "random":
            return _random(tuning)
        case "bayesian":
            return _bayesian(tuning, lower)


def _grid(tuning: Tuning) -> Search:
    lists = [one for one in tuning.space.values() if not isinstance(one, Range)]
    for values in itertools.product(*lists):
        yield dict(zip(tuning.space, values, strict=True))


def _random(tuning: Tuning) -> Search:
    """Bergstra & Bengio 2012, JMLR 13:281."""
    rng = np.random.default_rng(tuning.seed)
    for _ in range(tuning.count):
        yield {key: _drawn(choices, rng) for key, choices in tuning.space.items()}


def _drawn(choices: tuple[Value, ...] | Range, rng: np.random.Generator) -> Value:
    if not isinstance(choices, Range):
        return choices[int(rng.integers(len(choices)))]
    low, high = choices.low, choices.high
    if choices.whole and not choices.log:
        return int(rng.integers(int(low), int(high) + 1))
    if not choices.log:
        return float(rng.uniform(low, high))
    room = 0.5 if choices.whole else 0.0  # so that both ends are as likely as what is between
    found = math.exp(rng.uniform(math.log(low - room), math.log(high + room)))
    found = min(max(found, low), high)
    return round(found) if choices.whole else found


def _bayesian(tuning: Tuning, lower: bool) -> Search:
    """Tree-structured Parzen estimator (Bergstra et al. 2011, NeurIPS, Section 4), by Optuna."""
    try:
        import optuna
    except ModuleNotFoundError:
        raise UsageError(
            'tuning.search = "bayesian" needs Optuna: pip install "cohortium[tuning]", or use '
            '"random"'
        ) from None

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=tuning.seed)
    asked = optuna.create_study(sampler=sampler, direction="minimize" if lower else "maximize")
    for _ in range(tuning.count):
        trial = asked.ask()
        score = yield {key: _suggested(trial, key, one) for key, one in tuning.space.items()}
        if score is None:
            asked.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            asked.tell(trial, score)


def _suggested(trial: "Trial", key: str, choices: tuple[Value, ...] | Range) -> Value:
    if not isinstance(choices, Range):
        return choices[int(trial.suggest_categorical(key, tuple(range(len(choices)))))]
    if choices.whole:
        return int(trial.suggest_int(key, int(choices.low), int(choices.high), log=choices.log))
    return float(trial.suggest_float(key, choices.low, choices.high, log=choices.log))
