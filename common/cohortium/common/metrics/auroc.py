"""Area under the ROC curve from ranks."""

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
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    mid_ranks = np.cumsum(sizes) - (sizes - 1) / 2  # ties share the middle of their ranks
    rank_sum = float(mid_ranks[group][positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)
