"""Harrell's C: how often, of two patients, the one at higher risk has the event first."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Concordance:
    """`concordant` of `pairs` (ties of the risk count half), and the variance of their ratio.

    The variance is None below two pairs of patients to compare.
    """

    pairs: float
    concordant: float
    variance: float | None


def concordance(risk: Floats, times: Floats, events: Flags) -> Concordance:
    """Compare all patients whose order is known, O(n log^2 n) (Harrell et al. 1996).

    A pair can be compared if the earlier time is an event; of equal times, an event comes before
    an end of watching, and two events cannot be compared. The variance is the infinitesimal
    jackknife (Efron 1982; as R's survival::concordance): the sum over patients of the squared
    derivative of C by the patient's weight.

    Args:
        risk: (n,), higher means an earlier event.
        times: (n,) watched; events: (n,), whether the event ended it.
    """
    if not len(risk):
        return Concordance(0.0, 0.0, None)
    order = _dense(times, ~events)
    ranks = np.unique(risk, return_inverse=True)[1].astype(np.int64)
    later = _as_earlier(order, ranks, events)
    earlier = _as_later(order, ranks, events)
    part_in, won = later[0] + earlier[0], later[1] + earlier[1]  # of each patient
    pairs, concordant = float(part_in.sum()) / 2, float(won.sum()) / 2
    if pairs < 2:
        return Concordance(pairs, concordant, None)
    influence = (won - concordant / pairs * part_in) / pairs
    return Concordance(pairs, concordant, float((influence**2).sum()))


def _dense(times: Floats, censored: Flags) -> Ints:
    """Ranks of (time, event before censored); equal where two patients cannot be compared."""
    places = np.unique(times, return_inverse=True)[1].astype(np.int64)
    return 2 * places + censored


def _as_earlier(order: Ints, ranks: Ints, events: Flags) -> tuple[Floats, Floats]:
    """For each event: patients known to come later, and of them those at lower risk (+ ties/2)."""
    everybody = np.ones(len(order), bool)
    lower = _before(-order, ranks, everybody)
    higher = _before(-order, -ranks, everybody)
    in_order = np.sort(order)
    after = len(order) - np.searchsorted(in_order, order, side="right")
    won = lower + (after - lower - higher) / 2
    return np.where(events, after, 0).astype(float), np.where(events, won, 0.0)


def _as_later(order: Ints, ranks: Ints, events: Flags) -> tuple[Floats, Floats]:
    """For each patient: events known to come earlier, and of them those at higher risk."""
    lower = _before(order, ranks, events)
    higher = _before(order, -ranks, events)
    before = np.searchsorted(np.sort(order[events]), order, side="left")
    return before.astype(float), higher + (before - lower - higher) / 2


def _before(order: Ints, ranks: Ints, counted: Flags) -> Floats:
    """For each i, how many counted j have order[j] < order[i] and ranks[j] < ranks[i].

    By merging ever larger halves of the patients in order, ties put so that they do not count.
    """
    line = np.lexsort((-ranks, order))  # of equal order, the lower rank comes after
    values, counts = ranks[line], counted[line]
    n, width = len(line), 1
    found = np.zeros(n)
    places = np.arange(n)
    while width < n:
        block, in_left = places // (2 * width), places // width % 2 == 0
        merged = np.lexsort((in_left, values, block))  # of equal rank, the right half first
        seen = np.concatenate([[0], np.cumsum((in_left & counts)[merged])])
        right = ~in_left[merged]
        at = np.flatnonzero(right)
        found[merged[right]] += seen[at] - seen[block[merged[right]] * 2 * width]
        width *= 2
    back = np.empty(n)
    back[line] = found
    return back
