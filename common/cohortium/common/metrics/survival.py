"""What a site counts of patients followed to an event, and what of it it may show.

Facets: `n`; `events` (those with an event, those without); and, from the last horizon on by halves
of the time before, `horizon <h>`: patients with the event, lost to watching, and free of it, cut at
every horizon so far. C is shown where at least `minimum_cell` have the event and as many have not;
what is measured at a horizon, where its facet is and the risk is not nearly certain. A Cox
model ranks patients and gives no risk by a time: only what was observed is shown there.
"""

from collections.abc import Mapping, Set
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cohortium.common.metrics.concordance import concordance
from cohortium.common.metrics.cube import Question, facets
from cohortium.common.metrics.kaplan_meier import UNKNOWN, brier, observed_risk
from cohortium.common.metrics.showing import (
    DECIDED,
    NO_PATIENTS,
    decimals,
    digits,
    few,
    first,
    hidden_reason,
    telling,
)
from cohortium.common.metrics.tallies import AtHorizon, SurvivalTally
from cohortium.common.study import Study
from cohortium.common.task import SurvivalTask

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]
Groups = Mapping[str, Mapping[str, SurvivalTally]]

UNWATCHED: Final = "nobody is watched that long"
RATIO: Final = "a hazard ratio alone gives no risk by a time"
HIDDEN = AtHorizon(
    brier=None,
    brier_variance=None,
    predicted=None,
    observed=None,
    observed_variance=None,
    reason="few patients in a cell at this horizon",
)


def questions(predicted: Floats, outcome: Floats, study: Study) -> tuple[Question, ...]:
    """One: micro cell 2 * interval between horizons + event, of outcomes (n, 2): time, event."""
    horizons = _horizons(study)
    times, events = _split(outcome)
    width = len(horizons) + 1
    cells: dict[str, list[list[int]]] = {
        "n": [list(range(2 * width))],
        "events": [list(range(1, 2 * width, 2)), list(range(0, 2 * width, 2))],
    }
    for count, place in enumerate(_order(len(horizons)), start=1):
        cells[_name(horizons[place])] = _cut(sorted(_order(len(horizons))[:count]), width)
    return (Question(_micro(times, events, horizons), 2 * width, facets(cells)),)


def _micro(times: Floats, events: Flags, horizons: tuple[float, ...]) -> Ints:
    """An event at a horizon is before it, an end of watching at a horizon after it."""
    before = np.searchsorted(horizons, times, side="left")
    after = np.searchsorted(horizons, times, side="right")
    return (2 * np.where(events, before, after) + events).astype(np.int64)


def _cut(places: list[int], width: int) -> list[list[int]]:
    """Events and losses between the chosen horizons, and everybody free at the last."""
    edges = [0, *(place + 1 for place in places)]
    between = [
        [2 * interval + event for interval in range(start, stop)]
        for start, stop in pairwise(edges)
        for event in (0, 1)
    ]
    return [*between, list(range(2 * edges[-1], 2 * width))]


