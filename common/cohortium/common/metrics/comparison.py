"""Another model beside the federated one: who is right on the same patients, and what may be shown.

One facet, `<name>: paired`: right by both, by only one, by neither, at the study's first threshold.
The other model's AUROC and means are shown overall, where the federated model's are.
"""

from collections.abc import Set

import numpy as np
from numpy.typing import NDArray

from cohortium.common.metrics.auroc import auroc, auroc_difference_variance
from cohortium.common.metrics.cube import Question, facets
from cohortium.common.metrics.showing import (
    DECIDED,
    NO_PATIENTS,
    decimals,
    digits,
    first,
    hidden_reason,
    telling,
)
from cohortium.common.metrics.tallies import BinaryTally, Comparison
from cohortium.common.metrics.tally import log_loss
from cohortium.common.study import Study

Floats = NDArray[np.float64]


def question(
    name: str, federated: Floats, other: Floats, outcome: Floats, study: Study
) -> Question:
    """Micro cells: outcome x called by the federated model x called by the other.

    Args:
        federated, other: (n,) probabilities of the same patients. outcome: (n,) 1.0 or 0.0.
    """
    threshold = study.evaluation.thresholds[0]
    micro = 4 * (outcome > 0.5) + 2 * (federated > threshold) + (other > threshold)
    right = {
        k: ((k >> 2) == (k >> 1 & 1), (k >> 2) == (k & 1)) for k in range(8)
    }  # by the federated model, by the other
    cells = [
        [k for k, by in right.items() if by == wanted]
        for wanted in ((True, True), (True, False), (False, True), (False, False))
    ]
    named = facets({"n": [list(range(8))], facet(name): cells})
    return Question(micro.astype(np.int64), 8, named, tuple(k >> 1 for k in range(8)))


def facet(name: str) -> str:
    """What the counts of a model beside the federated one are called in disclosure control."""
    return f"{name}: paired"


def compare(
    name: str,
    federated: Floats,
    other: Floats,
    outcome: Floats,
    study: Study,
    hidden: Set[str],
    minimum_cell: int,
    beside: BinaryTally | None = None,
) -> Comparison:
    """Counts of a group, without the hidden facets.

    Args:
        beside: the federated model's tally, for the other model's means too.
    """
    threshold, positive = study.evaluation.thresholds[0], outcome > 0.5
    mine, theirs = (federated > threshold) == positive, (other > threshold) == positive
    cells = (mine & theirs, mine & ~theirs, ~mine & theirs, ~mine & ~theirs)
    counts = [None if facet(name) in hidden else int(cell.sum()) for cell in cells]
    decided = telling(other, minimum_cell)
    means = beside is not None and beside.mean_score is not None and not decided
    wrong2 = (other - positive) ** 2
    return Comparison(
        both=counts[0],
        federated_only=counts[1],
        other_only=counts[2],
        neither=counts[3],
        auroc=decimals(auroc(other, positive), means, minimum_cell),
        auroc_difference_variance=digits(
            auroc_difference_variance(federated, other, positive), means, minimum_cell
        ),
        log_loss=decimals(log_loss(other, positive), means, minimum_cell),
        brier=decimals(float(wrong2.mean()) if len(other) else None, means, minimum_cell),
        mean_score=decimals(float(other.mean()) if len(other) else None, means, minimum_cell),
        reason=first(
            (
                (facet(name) in hidden, hidden_reason(minimum_cell)),
                (not len(other), NO_PATIENTS),
                (beside is not None and decided, DECIDED),
            )
        ),
    )
