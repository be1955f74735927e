"""What a site counts of patients with one of several classes, and what of it it may show.

Facets: `n`; `correct` (right, wrong); for each class `is <class>` (those in it, the rest) and
`calls <class>` (in it and called so, and the other three); `confusion`, every true class by every
called one. Log loss and Brier score are shown where all classes are, AUROC of a class where it is.
"""

from collections.abc import Mapping, Set

import numpy as np
from numpy.typing import NDArray

from cohortium.common.metrics.auprc import average_precision
from cohortium.common.metrics.auroc import auroc, auroc_variance
from cohortium.common.metrics.cube import Question, facets
from cohortium.common.metrics.showing import (
    DECIDED,
    LEAST_UNDECIDED,
    NO_PATIENTS,
    decimals,
    digits,
    few,
    first,
    hidden_reason,
    telling,
)
from cohortium.common.metrics.tallies import BinaryTally, MulticlassTally
from cohortium.common.metrics.tally import SMALLEST, log_loss
from cohortium.common.study import Study
from cohortium.common.task import MulticlassTask

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Groups = Mapping[str, Mapping[str, MulticlassTally]]

MEANS = (
    "log_loss",
    "auroc",
    "auroc_variance",
    "auprc",
    "brier",
    "brier_squares",
    "mean_score",
)


def questions(predicted: Floats, outcome: Floats, study: Study) -> tuple[Question, ...]:
    """One: micro cell true * classes + called, of (n, classes) probabilities and (n,) classes."""
    names = _classes(study)
    size = len(names)
    table = np.arange(size * size).reshape(size, size)
    cells: dict[str, list[Ints]] = {
        "n": [table.ravel()],
        "correct": [np.diag(table), table[~np.eye(size, dtype=bool)]],
        **{f"is {name}": _in_or_not(table, k) for k, name in enumerate(names)},
        **{f"calls {name}": _called_or_not(table, k) for k, name in enumerate(names)},
        "confusion": list(table.reshape(-1, 1)),
    }
    micro = outcome.astype(np.int64) * size + _called(predicted)
    return (
        Question(
            micro,
            size * size,
            facets({name: [cell.tolist() for cell in some] for name, some in cells.items()}),
        ),
    )


def _in_or_not(table: Ints, k: int) -> list[Ints]:
    return [table[k], np.delete(table, k, axis=0).ravel()]


def _called_or_not(table: Ints, k: int) -> list[Ints]:
    """tp, fn, fp, tn."""
    others = np.delete(table, k, axis=0)
    return [
        table[k, [k]],
        np.delete(table[k], k),
        others[:, k],
        np.delete(others, k, axis=1).ravel(),
    ]


def tally(
    predicted: Floats, outcome: Floats, study: Study, hidden: Set[str], minimum_cell: int
) -> MulticlassTally:
    """Counts and scores of a group, without the hidden facets.

    Args:
        predicted: (n, classes) probabilities; of equal ones, the first class is called.
        outcome: (n,) numbers of classes, in the schema's order.
    """
    names, true, called = _classes(study), outcome.astype(np.int64), _called(predicted)
    n, size = len(true), len(names)
    table = np.bincount(true * size + called, minlength=size * size).reshape(size, size)
    decided = bool(n and minimum_cell and _undecided(predicted) < LEAST_UNDECIDED)
    decided = decided or few(predicted, minimum_cell)
    small = n < max(minimum_cell, 1)
    means = not (small or decided or {"n", *(f"is {name}" for name in names)} & hidden)
    wrong2 = ((predicted - np.eye(size)[true]) ** 2).sum(axis=1)
    return MulticlassTally(
        n=None if "n" in hidden else n,
        correct=None if "correct" in hidden else int(table.trace()),
        confusion=None if "confusion" in hidden else tuple(tuple(row) for row in table.tolist()),
        classes={
            name: _one_class(predicted[:, k], true == k, called == k, hidden, minimum_cell, name)
            for k, name in enumerate(names)
        },
        log_loss=decimals(_log_loss(predicted, true) if n else None, means, minimum_cell),
        brier=decimals(float(wrong2.mean()) if n else None, means, minimum_cell),
        brier_squares=digits(float((wrong2**2).mean()) if n else None, means, minimum_cell),
        reason=first(
            (
                (decided, DECIDED),
                (bool(hidden), hidden_reason(minimum_cell)),
                (not n, NO_PATIENTS),
            )
        ),
    )


