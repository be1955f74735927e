"""What a tally of classes, labels, numbers or times may say beyond its types.

As `plausibility.py` for the counts of a yes or no outcome: what no table gives would break the
arithmetic of the report for everybody.
"""

from collections.abc import Callable
from itertools import pairwise

from cohortium.common.errors import ProtocolError
from cohortium.common.metrics.tallies import (
    BinaryTally,
    ContactsTally,
    LabellingTally,
    MulticlassTally,
    MultilabelTally,
    ReconstructionTally,
    RegressionTally,
    SurvivalTally,
)
from cohortium.common.study import Study
from cohortium.common.task import MultilabelTask, SurvivalTask
from cohortium.server import plausible_patients
from cohortium.server.plausible_sums import (
    CONTRADICT,
    OTHER_NAMES,
    ROUNDED,
    SUMS,
    at_most,
    counted,
    require,
)

OtherTally = (
    MulticlassTally
    | MultilabelTally
    | RegressionTally
    | SurvivalTally
    | LabellingTally
    | ContactsTally
    | ReconstructionTally
)
CheckBinary = Callable[[BinaryTally], None]

FARTHEST = 1e6  # ranges of the schema that a prediction may lie away


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
        case LabellingTally():
            plausible_patients.check_places(study, tally)
        case ContactsTally():
            plausible_patients.check_pairs(tally)
        case ReconstructionTally():
            plausible_patients.check_inputs(tally)


def _check_classes(study: Study, tally: MulticlassTally, binary: CheckBinary) -> None:
    names = study.attribute_levels(study.task.columns[0])
    require(set(tally.classes) == set(names), OTHER_NAMES)  # a message sorts its keys
    for one in tally.classes.values():
        binary(one)
        require(one.n in (None, tally.n), CONTRADICT)
    at_most(tally.correct, tally.n)
    counted(tally.n, tally.log_loss, tally.brier, tally.brier_squares)
    if tally.confusion is None:
        return
    rows = tally.confusion
    require([len(row) for row in rows] == [len(names)] * len(names), OTHER_NAMES)
    require(sum(map(sum, rows)) == tally.n, CONTRADICT)
    right = sum(row[place] for place, row in enumerate(rows))
    require(tally.correct in (None, right), CONTRADICT)


def _check_labels(study: Study, tally: MultilabelTally, binary: CheckBinary) -> None:
    assert isinstance(study.task, MultilabelTask)
    require(set(tally.labels) == set(study.task.labels), OTHER_NAMES)
    for one in tally.labels.values():
        binary(one)
        require(one.n in (None, tally.n), CONTRADICT)
        if one.correct is not None:
            at_most(tally.all_right, one.correct)
    at_most(tally.all_right, tally.n)
    counted(tally.n, tally.log_loss)


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
    counted(tally.n, *means)
    require(
        all(abs(mean) <= far**power for power, some in shown.items() for mean in some if mean),
        SUMS,
    )
    require(len({mean is None for some in (shown[1], shown[2]) for mean in some}) == 1, SUMS)
    for mean, squares in (
        (tally.absolute, tally.squared),
        (tally.squared, tally.fourth),
        (tally.outcome, tally.outcome2),
        (tally.predicted, tally.predicted2),
    ):
        if mean is not None and squares is not None:
            require(mean**2 <= squares * (1 + 2 * ROUNDED), SUMS)


def _check_times(study: Study, tally: SurvivalTally) -> None:
    assert isinstance(study.task, SurvivalTask)
    n = tally.n or 0
    require(len(tally.horizons) == len(study.task.horizons), OTHER_NAMES)
    at_most(tally.events, tally.n)
    counted(tally.n, tally.pairs, tally.concordant, tally.c_variance)
    if tally.pairs is not None:
        require((tally.concordant or 0) <= tally.pairs * (1 + ROUNDED), CONTRADICT)
        require(tally.pairs <= n * (n - 1) / 2 * (1 + ROUNDED), CONTRADICT)
    require((tally.c_variance or 0) <= 1, SUMS)
    for there in tally.horizons:
        counted(tally.n, there.brier, there.predicted, there.observed)
        require((there.brier or 0) <= n, SUMS)
        require((there.brier_variance or 0) <= n**2, SUMS)
        require((there.observed_variance or 0) <= 1, SUMS)
    for risks in ("observed", "predicted"):
        shown = [getattr(there, risks) for there in tally.horizons]
        known = [risk for risk in shown if risk is not None]
        require(all(a <= b + 2e-3 for a, b in pairwise(known)), SUMS)
