"""What a site counts of patients with a yes or no outcome, and what of it it may show.

Facets:

    n            n
    positives    positives, negatives
    correct      rightly, wrongly called at the study's first threshold
    confusion    tp, fp, tn, fn at that threshold
    threshold k  patients with, and without, the outcome between every two neighbours of the
                 study's first k thresholds, which follow from the counts above each
    bins b       patients with, and without, the outcome in b equal bins of the score; b = 2, 4, 8

AUROC and means of the scores are shown, rounded to 3 decimals (what only says how precise they are,
to 3 digits), where positives and negatives are both shown and at least `minimum_cell`; nowhere if
the scores are nearly all 0 or 1, whose squared error would be the count of mistakes, or take few
different values, as of a model of sex alone, whose mean would be the count of women.
"""

from collections.abc import Iterable, Mapping, Set
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cohortium.common.metrics import calibration
from cohortium.common.metrics.auprc import average_precision
from cohortium.common.metrics.auroc import auroc, auroc_variance
from cohortium.common.metrics.cube import Question, facets
from cohortium.common.metrics.showing import (
    DECIDED,
    NO_PATIENTS,
    certain,
    decimals,
    digits,
    few,
    first,
    hidden_reason,
    telling,
)
from cohortium.common.metrics.tallies import BinaryTally, Bins, Calibration, Called
from cohortium.common.study import Study
from cohortium.common.task import BinaryTask

SMALLEST = 1e-7  # scores are kept this far from 0 and 1 in the log-loss, about float32's resolution
BINS = (2, 4, 8)

MEANS = (
    "log_loss",
    "auroc",
    "auroc_variance",
    "auprc",
    "brier",
    "brier_squares",
    "mean_score",
    "undecided",
    "calibration",
)

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Groups = Mapping[str, Mapping[str, BinaryTally]]


def questions(predicted: Floats, outcome: Floats, study: Study) -> tuple[Question, ...]:
    """One: outcome x interval of the score, cut at every threshold and every edge of a bin.

    Args:
        predicted: (n,) probabilities of the outcome; one that equals a cut lies below it.
        outcome: (n,) 1.0 or 0.0.
    """
    thresholds, edges = study.evaluation.thresholds, _edges(study)
    cuts = sorted({*thresholds, *(edge for some in edges.values() for edge in some)})
    above = {cut: [k for k in range(len(cuts) + 1) if k > place] for place, cut in enumerate(cuts)}
    width = len(cuts) + 1
    everyone = list(range(width))
    over = set(above[thresholds[0]])
    under = [k for k in everyone if k not in over]
    called = [*sorted(over)], under
    cells: dict[str, list[list[int]]] = {
        "n": [list(range(2 * width))],
        "positives": [_ill(everyone, width), everyone],
        "correct": [_ill(called[0], width) + called[1], called[0] + _ill(called[1], width)],
        "confusion": [_ill(called[0], width), called[0], called[1], _ill(called[1], width)],
    }
    for k in range(2, len(thresholds) + 1):
        cells[f"threshold {k}"] = _between(thresholds[:k], above, width)
    for count, some in edges.items():
        cells[f"bins {count}"] = _between(some, above, width)
    micro = np.searchsorted(cuts, predicted, side="left") + width * (outcome > 0.5)
    shared = tuple(2 * (k >= width) + (k % width in over) for k in range(2 * width))
    return (Question(micro.astype(np.int64), 2 * width, facets(cells), shared),)


def _ill(places: Iterable[int], width: int) -> list[int]:
    """The micro cells, with the outcome, of intervals of the score."""
    return [width + k for k in places]


def _between(
    cuts: Iterable[float], above: Mapping[float, list[int]], width: int
) -> list[list[int]]:
    """With, and without, the outcome, between every two neighbouring cuts."""
    falling = [list(range(width)), *(above[cut] for cut in sorted(cuts)), []]
    parts = [[k for k in more if k not in fewer] for more, fewer in pairwise(falling)]
    return [_ill(part, width) for part in parts] + parts


def _edges(study: Study) -> dict[int, tuple[float, ...]]:
    """The inner edges of each number of bins; none where the study wants no curves."""
    if not (study.evaluation.curves and isinstance(study.task, BinaryTask)):
        return {}
    return {count: tuple(k / count for k in range(1, count)) for count in BINS}


