"""How far a site rounds what it shows of its patients besides counts."""

import math
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

DECIMALS = 3  # of a mean of probabilities, an AUROC or a C
DIGITS = 3  # of anything else
LEAST_UNDECIDED = 0.01  # mean of p (1 - p), below which means of the scores p are counts
ALONE = 0.15  # of the largest share: what the others must at least add, beyond the second largest

NO_PATIENTS = "no patients"
DECIDED: Final = "scores near 0 and 1, or few different ones, would give counts away"
ONE_PATIENT = "one patient would make up most of it"


def decimals(value: float | None, shown: bool, minimum_cell: int) -> float | None:
    """Rounded to 3 decimals, None if not shown; as it is where there is no minimum cell."""
    if value is None or not shown:
        return None
    return round(value, DECIMALS) if minimum_cell else value


def digits(value: float | None, shown: bool, minimum_cell: int) -> float | None:
    """Rounded to 3 digits, None if not shown; as it is where there is no minimum cell."""
    if value is None or not shown:
        return None
    return float(f"{value:.{DIGITS}g}") if minimum_cell else value


def like(value: float, spread: float, minimum_cell: int) -> float:
    """Rounded where the fourth digit of a spread is; as it is without one or a minimum cell."""
    if not minimum_cell or not spread:
        return value
    return round(value, DIGITS - math.floor(math.log10(spread)))


def telling(scores: NDArray[np.float64], minimum_cell: int) -> bool:
    """Whether means of probabilities would be counts of patients, who are told apart by them.

    Of scores that are nearly all 0 or 1, or that take few different values: whoever has the model
    knows which, and finds how many patients have each from a few means.
    """
    return certain(scores, minimum_cell) or few(scores, minimum_cell)


def certain(scores: NDArray[np.float64], minimum_cell: int) -> bool:
    """Scores nearly all 0 or 1."""
    if not len(scores) or not minimum_cell:
        return False
    return float((scores * (1 - scores)).mean()) < LEAST_UNDECIDED


def few(values: NDArray[np.float64], minimum_cell: int) -> bool:
    """Fewer different values than twice the minimum cell, in at least so many patients."""
    least = 2 * minimum_cell
    return len(values) >= least > 0 and len(np.unique(values.round(6), axis=0)) < least


def dominated(parts: NDArray[np.float64]) -> bool:
    """Whether a sum of parts, all 0 or more, would give its largest part away.

    The p% rule (Hundepool et al. 2012, Statistical Disclosure Control, 4.2.2) with p = 15: whoever
    knows the second largest part could tell the largest one to within p%.
    """
    if not len(parts):
        return False
    largest = np.sort(parts)[-2:]
    return bool(parts.sum() - largest.sum() < ALONE * largest[-1])


def hidden_reason(minimum_cell: int) -> str:
    """Why a count of some patients is not shown."""
    return f"fewer than {minimum_cell} patients in a cell, or in one that would follow"


def first(reasons: Iterable[tuple[bool, str]]) -> str:
    """The first reason that holds, or an empty one."""
    return next((reason for holds, reason in reasons if holds), "")
