"""Trials of a study's settings: each trains a federation of made-up sites, fold by fold."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from cohortium.common.document import Document
from cohortium.common.errors import CohortiumError, ProtocolError
from cohortium.common.messages import Vector
from cohortium.common.metrics.followed import LOWER, mean_of
from cohortium.common.metrics.summary import summarise
from cohortium.common.newton import update_length
from cohortium.common.schedule import of_the_coordinator
from cohortium.common.study import Study
from cohortium.common.trials import Bench, FoldSite, for_trials
from cohortium.common.tuning import Tuning, Value, changed, objective
from cohortium.server.aggregation.fold import Fold
from cohortium.server.aggregation.loss_weight import loss_weight
from cohortium.server.aggregation.optimizer import ServerState, final_model, step
from cohortium.server.coordinator import initial_model
from cohortium.server.search import search


class Trial(Document):
    """One combination of settings.

    score: mean over folds of the mean over sites; None where it came to nothing, for `reason`.
    folds: the score of each.
    """

    number: int
    values: Mapping[str, Value]
    score: float | None
    folds: tuple[float, ...] = ()
    reason: str = ""
    seconds: float


@dataclass(frozen=True)
class Tried:
    """All trials so far, and by what they are compared."""

    objective: str
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial | None:
        """The first with the best score; None where every trial came to nothing."""
        scored = [(t.score, t) for t in self.trials if t.score is not None]
        sign = 1 if self.objective in LOWER else -1
        return min(scored, key=lambda pair: sign * pair[0])[1] if scored else None


Told = Callable[[Tried], None]


def tune(
    study: Study, tuning: Tuning, bench: Bench, start: Vector | None, told: Told = lambda _: None
) -> Tried:
    """Try as many settings as the tuning asks for.

    Args:
        start: the parameters that the study begins with, float32 (parameters,), or None for those
            of its seed.
        told: is told after each trial.

    Raises:
        CohortiumError: every trial came to nothing; with the first one's reason.
    """
    by = objective(study, tuning)
    tried = Tried(by, ())
    asking = search(tuning, lower=by in LOWER)
    values: Mapping[str, Value] | None = next(asking, None)
    while values is not None:
        trial = _try(study, tuning, values, by, bench, start, len(tried.trials) + 1)
        tried = Tried(by, (*tried.trials, trial))
        told(tried)
        try:
            values = asking.send(trial.score)
        except StopIteration:
            values = None
    if tried.best is None:
        raise CohortiumError(f"no trial came to anything; the first: {tried.trials[0].reason}")
    return tried


def _try(
    study: Study,
    tuning: Tuning,
    values: Mapping[str, Value],
    by: str,
    bench: Bench,
    start: Vector | None,
    number: int,
) -> Trial:
    began = time.monotonic()
    folds, reason = list[float](), ""
    try:
        trial = for_trials(changed(study, values))
        for fold in range(tuning.folds):
            folds.append(_score(trial, by, bench, fold, start))
    except CohortiumError as error:  # of this combination: it diverges, or cannot be together
        reason = str(error)
    return Trial(
        number=number,
        values=values,
        score=None if reason else fmean(folds),
        folds=tuple(folds),
        reason=reason,
        seconds=round(time.monotonic() - began, 3),
    )


def _score(study: Study, by: str, bench: Bench, fold: int, start: Vector | None) -> float:
    """The objective on one fold's patients, of a model that has not seen them."""
    sites = bench.sites(study, fold, bench.statistics(study, fold))
    model = _trained(study, sites, start)
    found = summarise({name: site.evaluate(model) for name, site in sites.items()})
    score = mean_of(found, by)
    if score is None or not math.isfinite(score):
        raise ProtocolError(
            f"{by} is not known in fold {fold + 1}: the model's answers are no numbers, or the "
            "fold's patients at each site are too few or all of one outcome"
        )
    return score


def _trained(study: Study, sites: Mapping[str, FoldSite], start: Vector | None) -> Vector:
    """All rounds, as `server/round.py` makes one: everybody replies."""
    state = ServerState.start(initial_model(study) if start is None else start)
    private, strategy = study.privacy.mechanism != "none", study.strategy
    for number in range(1, study.training.rounds + 1):
        fold = Fold(update_length(study, len(state.model)))
        for site in sites.values():
            said = site.train(state.model, number)
            fold.add(said.delta, said.weight * loss_weight(strategy, said.loss, private))
        now = of_the_coordinator(strategy, study.training, number)
        state = step(state, fold.mean(), now, number, study.training.rounds)
    return final_model(state)


def seconds_left(tried: Sequence[Trial], trials: int) -> float:
    """What the trials that are left take, if they take as long as those made."""
    return (trials - len(tried)) * fmean(trial.seconds for trial in tried)
