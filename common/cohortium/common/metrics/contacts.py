"""What a site sums of predicted contacts within sequences, and what it may show.

Of each patient with a pair that touches and one that does not: how many of the likeliest L / 5 and
L pairs touch (L: the length of the sequence; Moult et al. 2018, Proteins 86:7), the AUROC of all
pairs asked, the share of them that touch, which is what guessing gives, and their mean log loss.
"""

from collections.abc import Set
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cohortium.common.metrics import patients
from cohortium.common.metrics.auroc import auroc
from cohortium.common.metrics.cube import Question
from cohortium.common.metrics.patients import moment, why_hidden, why_not_a_mean
from cohortium.common.metrics.showing import digits
from cohortium.common.metrics.tallies import ContactsTally
from cohortium.common.study import Study

Floats = NDArray[np.float64]

LEAST = 1e-15  # probability, of which the logarithm is taken


class Chain(NamedTuple):
    """One patient's sequence."""

    fifth: float
    top: float
    auroc: float
    contacts: float
    log_loss: float


def questions(predicted: Floats, outcome: Floats, study: Study) -> tuple[Question, ...]:
    return patients.questions(_measurable(outcome))


def tally(
    predicted: Floats, outcome: Floats, study: Study, hidden: Set[str], minimum_cell: int
) -> ContactsTally:
    """Means of a group, without what must not be shown.

    Args:
        predicted: (n, length^2) probabilities; those of (i, j) and (j, i) are averaged.
        outcome: (n, length^2): 1 for pairs that touch, 0 for others, -1 for those not asked.
    """
    measured = _measurable(outcome)
    reason = why_hidden(measured, hidden, minimum_cell)
    shown = dict[str, float | None]()
    if not reason:
        rows = zip(predicted[measured], outcome[measured], strict=True)
        chains = np.array([_chain(*row) for row in rows])
        for name, values in zip(Chain._fields, chains.T, strict=True):
            why = why_not_a_mean(values, minimum_cell)
            shown[name] = digits(float(values.mean()), not why, minimum_cell)
            shown[f"{name}2"] = None if why else moment(values, values, minimum_cell)
            reason = reason or why
    keys = ("fifth", "fifth2", "top", "top2", "auroc", "auroc2", "contacts", "log_loss")
    return ContactsTally.model_validate(
        {
            "n": None if "n" in hidden else len(outcome),
            "measured": None if hidden else int(measured.sum()),
            **{key: shown.get(key) for key in keys},
            "reason": reason,
        }
    )


def _measurable(outcome: Floats) -> NDArray[np.bool_]:
    """Who has a pair that touches and one that does not."""
    return np.asarray((outcome == 1).any(axis=1) & (outcome == 0).any(axis=1))


def _chain(predicted: Floats, outcome: Floats) -> Chain:
    size = round(len(outcome) ** 0.5)
    asked = outcome.reshape(size, size) >= 0
    length = int(np.flatnonzero(asked.any(axis=0)).max()) + 1
    first, second = np.nonzero(np.triu(asked))
    square = predicted.reshape(size, size)
    said = (square[first, second] + square[second, first]) / 2
    touch = outcome.reshape(size, size)[first, second] == 1
    likeliest = touch[np.argsort(-said, kind="stable")]
    of_true = np.where(touch, said, 1 - said)
    return Chain(
        fifth=float(likeliest[: max(1, length // 5)].mean()),
        top=float(likeliest[:length].mean()),
        auroc=auroc(said, touch) or 0.0,
        contacts=float(touch.mean()),
        log_loss=float(-np.log(np.maximum(of_true, LEAST)).mean()),
    )