def tally(
    predicted: Floats, outcome: Floats, study: Study, hidden: Set[str], minimum_cell: int
) -> BinaryTally:
    """Counts and scores of a group, without the hidden facets; arguments as in `questions`."""
    positive, thresholds = outcome > 0.5, study.evaluation.thresholds
    n, positives = len(predicted), int(positive.sum())
    at_first, *further = (_called(predicted > threshold, positive) for threshold in thresholds)
    tn, fn = n - positives - at_first.fp, positives - at_first.tp
    undecided = float((predicted * (1 - predicted)).mean()) if n else None
    enough = min(positives, n - positives) >= minimum_cell and "positives" not in hidden
    decided = certain(predicted, minimum_cell) or (enough and few(predicted, minimum_cell))
    means = bool(n and enough and not decided)
    wrong2 = (predicted - positive) ** 2
    confusion = "confusion" not in hidden
    return BinaryTally(
        n=None if "n" in hidden else n,
        positives=None if "positives" in hidden else positives,
        correct=None if "correct" in hidden else at_first.tp + tn,
        tp=at_first.tp if confusion else None,
        fp=at_first.fp if confusion else None,
        tn=tn if confusion else None,
        fn=fn if confusion else None,
        log_loss=decimals(log_loss(predicted, positive), means, minimum_cell),
        auroc=decimals(auroc(predicted, positive), means, minimum_cell),
        auroc_variance=digits(auroc_variance(predicted, positive), means, minimum_cell),
        auprc=decimals(average_precision(predicted, positive), means, minimum_cell),
        brier=decimals(float(wrong2.mean()) if n else None, means, minimum_cell),
        brier_squares=digits(float((wrong2**2).mean()) if n else None, means, minimum_cell),
        mean_score=decimals(float(predicted.mean()) if n else None, means, minimum_cell),
        undecided=undecided if not minimum_cell else None,
        further=tuple(further[: _further_shown(hidden, len(further))]),
        bins=_bins(predicted, positive, study, hidden, minimum_cell),
        calibration=_calibration(predicted, positive, minimum_cell) if means else None,
        reason=first(
            (
                (decided, DECIDED),
                (bool(hidden - _finer_bins()), hidden_reason(minimum_cell)),
                (not n, NO_PATIENTS),
                (not positives, "no patient has the outcome"),
                (positives == n, "every patient has the outcome"),
            )
        ),
    )


def agree(overall: BinaryTally, groups: Groups) -> Groups:
    """Groups without the means that one of them hides because they would be counts.

    Those of that group would follow from the total minus the others.
    """
    if not any(one.reason == DECIDED for levels in groups.values() for one in levels.values()):
        return groups
    return {
        attribute: {level: _without_means(one) for level, one in levels.items()}
        for attribute, levels in groups.items()
    }


def _without_means(one: BinaryTally) -> BinaryTally:
    changes: dict[str, object] = {**dict.fromkeys(MEANS), "reason": one.reason or DECIDED}
    if one.bins is not None:
        changes["bins"] = one.bins.model_copy(update={"mean_score": (None,) * len(one.bins.n)})
    return one.model_copy(update=changes)


def log_loss(scores: Floats, positive: Flags) -> float | None:
    """Mean binary cross-entropy in nats, None of nobody."""
    if not len(scores):
        return None
    inside = np.clip(scores, SMALLEST, 1 - SMALLEST)
    return float(-np.log(np.where(positive, inside, 1 - inside)).mean())


def _called(above: Flags, positive: Flags) -> Called:
    return Called(tp=int((above & positive).sum()), fp=int((above & ~positive).sum()))


def _further_shown(hidden: Set[str], further: int) -> int:
    """Those before the first that is hidden."""
    return next((k for k in range(further) if f"threshold {k + 2}" in hidden), further)


def _finer_bins() -> frozenset[str]:
    """Coarser bins are no loss that needs a reason."""
    return frozenset(f"bins {count}" for count in BINS)


def _bins(
    predicted: Floats, positive: Flags, study: Study, hidden: Set[str], minimum_cell: int
) -> Bins | None:
    """The finest bins that are shown."""
    edges = _edges(study)
    shown = [count for count in edges if f"bins {count}" not in hidden]
    if not shown or not len(predicted):
        return None
    count = max(shown)
    place = np.searchsorted(edges[count], predicted, side="left")
    n = np.bincount(place, minlength=count)
    means = [float(predicted[place == k].mean()) if n[k] else None for k in range(count)]
    vague = not telling(predicted, minimum_cell)
    return Bins(
        n=tuple(n.tolist()),
        positives=tuple(np.bincount(place[positive], minlength=count).tolist()),
        mean_score=tuple(decimals(mean, vague, minimum_cell) for mean in means),
    )


def _calibration(predicted: Floats, positive: Flags, minimum_cell: int) -> Calibration | None:
    fit = calibration.site_fit(predicted, positive)
    return None if fit is None else calibration.shown(fit, minimum_cell)