def _order(count: int) -> list[int]:
    """The last, then always the middle of the widest gap left, the earliest of equal ones."""
    found = [count - 1]
    while len(found) < count:
        edges = [-1, *sorted(found)]
        gap, start = max((b - a, -a) for a, b in pairwise(edges))
        found.append(-start + gap // 2)
    return found


def tally(
    predicted: Floats, outcome: Floats, study: Study, hidden: Set[str], minimum_cell: int
) -> SurvivalTally:
    """Counts and scores of a group, without the hidden facets.

    Args:
        predicted: (n, horizons) probabilities of no event by each; of a Cox model log hazard
            ratios (n,).
        outcome: (n, 2): time watched, and whether the event ended it.
    """
    times, events = _split(outcome)
    n, count = len(times), int(events.sum())
    ratio = predicted.ndim == 1
    risk = predicted if ratio else 1 - predicted[:, -1]
    told = few(risk, minimum_cell) if ratio else telling(risk, minimum_cell)
    ranked = (
        not {"n", "events"} & hidden
        and min(count, n - count if minimum_cell else count) >= max(minimum_cell, 1)
        and not told
    )
    pairs, concordant, variance = _pairs(risk, times, events, minimum_cell)
    return SurvivalTally(
        n=None if "n" in hidden else n,
        events=None if "events" in hidden else count,
        pairs=pairs if ranked else None,
        concordant=concordant if ranked else None,
        c_variance=variance if ranked else None,
        horizons=tuple(
            HIDDEN
            if _name(horizon) in hidden
            else _observed(times, events, horizon, minimum_cell)
            if ratio
            else _at(predicted[:, place], times, events, horizon, minimum_cell)
            for place, horizon in enumerate(_horizons(study))
        ),
        reason=first(
            (
                (bool(hidden), hidden_reason(minimum_cell)),
                (not n, NO_PATIENTS),
                (not count, "no patient has the event"),
                (told, DECIDED),
                (not ranked, hidden_reason(minimum_cell)),
            )
        ),
    )


def agree(overall: SurvivalTally, groups: Groups) -> Groups:
    """Groups without the means at a horizon that one of them hides because they would be counts.

    Those of that group would follow from the total minus the others.
    """
    told = {
        place
        for levels in groups.values()
        for tally in levels.values()
        for place, there in enumerate(tally.horizons)
        if there.reason == DECIDED
    }

    def without(tally: SurvivalTally) -> SurvivalTally:
        horizons = tuple(
            _without_means(there) if place in told else there
            for place, there in enumerate(tally.horizons)
        )
        return tally.model_copy(update={"horizons": horizons})

    return {
        attribute: {level: without(tally) for level, tally in levels.items()}
        for attribute, levels in groups.items()
    }


def _without_means(there: AtHorizon) -> AtHorizon:
    nothing = dict.fromkeys(("brier", "brier_variance", "predicted"))
    return there.model_copy(update={**nothing, "reason": there.reason or DECIDED})


def _pairs(
    risk: Floats, times: Floats, events: Flags, minimum_cell: int
) -> tuple[float | None, float | None, float | None]:
    """Pairs to 3 digits, of them concordant so that C has 3 decimals, and C's variance."""
    found = concordance(risk, times, events)
    if not found.pairs:
        return 0.0, 0.0, None
    pairs = digits(found.pairs, True, minimum_cell)
    c = decimals(found.concordant / found.pairs, True, minimum_cell)
    assert pairs is not None
    assert c is not None
    concordant = pairs * c if minimum_cell else found.concordant
    return pairs, concordant, digits(found.variance, True, minimum_cell)


def _observed(times: Floats, events: Flags, horizon: float, minimum_cell: int) -> AtHorizon:
    """What happened, beside a model that says no risk."""
    risk, seen = observed_risk(times, events, horizon), len(times) >= minimum_cell
    return AtHorizon(
        brier=None,
        brier_variance=None,
        predicted=None,
        observed=decimals(risk.value, seen, minimum_cell),
        observed_variance=digits(risk.variance, seen, minimum_cell),
        reason=UNWATCHED if len(times) and risk == UNKNOWN else RATIO,
    )


def _at(
    survival: Floats, times: Floats, events: Flags, horizon: float, minimum_cell: int
) -> AtHorizon:
    n = len(times)
    decided = telling(survival, minimum_cell)
    error = brier(survival, times, events, horizon)
    risk = observed_risk(times, events, horizon)
    scored = n > 0 and n >= minimum_cell and not decided
    seen = n >= minimum_cell
    return AtHorizon(
        brier=decimals(error.value, scored, minimum_cell),
        brier_variance=digits(error.variance, scored, minimum_cell),
        predicted=decimals(1 - float(survival.mean()) if n else None, scored, minimum_cell),
        observed=decimals(risk.value, seen, minimum_cell),
        observed_variance=digits(risk.variance, seen, minimum_cell),
        reason=DECIDED if decided else UNWATCHED if n and risk == UNKNOWN else "",
    )


def _name(horizon: float) -> str:
    return f"horizon {horizon:g}"


def _horizons(study: Study) -> tuple[float, ...]:
    assert isinstance(study.task, SurvivalTask)
    return study.task.horizons


def _split(outcome: Floats) -> tuple[Floats, Flags]:
    return outcome[:, 0], outcome[:, 1] > 0.5
