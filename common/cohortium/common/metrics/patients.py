"""What outcomes of many numbers have in common: each patient counts once, as one number or several.

A patient of a hundred places, or pairs, or inputs is first summed up (the share of places that are
right), and what a site shows are means of these over its patients, with what says how precise they
are. So it is patients whom disclosure control counts. Facets: `n`, and `measured`: those of whom
anything can be said, as a sequence without a known state has no share.
"""

from collections.abc import Set

import numpy as np
from numpy.typing import NDArray

from cohortium.common.metrics.cube import Question, facets
from cohortium.common.metrics.showing import ONE_PATIENT, digits, dominated, first, hidden_reason

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

NOBODY = "no patient of whom this can be said"
FEW_VALUES = "patients differ so little that means would count them"
FEWEST_VALUES = 5  # more than there are means shown of one number: they count nobody


def questions(measured: Flags) -> tuple[Question, ...]:
    """One, with two micro cells: patients of whom something can be said, and others."""
    cells = {"n": [[0, 1]], "measured": [[0], [1]]}
    return (Question((~measured).astype(np.int64), 2, facets(cells)),)


def why_hidden(measured: Flags, hidden: Set[str], minimum_cell: int) -> str:
    """Why nothing but the number of patients is shown; empty where more is."""
    count = int(measured.sum())
    return first(
        (
            (bool(hidden), hidden_reason(minimum_cell)),
            (not count, NOBODY),
            (count < minimum_cell, hidden_reason(minimum_cell)),
        )
    )


def why_not_a_mean(values: Floats, minimum_cell: int) -> str:
    """Why the mean of one number of each patient, 0 or more, is not shown; empty where it is."""
    if not minimum_cell:
        return ""
    repeated = len(np.unique(values.round(6))) < FEWEST_VALUES
    return first(((repeated, FEW_VALUES), (dominated(values), ONE_PATIENT)))


def lone(values: Floats, minimum_cell: int) -> bool:
    """Whether so few patients have any of it that a mean would be about them."""
    return 0 < int(np.count_nonzero(values)) < minimum_cell


def moment(one: Floats, other: Floats, minimum_cell: int) -> float:
    """Mean of the product of two numbers of each patient, 0 or more.

    Rounded as a covariance beside the rounded means, so that what is left of it without them is
    worth three digits as well.
    """
    together = float(((one - one.mean()) * (other - other.mean())).mean())
    means = [digits(float(values.mean()), True, minimum_cell) or 0.0 for values in (one, other)]
    return max((digits(together, True, minimum_cell) or 0.0) + means[0] * means[1], 0.0)


def share_moment(one: Floats, other: Floats, minimum_cell: int) -> float:
    """The same of shares, whose products are at most 1."""
    return min(moment(one, other, minimum_cell), 1.0)
