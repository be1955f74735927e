"""What a tally of classes, labels, numbers or times may say beyond its types.

As `plausibility.py` for the counts of a yes or no outcome: what no table gives would break the
arithmetic of the report for everybody.
"""

import math
from collections.abc import Callable
from itertools import pairwise

from cohortium.common.errors import ProtocolError
from cohortium.common.metrics.tallies import (
    BinaryTally,
    MulticlassTally,
    MultilabelTally,
    RegressionTally,
    SurvivalTally,
)
from cohortium.common.study import Study
from cohortium.common.task import MultilabelTask, SurvivalTask

OtherTally = MulticlassTally | MultilabelTally | RegressionTally | SurvivalTally
CheckBinary = Callable[[BinaryTally], None]

ROUNDED = 0.006  # share of a value that rounding at the site can move
FARTHEST = 1e6  # ranges of the schema that a prediction may lie away

CONTRADICT = "an evaluation with counts that contradict each other"
SUMS = "an evaluation with sums that contradict each other"
OTHER_NAMES = "an evaluation of other classes, labels or horizons than the study names"


def check_other(study: Study, tally: OtherTally, binary: CheckBinary) -> None:
    """Raise ProtocolError for what no table gives; `binary` checks each class and label."""
    if tally.kind != study.task.kind:
        raise ProtocolError("an evaluation of another kind of outcome than the study's")
    match tally:
        case MulticlassTally():
            _check_classes(study, tally, binary)
        case MultilabelTally():
            _check_labels(study, tally, binary)
        case RegressionTally():
            _check_numbers(study, tally)
        case SurvivalTally():
            _check_times(study, tally)


def _check_classes(study: Study, tally: MulticlassTally, binary: CheckBinary) -> None:
    names = study.attribute_levels(study.task.columns[0])
    _require(set(tally.classes) == set(names), OTHER_NAMES)  # a message sorts its keys
    for one in tally.classes.values():
        binary(one)
        _require(one.n in (None, tally.n), CONTRADICT)
    _at_most(tally.correct, tally.n)
    _counted(tally.n, tally.log_loss, tally.brier, tally.brier_squares)
    if tally.confusion is None:
        return
    rows = tally.confusion
    _require([len(row) for row in rows] == [len(names)] * len(names), OTHER_NAMES)
    _require(sum(map(sum, rows)) == tally.n, CONTRADICT)
    right = sum(row[place] for place, row in enumerate(rows))
    _require(tally.correct in (None, right), CONTRADICT)


def _check_labels(study: Study, tally: MultilabelTally, binary: CheckBinary) -> None:
    assert isinstance(study.task, MultilabelTask)
    _require(set(tally.labels) == set(study.task.labels), OTHER_NAMES)
    for one in tally.labels.values():
        binary(one)
        _require(one.n in (None, tally.n), CONTRADICT)
        if one.correct is not None:
            _at_most(tally.all_right, one.correct)
    _at_most(tally.all_right, tally.n)
    _counted(tally.n, tally.log_loss)


def _check_numbers(study: Study, tally: RegressionTally) -> None:
    """Means of squares are at least squares of means, as far as rounding leaves it."""
    column = study.data_model.columns[study.task.columns[0]]
    low, high = getattr(column, "low", 0.0), getattr(column, "high", 0.0)
    far = FARTHEST * max(abs(low), abs(high), high - low)
    shown = {
        1: (tally.absolute, tally.outcome, tally.predicted),
        2: (tally.squared, tally.outcome2, tally.predicted2, tally.product),
        4: (tally.fourth,),
    }
    means = [mean for some in shown.values() for mean in some]
    _counted(tally.n, *means)
    _require(
        all(abs(mean) <= far**power for power, some in shown.items() for mean in some if mean),
        SUMS,
    )
    _require(len({mean is None for some in (shown[1], shown[2]) for mean in some}) == 1, SUMS)
    for mean, squares in (
        (tally.absolute, tally.squared),
        (tally.squared, tally.fourth),
        (tally.outcome, tally.outcome2),
        (tally.predicted, tally.predicted2),
    ):
        if mean is not None and squares is not None:
            _require(mean**2 <= squares * (1 + 2 * ROUNDED), SUMS)


def _check_times(study: Study, tally: SurvivalTally) -> None:
    assert isinstance(study.task, SurvivalTask)
    n = tally.n or 0
    _require(len(tally.horizons) == len(study.task.horizons), OTHER_NAMES)
    _at_most(tally.events, tally.n)
    _counted(tally.n, tally.pairs, tally.concordant, tally.c_variance)
    if tally.pairs is not None:
        _require((tally.concordant or 0) <= tally.pairs * (1 + ROUNDED), CONTRADICT)
        _require(tally.pairs <= n * (n - 1) / 2 * (1 + ROUNDED), CONTRADICT)
    _require((tally.c_variance or 0) <= 1, SUMS)
    for there in tally.horizons:
        _counted(tally.n, there.brier, there.predicted, there.observed)
        _require((there.brier or 0) <= n, SUMS)
        _require((there.brier_variance or 0) <= n**2, SUMS)
        _require((there.observed_variance or 0) <= 1, SUMS)
    for risks in ("observed", "predicted"):
        shown = [getattr(there, risks) for there in tally.horizons]
        known = [risk for risk in shown if risk is not None]
        _require(all(a <= b + 2e-3 for a, b in pairwise(known)), SUMS)


def _counted(n: int | None, *means: float | None) -> None:
    """Means are of patients who are counted."""
    if any(mean is not None for mean in means):
        _require(bool(n) or all(not mean for mean in means), SUMS)
        _require(all(math.isfinite(mean) for mean in means if mean is not None), SUMS)


def _at_most(part: int | None, whole: int | None) -> None:
    _require(part is None or (whole is not None and part <= whole), CONTRADICT)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ProtocolError(otherwise)
