"""Shares of several groups pulled towards the share of all, so that luck in few counts less."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def shrunken(parts: Sequence[int], wholes: Sequence[int]) -> Floats:
    """Beta-binomial estimates of each group's share, (groups,).

    Mean and intraclass correlation by moments, weighted by patients (Kleinman 1973, JASA 68:46);
    where the shares differ no more than by chance, all are that of all groups together.

    Args:
        parts, wholes: counts by group, wholes above 0; two groups or more.
    """
    k, n = np.array(parts, np.float64), np.array(wholes, np.float64)
    mean = k.sum() / n.sum()
    rho = _correlation(k, n, mean)
    if rho == 0:
        return np.full(len(k), mean)
    prior = (1 - rho) / rho  # patients that the mean is worth
    found: Floats = (k + prior * mean) / (n + prior)
    return found


def _correlation(k: Floats, n: Floats, mean: float) -> float:
    """Share of the variance of one patient's outcome that lies between groups, 0 to 1."""
    free, room = len(k) - 1, float(((n - 1) * (1 - n / n.sum())).sum())
    if mean in (0.0, 1.0) or room == 0:
        return 0.0
    scatter = float((n * (k / n - mean) ** 2).sum()) / (mean * (1 - mean))
    return min(1.0, max(0.0, (scatter - free) / room))
