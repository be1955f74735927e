"""What a site sums of patients with a measured outcome, and what of it it may show.

One facet, `n`. Sums are shown of at least `minimum_cell` patients whose outcome takes at least as
many values (fewer could be counted from the sums), and where no patient alone makes up most of the
error or of the spread of outcome or prediction. Sums are rounded about their means, so that what
is shown is worth four digits of the spread, whatever the unit.
"""

from collections.abc import Mapping, Set

import numpy as np
from numpy.typing import NDArray

from cohortium.common.errors import ProtocolError
from cohortium.common.metrics.cube import Question, facets
from cohortium.common.metrics.showing import (
    NO_PATIENTS,
    ONE_PATIENT,
    digits,
    dominated,
    few,
    first,
    hidden_reason,
    like,
)
from cohortium.common.metrics.tallies import RegressionTally
from cohortium.common.study import Study

Floats = NDArray[np.float64]
Groups = Mapping[str, Mapping[str, RegressionTally]]

SUMS = (
    "absolute",
    "squared",
    "fourth",
    "outcome",
    "outcome2",
    "predicted",
    "predicted2",
    "product",
)
LARGEST = 1e60  # a prediction, whose fourth power is still a number
FEW_VALUES = "the outcome, or its prediction, takes so few values that sums would count them"
ANOTHER_GROUP = "it would give away another group, of which one patient would make up most"


def questions(predicted: Floats, outcome: Floats, study: Study) -> tuple[Question, ...]:
    """One, with one micro cell: only how many patients there are is counted."""
    return (Question(np.zeros(len(outcome), np.int64), 1, facets({"n": [[0]]})),)


def tally(
    predicted: Floats, outcome: Floats, study: Study, hidden: Set[str], minimum_cell: int
) -> RegressionTally:
    """Sums of a group, of predictions and outcomes (n,) in the outcome's unit.

    What one group hides must not follow from the others: see `agree`.

    Raises:
        ProtocolError: predictions whose squares cannot be summed: the model that was sent is
            broken.
    """
    if not (np.abs(predicted) < LARGEST).all():
        raise ProtocolError("the model's predictions are beyond all bounds: training diverged")
    n, error = len(outcome), predicted - outcome
    repeated = n > 0 and minimum_cell > len(np.unique(outcome))
    repeated = repeated or few(predicted, minimum_cell)
    spreads = error**2, (outcome - _mean(outcome)) ** 2, (predicted - _mean(predicted)) ** 2
    alone = bool(minimum_cell) and any(map(dominated, spreads))
    reason = first(
        (
            ("n" in hidden, hidden_reason(minimum_cell)),
            (not n, NO_PATIENTS),
            (repeated, FEW_VALUES),
            (alone, ONE_PATIENT),
        )
    )
    shown = dict[str, float | None](dict.fromkeys(SUMS))
    if not reason:
        shown = _sums(predicted, outcome, minimum_cell)
    return RegressionTally.model_validate(
        {"n": None if "n" in hidden else n, **shown, "reason": reason}
    )


def agree(overall: RegressionTally, groups: Groups) -> Groups:
    """Groups without the sums that one of them hides though it shows how many patients it has.

    The sums of that group would follow from the total minus the others. `overall` stays as it is:
    of it alone nothing follows.
    """
    hiding = {
        name
        for levels in groups.values()
        for tally in levels.values()
        if tally.n
        for name in SUMS
        if getattr(tally, name) is None and getattr(overall, name) is not None
    }
    return {
        attribute: {level: _without(tally, hiding) for level, tally in levels.items()}
        for attribute, levels in groups.items()
    }


def _without(tally: RegressionTally, hiding: set[str]) -> RegressionTally:
    lost = any(getattr(tally, name) is not None for name in hiding - {"fourth"})
    reason = tally.reason or (ANOTHER_GROUP if lost else "")
    return tally.model_copy(update={**dict.fromkeys(hiding), "reason": reason})


def _sums(predicted: Floats, outcome: Floats, minimum_cell: int) -> dict[str, float | None]:
    """The means of SUMS; those of y, y^2, p, p^2 and p y as (co)variances are rounded."""
    error = predicted - outcome
    fourth = not minimum_cell or not dominated(error**4)
    spread = float(outcome.std()), float(predicted.std())
    y = like(_mean(outcome), spread[0], minimum_cell)
    p = like(_mean(predicted), spread[1], minimum_cell)
    together = float(((outcome - _mean(outcome)) * (predicted - _mean(predicted))).mean())
    return {
        "absolute": digits(_mean(np.abs(error)), True, minimum_cell),
        "squared": digits(_mean(error**2), True, minimum_cell),
        "fourth": digits(_mean(error**4), fourth, minimum_cell),
        "outcome": y,
        "outcome2": like(spread[0] ** 2, spread[0] ** 2, minimum_cell) + y**2,
        "predicted": p,
        "predicted2": like(spread[1] ** 2, spread[1] ** 2, minimum_cell) + p**2,
        "product": like(together, spread[0] * spread[1], minimum_cell) + p * y,
    }


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else 0.0
