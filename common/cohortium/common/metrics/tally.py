"""What a site counts on its held-out patients, overall and by level of each fairness attribute."""

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cohortium.common.document import Document
from cohortium.common.errors import ProtocolError
from cohortium.common.metrics.auroc import auroc
from cohortium.common.study import Study

THRESHOLD = 0.5  # a score above it is called positive
SMALLEST = 1e-7  # scores are kept this far from 0 and 1 in the log-loss, about float32's resolution
UNKNOWN = "unknown"  # the level of patients whose attribute is missing

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

Count = Annotated[int, Field(ge=0)] | None


class BinaryTally(Document):
    """One group of patients at threshold 0.5. None is unknown: not measurable, or not shown.

    The counts add up over sites and groups. `log_loss` is the mean binary cross-entropy in nats
    (times n it adds up), `auroc` compares patients of this site and group only, `reason` says why
    something is None.
    """

    n: Count
    positives: Count
    correct: Count
    tp: Count
    fp: Count
    tn: Count
    fn: Count
    log_loss: Annotated[float, Field(ge=0)] | None
    auroc: Annotated[float, Field(ge=0, le=1)] | None
    reason: str = ""


class SiteEvaluation(Document):
    """The body of an evaluation message: all patients, and `groups[attribute][level]`.

    Every declared level is there, even without patients; `unknown` only where some are.
    """

    overall: BinaryTally
    groups: Mapping[str, Mapping[str, BinaryTally]]


def measure(
    scores: NDArray[np.float32] | NDArray[np.float64],
    labels: NDArray[np.float32],
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
    positive = labels > THRESHOLD
    groups = {
        name: _by_level(wide, positive, levels, study.attribute_levels(name))
        for name, levels in attributes.items()
    }
    return SiteEvaluation(overall=_tally(wide, positive), groups=groups)


def _by_level(
    scores: Floats, positive: Flags, levels: NDArray[np.int16], names: tuple[str, ...]
) -> dict[str, BinaryTally]:
    members = {name: levels == place for place, name in enumerate(names)}
    if (levels < 0).any():
        members[UNKNOWN] = (levels < 0) | members.get(UNKNOWN, False)
    return {name: _tally(scores[rows], positive[rows]) for name, rows in members.items()}


def _tally(scores: Floats, positive: Flags) -> BinaryTally:
    called = scores > THRESHOLD
    positives = int(positive.sum())
    tp, fp = int((called & positive).sum()), int((called & ~positive).sum())
    tn, fn = len(scores) - positives - fp, positives - tp
    return BinaryTally(
        n=len(scores),
        positives=positives,
        correct=tp + tn,
        tp=tp,
        fp=fp,
        tn=tn,
        fn=fn,
        log_loss=_log_loss(scores, positive),
        auroc=auroc(scores, positive),
        reason=_why_unmeasurable(len(scores), positives),
    )


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
