"""Area under the precision-recall curve."""

import numpy as np
from numpy.typing import NDArray


def average_precision(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float | None:
    """Mean over positives of the precision among all that score at least as high, O(n log n).

    As scikit-learn's `average_precision_score`: no interpolation (Boyd, Eng & Page 2013).

    Args:
        scores: float64 (n,), larger means more likely positive.
        positive: bool (n,).

    Returns:
        In (0, 1], or None where nobody is positive.
    """
    if not positive.any():
        return None
    _, place = np.unique(-scores, return_inverse=True)
    above = np.cumsum(np.bincount(place))
    hits = np.bincount(place, positive)
    return float((hits * np.cumsum(hits) / above).sum() / hits.sum())