def agree(overall: MulticlassTally, groups: Groups) -> Groups:
    """Groups without the means that one of them hides because they would be counts.

    Those of that group would follow from the total minus the others.
    """
    tallies = [tally for levels in groups.values() for tally in levels.values()]
    all_of_them = any(tally.reason == DECIDED for tally in tallies)
    of_class = {
        name for tally in tallies for name, one in tally.classes.items() if one.reason == DECIDED
    }

    def without(tally: MulticlassTally) -> MulticlassTally:
        classes = {
            name: _without_means(one) if name in of_class else one
            for name, one in tally.classes.items()
        }
        means = dict.fromkeys(("log_loss", "brier", "brier_squares")) if all_of_them else {}
        reason = tally.reason or (DECIDED if all_of_them else "")
        return tally.model_copy(update={"classes": classes, **means, "reason": reason})

    return {
        attribute: {level: without(tally) for level, tally in levels.items()}
        for attribute, levels in groups.items()
    }


def _without_means(one: BinaryTally) -> BinaryTally:
    return one.model_copy(update={**dict.fromkeys(MEANS), "reason": one.reason or DECIDED})


def _one_class(
    scores: Floats, inside: Flags, called: Flags, hidden: Set[str], minimum_cell: int, name: str
) -> BinaryTally:
    """One class against the rest."""
    n, positives = len(scores), int(inside.sum())
    tp, fp = int((inside & called).sum()), int((~inside & called).sum())
    cells = f"calls {name}" not in hidden
    counted = f"is {name}" not in hidden
    decided = telling(scores, minimum_cell)
    means = counted and not decided and min(positives, n - positives) >= minimum_cell and n > 0
    wrong2 = (scores - inside) ** 2
    return BinaryTally(
        n=None if "n" in hidden else n,
        positives=positives if counted else None,
        correct=n - fp - positives + tp if cells else None,
        tp=tp if cells else None,
        fp=fp if cells else None,
        tn=n - positives - fp if cells else None,
        fn=positives - tp if cells else None,
        log_loss=decimals(log_loss(scores, inside), means, minimum_cell),
        auroc=decimals(auroc(scores, inside), means, minimum_cell),
        auroc_variance=digits(auroc_variance(scores, inside), means, minimum_cell),
        auprc=decimals(average_precision(scores, inside), means, minimum_cell),
        brier=decimals(float(wrong2.mean()) if n else None, means, minimum_cell),
        brier_squares=digits(float((wrong2**2).mean()) if n else None, means, minimum_cell),
        mean_score=decimals(float(scores.mean()) if n else None, means, minimum_cell),
        reason=first(
            (
                (decided, DECIDED),
                (not counted or not cells, hidden_reason(minimum_cell)),
                (not n, NO_PATIENTS),
                (not positives, "no patient is in the class"),
                (positives == n, "every patient is in the class"),
            )
        ),
    )


def _classes(study: Study) -> tuple[str, ...]:
    assert isinstance(study.task, MulticlassTask)
    return study.attribute_levels(study.task.label)


def _called(predicted: Floats) -> Ints:
    called: Ints = predicted.argmax(axis=1).astype(np.int64)
    return called


def _undecided(predicted: Floats) -> float:
    """Mean over patients of 1 minus the chance that two draws agree, as p (1 - p) for two."""
    return float((1 - (predicted**2).sum(axis=1)).mean() / 2)


def _log_loss(predicted: Floats, true: Ints) -> float:
    own = predicted[np.arange(len(true)), true]
    return float(-np.log(np.clip(own, SMALLEST, 1.0)).mean())
