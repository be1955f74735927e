"""Scores of both classes in 256 fixed bins, which add up over sites: AUROC and AUPRC from them.

Bins are equally spaced in logit(score) over -10 to 10, the outer ones open, so that scores of a
rare outcome, all near 0, still fall into many. Most bins hold few patients: a histogram may leave
a site only where secure aggregation or noise protects it, and is never exported.

Simulated (tests/common/test_histogram.py), AUROC is off by at most 0.004 from 300 patients or 30
with the outcome on, moderate or sharp, common or rare (0.5%); of 100 patients by up to 0.006. Where
nearly all scores fall into a few bins (logits within a range of 0.5) it can be 0.008: the bounds
say so.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Self

import numpy as np
from numpy.typing import NDArray

BINS, REACH = 256, 10.0

Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Area:
    """An area under a curve; `low` and `high` hold the exact one for certain."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Histogram:
    """Patients with, and without, the outcome in each bin, from the lowest score: (256,) each."""

    positives: Counts
    negatives: Counts

    @classmethod
    def of(cls, scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> Self:
        """Count scores (n,), probabilities, of patients with the outcome, bool (n,), or without."""
        place = _bin(scores)
        return cls(_count(place[positive]), _count(place[~positive]))

    def __add__(self, other: "Histogram") -> "Histogram":
        return Histogram(self.positives + other.positives, self.negatives + other.negatives)


def merge(histograms: Iterable[Histogram]) -> Histogram:
    """Those of all sites together; exact, in any order."""
    nothing = Histogram(np.zeros(BINS, np.int64), np.zeros(BINS, np.int64))
    return reduce(Histogram.__add__, histograms, nothing)


def auroc(histogram: Histogram) -> Area | None:
    """P(positive above negative), pairs of one bin counting half, as little, or as much, as can be.

    None where one class is absent.
    """
    pairs = _pairs(histogram)
    if not pairs:
        return None
    below = np.cumsum(histogram.negatives) - histogram.negatives
    certain = float((histogram.positives * below).sum()) / pairs
    open_ = float((histogram.positives * histogram.negatives).sum()) / pairs
    return Area(certain + open_ / 2, certain, certain + open_)


def auroc_variance(histogram: Histogram) -> float | None:
    """DeLong's variance (1988), with ties for all pairs of one bin; None below two of a class."""
    p, q = histogram.positives, histogram.negatives
    positives, negatives = int(p.sum()), int(q.sum())
    if positives < 2 or negatives < 2:
        return None
    above = (np.cumsum(q) - q / 2) / negatives  # of a positive in each bin
    below = (positives - np.cumsum(p) + p / 2) / positives  # of a negative
    return _variance(above, p) / positives + _variance(below, q) / negatives


def auprc(histogram: Histogram) -> Area | None:
    """Average precision, each bin taken as well mixed; as little, or as much, as can be.

    None where nobody is positive.
    """
    p, q = histogram.positives[::-1], histogram.negatives[::-1]
    if not p.sum():
        return None
    before = np.repeat(np.cumsum(q) - q, p).astype(float)  # misses in the bins above, by positive
    here = np.repeat(q, p).astype(float)
    hits = np.arange(1, len(here) + 1)
    place = hits - np.repeat(np.cumsum(p) - p, p)  # of the positive among those of its bin
    mixed = here * place / (np.repeat(p, p) + 1)  # misses of the bin expected above it
    value, low, high = (
        float((hits / (hits + before + above)).mean()) for above in (mixed, here, 0.0)
    )
    return Area(value, low, high)


def _pairs(histogram: Histogram) -> float:
    return float(histogram.positives.sum()) * float(histogram.negatives.sum())


def _variance(values: NDArray[np.float64], counts: Counts) -> float:
    """Of values that occur so often, with n - 1."""
    n = counts.sum()
    mean = (values * counts).sum() / n
    return float((counts * (values - mean) ** 2).sum() / (n - 1))


def _bin(scores: NDArray[np.float64]) -> Counts:
    with np.errstate(divide="ignore"):
        logits = np.log(scores) - np.log1p(-scores)
    width = 2 * REACH / BINS
    inside = np.clip(logits, -REACH, REACH)
    place: Counts = np.minimum(((inside + REACH) / width).astype(np.int64), BINS - 1)
    return place


def _count(places: Counts) -> Counts:
    return np.bincount(places, minlength=BINS).astype(np.int64)
