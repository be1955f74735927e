"""Risk by a time when some patients are watched for less: Kaplan and Meier, and Graf's Brier score.

At equal times an event comes before an end of watching, so that P(no event by t) times P(still
watched at t) is exactly the share of patients still there after t.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Estimated:
    """A value with its large-sample variance."""

    value: float | None
    variance: float | None


UNKNOWN = Estimated(None, None)


@dataclass(frozen=True, eq=False)
class Steps:
    """At each distinct time, rising: how many are at risk, and how many have what is counted."""

    times: Floats
    at_risk: Floats
    counted: Floats


def observed_risk(times: Floats, events: Flags, horizon: float) -> Estimated:
    """P(event by the horizon) (Kaplan & Meier 1958) with Greenwood's variance (1926).

    Args:
        times: (n,) watched; events: (n,), whether the event ended it.

    Returns:
        UNKNOWN where nobody is watched that long and not all had the event before: then unknown.
    """
    if not _reaches(times, events, horizon):
        return UNKNOWN
    steps = _steps(times, events & (times <= horizon))
    left = steps.at_risk - steps.counted
    if (left == 0).any():
        return Estimated(1.0, 0.0)
    survival = float(np.prod(left / steps.at_risk))
    greenwood = float((steps.counted / (steps.at_risk * left)).sum())
    return Estimated(1 - survival, survival**2 * greenwood)


def brier(survival: Floats, times: Floats, events: Flags, horizon: float) -> Estimated:
    """Squared error of predicted survival, patients whose outcome is known standing for the rest.

    Graf et al. 1999 (Statistics in Medicine 18:2529): each is weighted by the inverse of the
    Kaplan-Meier probability of still being watched just before its event, or before the horizon.
    The variance is the infinitesimal jackknife, which counts that those weights are estimated.

    Args:
        survival: (n,) predicted P(no event by the horizon).

    Returns:
        UNKNOWN where nobody is watched that long and not all had the event before.
    """
    if not _reaches(times, events, horizon):
        return UNKNOWN
    leaves, free = ~events & (times < horizon), _free(times, events, horizon)
    watched = _steps(times, leaves, events)
    kept = np.cumprod(np.concatenate([[1.0], 1 - watched.counted / watched.at_risk]))
    just_before = kept[np.searchsorted(watched.times, np.minimum(times, horizon), side="left")]
    weights = np.divide(1.0, just_before, out=np.zeros(len(times)), where=~leaves)
    errors = weights * (survival - free) ** 2
    value = float(errors.mean())
    influence = errors - value + _of_weights(watched, errors, times, events, leaves)
    return Estimated(value, float((influence**2).sum()) / len(times) ** 2)


def _reaches(times: Floats, events: Flags, horizon: float) -> bool:
    """Whether the sample says what happens up to the horizon."""
    if not len(times):
        return False
    return bool(_free(times, events, horizon).any() or events[times == times.max()].all())


def _free(times: Floats, events: Flags, horizon: float) -> Flags:
    """Known to have no event by the horizon."""
    free: Flags = (times > horizon) | (times == horizon) & ~events
    return free


def _steps(times: Floats, counted: Flags, first: Flags | None = None) -> Steps:
    """Times of those `counted`; who has `first` leaves the risk set before them."""
    at = np.unique(times[counted])
    in_order = np.sort(times)
    at_risk = (len(times) - np.searchsorted(in_order, at, side="left")).astype(float)
    if first is not None:
        at_risk -= _how_many(times[first], at)
    return Steps(at, at_risk, _how_many(times[counted], at))


def _how_many(times: Floats, at: Floats) -> Floats:
    """How many of `times` equal each of `at`, which rises."""
    in_order = np.sort(times)
    upto = np.searchsorted(in_order, at, side="right")
    return (upto - np.searchsorted(in_order, at, side="left")).astype(float)


def _of_weights(
    watched: Steps, errors: Floats, times: Floats, events: Flags, leaves: Flags
) -> Floats:
    """What each patient adds to the mean error through everybody's weights: -E[d log G] by patient.

    Whoever leaves unseen at c raises the hazard of leaving, and the weights of all after c;
    whoever is still watched at c lowers both.
    """
    if not len(watched.times):
        return np.zeros(len(times))
    order = np.argsort(times, kind="stable")
    upto = np.concatenate([[0.0], np.cumsum(errors[order])])
    after = upto[-1] - upto[np.searchsorted(times[order], watched.times, side="right")]
    left = watched.at_risk - watched.counted
    gain = np.divide(after, left, out=np.zeros_like(after), where=left > 0)
    loss = np.concatenate([[0.0], np.cumsum(gain * watched.counted / watched.at_risk)])
    seen = np.searchsorted(watched.times, times, side="right")  # steps at which still at risk
    seen -= events & np.isin(times, watched.times)
    place = np.clip(np.searchsorted(watched.times, times), 0, len(watched.times) - 1)
    moved: Floats = np.where(leaves, gain[place], 0.0) - loss[seen]
    return moved
