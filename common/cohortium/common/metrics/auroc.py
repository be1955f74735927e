"""Area under the ROC curve from ranks, and how far chance moves it."""

import numpy as np
from numpy.typing import NDArray


def auroc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float | None:
    """P(positive scores above negative) + P(tie) / 2 (Mann & Whitney 1947), O(n log n).

    Args:
        scores: float64 (n,), larger means more likely positive.
        positive: bool (n,).

    Returns:
        In [0, 1], or None where one class is absent.
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    rank_sum = float(_mid_ranks(scores)[positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def auroc_variance(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float | None:
    """Variance of `auroc` (DeLong, DeLong & Clarke-Pearson 1988), O(n log n).

    By midranks: Sun & Xu 2014, IEEE Signal Processing Letters 21:1389, algorithm 2.

    Args:
        scores: float64 (n,), larger means more likely positive.
        positive: bool (n,).

    Returns:
        0 or more (0 where the scores part the classes), or None below two patients of each class.
    """
    above, below = _placements(scores, positive)
    return _variance(above, below)


def auroc_difference_variance(
    one: NDArray[np.float64], other: NDArray[np.float64], positive: NDArray[np.bool_]
) -> float | None:
    """Variance of the difference of two scores' `auroc` on the same patients (DeLong et al. 1988).

    Args:
        one, other: float64 (n,) scores of the same patients in the same order.
        positive: bool (n,).

    Returns:
        0 or more, or None below two patients of each class.
    """
    mine, theirs = _placements(one, positive), _placements(other, positive)
    return _variance(mine[0] - theirs[0], mine[1] - theirs[1])


def _placements(
    scores: NDArray[np.float64], positive: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of negatives below each positive, and of positives above each negative."""
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return np.zeros(positives), np.zeros(negatives)
    ranks = _mid_ranks(scores)
    above = (ranks[positive] - _mid_ranks(scores[positive])) / negatives
    below = 1 - (ranks[~positive] - _mid_ranks(scores[~positive])) / positives
    return above, below


def _variance(above: NDArray[np.float64], below: NDArray[np.float64]) -> float | None:
    if min(len(above), len(below)) < 2:
        return None
    return float(above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below))


def _mid_ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; ties share the middle of theirs."""
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    middle: NDArray[np.float64] = np.cumsum(sizes) - (sizes - 1) / 2
    return middle[group]
