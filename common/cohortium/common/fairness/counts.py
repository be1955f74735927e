"""What a group of patients brings to a comparison: sums that add up over sites."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from cohortium.common.evaluating import Criterion
from cohortium.common.metrics.tallies import BinaryTally

ADDED = ("n", "positives", "correct", "tp", "fp", "tn", "fn")
SHARES: dict[Criterion, tuple[tuple[str, ...], tuple[str, ...]]] = {  # counted, and the rest
    "demographic_parity": (("tp", "fp"), ("tn", "fn")),
    "equal_opportunity": (("tp",), ("fn",)),
    "false_positive_rate": (("fp",), ("tn",)),
    "predictive_parity": (("tp",), ("fp",)),
    "accuracy": (("tp", "tn"), ("fp", "fn")),
}
NOBODY: dict[Criterion, str] = {
    "demographic_parity": "no patients",
    "equal_opportunity": "no patient has the outcome",
    "false_positive_rate": "every patient has the outcome",
    "predictive_parity": "no patient is called positive",
    "accuracy": "no patients",
    "auroc": "all patients have the outcome, or none has",
    "calibration": "no patient has the outcome",
}
NOT_SHOWN = "not shown"


@dataclass(frozen=True)
class Group:
    """One group at one site, or at several; None is not shown, and `reason` says why.

    expected: sum of the scores. auroc, auroc_variance: within one site. noise: variance of the
    noise in each of tp, fp, tn and fn.
    """

    n: int | None = None
    positives: int | None = None
    correct: int | None = None
    tp: int | None = None
    fp: int | None = None
    tn: int | None = None
    fn: int | None = None
    expected: float | None = None
    auroc: float | None = None
    auroc_variance: float | None = None
    noise: float = 0.0
    reason: str = ""

    @property
    def base_rate(self) -> float | None:
        """The share with the outcome."""
        if not self.n or self.positives is None:
            return None
        return min(1.0, self.positives / self.n)


@dataclass(frozen=True)
class Share:
    """`part` of `whole` patients, and the variance of the noise in `part` and in the rest."""

    part: int
    whole: int
    part_noise: float = 0.0
    rest_noise: float = 0.0

    @property
    def value(self) -> float:
        return self.part / self.whole


def group(tally: BinaryTally, noise_std: float = 0.0) -> Group:
    """What one site shows of one group."""
    counts = {name: getattr(tally, name) for name in ADDED}
    return Group(
        **counts,
        expected=_expected(tally),
        auroc=tally.auroc,
        auroc_variance=tally.auroc_variance,
        noise=noise_std**2,
        reason=tally.reason,
    )


def together(groups: Iterable[Group]) -> Group:
    """Groups of different patients as one; what one of them does not show is not shown.

    Counts are exact in any order. AUROC compares patients within a site and is not added up.
    """
    found = list(groups)
    counts = {name: _sum([getattr(one, name) for one in found]) for name in ADDED}
    expected = [one.expected for one in found if one.expected is not None]
    return Group(
        **counts,
        expected=math.fsum(expected) if len(expected) == len(found) else None,
        noise=math.fsum(one.noise for one in found),
        reason=next((one.reason for one in found if one.reason), ""),
    )


def shows(group: Group, criterion: Criterion) -> bool:
    """Whether everything that the criterion counts is there; zero is."""
    if criterion == "auroc":
        return group.auroc is not None and group.auroc_variance is not None
    if criterion == "calibration":
        return None not in (group.n, group.positives, group.expected) and not group.noise
    return share(group, criterion) is not None


def share(group: Group, criterion: Criterion) -> Share | None:
    """Numerator and denominator of a criterion that is a proportion, or None if not shown."""
    part, rest = (_sum([getattr(group, cell) for cell in cells]) for cells in SHARES[criterion])
    coarse = criterion == "accuracy" and not group.noise
    if coarse and group.n is not None and group.correct is not None:
        part, rest = group.correct, group.n - group.correct
    if part is None or rest is None:
        return None
    in_part, in_rest = (len(cells) * group.noise for cells in SHARES[criterion])
    return Share(part, part + rest, in_part, in_rest)


def _expected(tally: BinaryTally) -> float | None:
    if tally.n == 0:
        return 0.0
    return None if tally.n is None or tally.mean_score is None else tally.n * tally.mean_score


def _sum(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
