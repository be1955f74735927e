"""What a site sums of the places of sequences whose states are predicted, and what it may show.

Of each patient: the share of places rightly called, and by state the shares of places that are in
it, are called so, and both. By state nothing is shown where fewer than `minimum_cell` patients (but
more than none) have places in it, are called so anywhere, or are called rightly or wrongly; then
of no state, since the shares of all states add up to 1.
"""

from collections.abc import Set

import numpy as np
from numpy.typing import NDArray

from cohortium.common.metrics import patients
from cohortium.common.metrics.cube import Question
from cohortium.common.metrics.patients import lone, share_moment, why_hidden, why_not_a_mean
from cohortium.common.metrics.showing import digits, dominated, first
from cohortium.common.metrics.tallies import LabellingTally, StateTally
from cohortium.common.study import Study
from cohortium.common.task import LabellingTask

Floats = NDArray[np.float64]
Shares = tuple[Floats, Floats, Floats]  # (n, states): in a state, called so, rightly called so

RARE = "too few patients have places in a state, or are called so, to show any"
LEAST = 1e-15  # probability, of which the logarithm is taken


def questions(predicted: Floats, outcome: Floats, study: Study) -> tuple[Question, ...]:
    return patients.questions(_measured(outcome))


def tally(
    predicted: Floats, outcome: Floats, study: Study, hidden: Set[str], minimum_cell: int
) -> LabellingTally:
    """Means of a group, without what must not be shown.

    Args:
        predicted: (n, length, states) probabilities.
        outcome: (n, length) place of the state, -1 where there is none.
    """
    assert isinstance(study.task, LabellingTask)
    states = study.task.states(study.data_model)
    measured = _measured(outcome)
    reason = why_hidden(measured, hidden, minimum_cell)
    shares = _shares(predicted[measured], outcome[measured], len(states))
    right = shares[2].sum(axis=1)
    reason = reason or why_not_a_mean(right, minimum_cell)
    shown = {} if reason else _means(predicted[measured], outcome[measured], right, minimum_cell)
    rare = reason or first(((any(_rare(one, minimum_cell) for one in _parts(shares)), RARE),))
    return LabellingTally(
        n=None if "n" in hidden else len(outcome),
        measured=None if hidden else int(measured.sum()),
        right=shown.get("right"),
        right2=shown.get("right2"),
        log_loss=shown.get("log_loss"),
        states={
            name: StateTally() if rare else _state(shares, place, minimum_cell)
            for place, name in enumerate(states)
        },
        reason=reason or rare,
    )


def _measured(outcome: Floats) -> NDArray[np.bool_]:
    """(n,): who has a place whose state is known."""
    return np.asarray((outcome >= 0).any(axis=1))


def _shares(predicted: Floats, outcome: Floats, states: int) -> Shares:
    """Of each patient's places with a state, so that every patient counts once."""
    if not len(outcome):
        nothing = np.zeros((0, states))
        return nothing, nothing, nothing
    called, there = predicted.argmax(axis=2), outcome >= 0
    places = there.sum(axis=1)

    def share(of: NDArray[np.bool_]) -> Floats:
        return np.asarray((of & there).sum(axis=1) / places)

    true = np.column_stack([share(outcome == state) for state in range(states)])
    said = np.column_stack([share(called == state) for state in range(states)])
    both = [share((outcome == state) & (called == state)) for state in range(states)]
    return true, said, np.column_stack(both)


def _parts(shares: Shares) -> list[Floats]:
    """Each (n,): what a mean shown, or the difference of two, is made of."""
    true, said, right = shares
    parts = (true, said, right, true - right, said - right)
    return [one[:, state] for one in parts for state in range(true.shape[1])]


def _rare(values: Floats, minimum_cell: int) -> bool:
    """Of few patients, or one above all."""
    if not minimum_cell or not values.any():
        return False
    return lone(values, minimum_cell) or dominated(values)


def _means(
    predicted: Floats, outcome: Floats, right: Floats, minimum_cell: int
) -> dict[str, float | None]:
    there = outcome >= 0
    at = np.clip(outcome, 0, None).astype(np.int64)[:, :, None]
    of_true = np.take_along_axis(predicted, at, axis=2)[:, :, 0]
    lost = -np.log(np.maximum(of_true, LEAST)) * there
    each = lost.sum(axis=1) / there.sum(axis=1)
    return {
        "right": digits(float(right.mean()), True, minimum_cell),
        "right2": share_moment(right, right, minimum_cell),
        "log_loss": digits(float(each.mean()), not dominated(each), minimum_cell),
    }


def _state(shares: Shares, place: int, minimum_cell: int) -> StateTally:
    true, called, right = (one[:, place] for one in shares)
    means = {"true": true, "called": called, "right": right}
    pairs = {"true2": (true, true), "right2": (right, right), "product": (true, right)}
    return StateTally(
        **{name: digits(float(one.mean()), True, minimum_cell) for name, one in means.items()},
        **{name: share_moment(*pair, minimum_cell) for name, pair in pairs.items()},
    )
