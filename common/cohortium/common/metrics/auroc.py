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
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if positives < 2 or negatives < 2:
        return None
    ranks = _mid_ranks(scores)
    above = (ranks[positive] - _mid_ranks(scores[positive])) / negatives
    below = 1 - (ranks[~positive] - _mid_ranks(scores[~positive])) / positives
    return float(above.var(ddof=1) / positives + below.var(ddof=1) / negatives)


def _mid_ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; ties share the middle of theirs."""
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    middle: NDArray[np.float64] = np.cumsum(sizes) - (sizes - 1) / 2
    return middle[group]
