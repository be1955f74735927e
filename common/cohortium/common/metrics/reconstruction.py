"""What a site sums of inputs that a model gives back, and what it may show.

Of each patient two numbers: the squared error, and the squared distance from the site's mean, both
averaged over the inputs as the model reads them. Of several sites the second is what lies within
them. A generator alone, as of a GAN, gives no patient back, and nothing is measured of it.
"""

from collections.abc import Set

import numpy as np
from numpy.typing import NDArray

from cohortium.common.errors import ProtocolError
from cohortium.common.metrics import patients
from cohortium.common.metrics.cube import Question
from cohortium.common.metrics.patients import moment, why_hidden, why_not_a_mean
from cohortium.common.metrics.showing import digits, dominated
from cohortium.common.metrics.tallies import ReconstructionTally
from cohortium.common.study import Study

Floats = NDArray[np.float64]

LARGEST = 1e30  # an output, of whose error the fourth power still is a number
GENERATOR = "a generator gives no patient back; what it makes is judged by use of it"


def questions(predicted: Floats, outcome: Floats, study: Study) -> tuple[Question, ...]:
    return patients.questions(np.ones(len(outcome), np.bool_))


def tally(
    predicted: Floats, outcome: Floats, study: Study, hidden: Set[str], minimum_cell: int
) -> ReconstructionTally:
    """Means of a group, of outputs and inputs (n, inputs); no outputs (n, 0) from a generator.

    Raises:
        ProtocolError: outputs whose errors cannot be summed: the model that was sent is broken.
    """
    if not (np.abs(predicted) < LARGEST).all():
        raise ProtocolError("the model's outputs are beyond all bounds: training diverged")
    reason = why_hidden(np.ones(len(outcome), np.bool_), hidden, minimum_cell)
    if not reason and not predicted.shape[1]:
        reason = GENERATOR
    shown = dict[str, float | None]()
    if not reason:
        error = ((predicted - outcome) ** 2).mean(axis=1)
        spread = ((outcome - outcome.mean(axis=0)) ** 2).mean(axis=1)
        reason = why_not_a_mean(error, minimum_cell) or why_not_a_mean(spread, minimum_cell)
        shown = {} if reason else _means(error, spread, minimum_cell)
    keys = ("squared", "spread", "squared2", "spread2", "product")
    return ReconstructionTally.model_validate(
        {
            "kind": study.task.kind,
            "n": None if "n" in hidden else len(outcome),
            **{key: shown.get(key) for key in keys},
            "reason": reason,
        }
    )


def _means(error: Floats, spread: Floats, minimum_cell: int) -> dict[str, float | None]:
    pairs = {"squared2": (error, error), "spread2": (spread, spread), "product": (error, spread)}
    precise = not minimum_cell or not any(dominated(a * b) for a, b in pairs.values())
    return {
        "squared": digits(float(error.mean()), True, minimum_cell),
        "spread": digits(float(spread.mean()), True, minimum_cell),
        **{k: moment(*pair, minimum_cell) if precise else None for k, pair in pairs.items()},
    }
