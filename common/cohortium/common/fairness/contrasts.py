"""One group against its reference: which sites count, what the gap is, and the verdict."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cohortium.common.evaluating import Criterion, Fairness
from cohortium.common.fairness.counts import NOBODY, NOT_SHOWN, Group, share, shows, together
from cohortium.common.fairness.gaps import (
    NO_INTERVAL,
    Gap,
    area_gap,
    calibration_gap,
    share_gap,
    varies,
)
from cohortium.common.fairness.verdicts import Contrast, EqualisedOdds, Verdict
from cohortium.common.metrics.intervals import Interval
from cohortium.common.metrics.measures import LEAST_EXPECTED

MARGINS: dict[Criterion, float] = {
    "demographic_parity": 0.05,
    "equal_opportunity": 0.05,
    "false_positive_rate": 0.05,
    "predictive_parity": 0.05,
    "accuracy": 0.05,
    "auroc": 0.03,
    "calibration": 1.25,
}
NOWHERE = "no site shows both groups"
NOISY = "its counts hold noise"
WORST: tuple[Verdict, ...] = ("GAP", "not measured", "inconclusive", "within margin")


@dataclass(frozen=True)
class Question:
    """What is compared, before anybody looks at numbers; the fields are those of `Contrast`."""

    attribute: str
    level: str
    reference: str
    criterion: Criterion
    outcome: str
    site: str | None
    primary: bool
    margin: float


@dataclass(frozen=True)
class Pair:
    """A group and its reference at one site."""

    site: str
    level: Group
    reference: Group


def margin(fairness: Fairness, criterion: Criterion) -> float:
    """The largest gap without consequence: the study's, or the default."""
    return fairness.margins.get(criterion, MARGINS[criterion])


def contrast(question: Question, pairs: Sequence[Pair]) -> Contrast:
    """Compare over the sites that show both groups for this criterion.

    A site that shows one of them only would bring its own patients' risks into one side. An AUROC
    without an error counts only where no site has one with.
    """
    shown = [pair for pair in pairs if _both(pair, question.criterion)]
    if question.criterion == "auroc":
        shown = [pair for pair in shown if varies(pair.level) and varies(pair.reference)] or shown
    if not shown:
        return not_measured(question, _why_hidden(question, pairs))
    level = together(pair.level for pair in shown)
    reference = together(pair.reference for pair in shown)
    sized = {
        "sites": tuple(pair.site for pair in shown),
        "n": level.n,
        "reference_n": reference.n,
        "base_rate": level.base_rate,
        "reference_base_rate": reference.base_rate,
    }
    empty = _why_empty(question, level, reference)
    if empty:
        return not_measured(question, empty, sized)
    return _measured(question, _gap(question, shown, level, reference), sized)


def not_measured(
    question: Question, reason: str, sized: Mapping[str, object] | None = None
) -> Contrast:
    """What cannot be compared, and why; `sized`: what is known of the groups all the same."""
    fields = {**vars(question), **(sized or {}), "verdict": "not measured", "reason": reason}
    return Contrast.model_validate(fields)


def verdict(interval: Interval | None, criterion: Criterion, margin: float) -> Verdict:
    """By where the 95% interval lies: inside the margin, wholly beyond it, or neither."""
    if interval is None:
        return "inconclusive"
    low, high = interval
    least, most = (1 / margin, margin) if criterion == "calibration" else (-margin, margin)
    if least <= low and high <= most:
        return "within margin"
    return "GAP" if low > most or high < least else "inconclusive"


def equalised_odds(contrasts: Iterable[Contrast]) -> tuple[EqualisedOdds, ...]:
    """Sensitivity and false positive rate of the same groups put together (Hardt et al. 2016)."""
    found: dict[tuple[str | None, ...], dict[Criterion, Contrast]] = {}
    for one in contrasts:
        if one.criterion in ("equal_opportunity", "false_positive_rate"):
            key = (one.attribute, one.level, one.outcome, one.site)
            found.setdefault(key, {})[one.criterion] = one
    return tuple(_odds(*both.values()) for both in found.values() if len(both) == 2)


def _odds(one: Contrast, other: Contrast) -> EqualisedOdds:
    gaps = [abs(gap) for gap in (one.gap, other.gap) if gap is not None]
    return EqualisedOdds(
        attribute=one.attribute,
        level=one.level,
        reference=one.reference,
        outcome=one.outcome,
        site=one.site,
        gap=max(gaps) if len(gaps) == 2 else None,
        verdict=min(one.verdict, other.verdict, key=WORST.index),
    )


def _both(pair: Pair, criterion: Criterion) -> bool:
    return shows(pair.level, criterion) and shows(pair.reference, criterion)


def _gap(question: Question, shown: Sequence[Pair], level: Group, reference: Group) -> Gap:
    if question.criterion == "auroc":
        return area_gap([(pair.level, pair.reference) for pair in shown], question.margin)
    if question.criterion == "calibration":
        return calibration_gap(level, reference, question.margin)
    one, other = share(level, question.criterion), share(reference, question.criterion)
    assert one is not None
    assert other is not None
    return share_gap(one, other, question.margin)


def _why_empty(question: Question, level: Group, reference: Group) -> str:
    """Why a criterion has nothing to count in a group that is shown."""
    for name, one in ((question.level, level), (question.reference, reference)):
        if not _countable(one, question.criterion):
            reason = NOBODY["accuracy"] if one.n == 0 else NOBODY[question.criterion]
            return f"{name}: {reason}"
    return ""


def _countable(group: Group, criterion: Criterion) -> bool:
    if criterion == "auroc":
        return True
    if criterion == "calibration":
        return bool(group.positives and (group.expected or 0.0) >= LEAST_EXPECTED)
    found = share(group, criterion)
    return found is not None and found.whole > 0


def _why_hidden(question: Question, pairs: Sequence[Pair]) -> str:
    if question.site is None and len(pairs) != 1:
        return NOWHERE
    for pair in pairs:
        for name, one in ((question.level, pair.level), (question.reference, pair.reference)):
            if not shows(one, question.criterion):
                return f"{name}: {_why_not_shown(one, question.criterion)}"
    return NOWHERE


def _why_not_shown(group: Group, criterion: Criterion) -> str:
    if group.n == 0:
        return NOBODY["accuracy"]
    if criterion == "auroc" and group.auroc is not None:
        return "fewer than two patients with, or without, the outcome"
    if criterion == "calibration" and group.noise:
        return NOISY
    return group.reason or NOT_SHOWN


def _measured(question: Question, gap: Gap, sized: Mapping[str, object]) -> Contrast:
    low, high = gap.interval or (None, None)
    found = {
        "of": gap.of,
        "reference_of": gap.reference_of,
        "value": gap.value,
        "reference_value": gap.reference_value,
        "gap": gap.gap,
        "low": low,
        "high": high,
        "p": gap.p,
        "detectable": gap.detectable,
        "verdict": verdict(gap.interval, question.criterion, question.margin),
        "reason": "" if gap.interval else NO_INTERVAL,
    }
    return Contrast.model_validate({**vars(question), **sized, **found})


def mean_area(groups: Sequence[Group]) -> Group:
    """Sites together, with the mean of their AUROC, in which each counts once."""
    areas = [one.auroc for one in groups if one.auroc is not None]
    variances = [one.auroc_variance for one in groups if one.auroc_variance is not None]
    known = len(areas) == len(variances) == len(groups)
    added = together(groups)
    return Group(
        **{
            **vars(added),
            "auroc": math.fsum(areas) / len(groups) if known else None,
            "auroc_variance": math.fsum(variances) / len(groups) ** 2 if known else None,
        }
    )
