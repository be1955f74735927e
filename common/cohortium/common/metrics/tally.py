"""What a site counts on its held-out patients, overall and by level of each fairness attribute."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cohortium.common.errors import ProtocolError
from cohortium.common.metrics.auroc import auroc, auroc_variance
from cohortium.common.metrics.tallies import BinaryTally, Called, SiteEvaluation
from cohortium.common.study import Study

SMALLEST = 1e-7  # scores are kept this far from 0 and 1 in the log-loss, about float32's resolution
UNKNOWN = "unknown"  # the level of patients whose attribute is missing

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def measure(
    scores: NDArray[np.float32] | NDArray[np.float64],
    labels: NDArray[np.float32] | NDArray[np.float64],
    attributes: Mapping[str, NDArray[np.int16]],
    study: Study,
) -> SiteEvaluation:
    """Count what is right and wrong; nothing is hidden yet (see `disclosure.suppress`).

    Args:
        scores: (n,) probabilities of the positive class.
        labels: (n,) 1.0 or 0.0.
        attributes: (n,) per fairness attribute: level, -1 unknown.

    Raises:
        ProtocolError: a score is no probability: the model that was sent is broken.
    """
    wide = scores.astype(np.float64)
    if not ((wide >= 0) & (wide <= 1)).all():
        raise ProtocolError("the model gives scores that are no probabilities: training diverged")
    positive, thresholds = labels > 0.5, study.evaluation.thresholds
    groups = {
        name: {
            level: _tally(wide[rows], positive[rows], thresholds)
            for level, rows in _members(levels, study.attribute_levels(name)).items()
        }
        for name, levels in attributes.items()
    }
    return SiteEvaluation(overall=_tally(wide, positive, thresholds), groups=groups)


def _members(levels: NDArray[np.int16], names: tuple[str, ...]) -> dict[str, Flags]:
    members = {name: levels == place for place, name in enumerate(names)}
    if (levels < 0).any():
        members[UNKNOWN] = (levels < 0) | members.get(UNKNOWN, False)
    return members


def _tally(scores: Floats, positive: Flags, thresholds: tuple[float, ...]) -> BinaryTally:
    n, positives = len(scores), int(positive.sum())
    first, *further = (_called(scores > threshold, positive) for threshold in thresholds)
    tn, fn = n - positives - first.fp, positives - first.tp
    wrong2 = (scores - positive) ** 2
    return BinaryTally(
        n=n,
        positives=positives,
        correct=first.tp + tn,
        tp=first.tp,
        fp=first.fp,
        tn=tn,
        fn=fn,
        log_loss=_log_loss(scores, positive),
        auroc=auroc(scores, positive),
        auroc_variance=auroc_variance(scores, positive),
        brier=float(wrong2.mean()) if n else None,
        brier_squares=float((wrong2**2).mean()) if n else None,
        mean_score=float(scores.mean()) if n else None,
        undecided=float((scores * (1 - scores)).mean()) if n else None,
        further=tuple(further),
        reason=_why_unmeasurable(n, positives),
    )


def _called(above: Flags, positive: Flags) -> Called:
    return Called(tp=int((above & positive).sum()), fp=int((above & ~positive).sum()))


def _log_loss(scores: Floats, positive: Flags) -> float | None:
    if not len(scores):
        return None
    inside = np.clip(scores, SMALLEST, 1 - SMALLEST)
    return float(-np.log(np.where(positive, inside, 1 - inside)).mean())


def _why_unmeasurable(n: int, positives: int) -> str:
    if not n:
        return "no patients"
    if not positives:
        return "no patient has the outcome"
    return "every patient has the outcome" if positives == n else ""
