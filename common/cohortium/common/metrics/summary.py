"""What the evaluations of all sites say together: per site, on average, and per group."""

import math
from collections.abc import Callable, Iterable, Mapping

from cohortium.common.document import Document
from cohortium.common.metrics.intervals import wilson
from cohortium.common.metrics.tallies import (
    BinaryTally,
    ContactsTally,
    LabellingTally,
    MulticlassTally,
    MultilabelTally,
    ReconstructionTally,
    RegressionTally,
    SiteEvaluation,
    SurvivalTally,
    Tally,
)


class SiteScores(Document):
    """One site's results; None where the site cannot or may not show them, with its `reason`.

    `accuracy` of several labels is of patients with all of them right. `majority` is the accuracy
    of always answering the site's most frequent class: any model must be read against it.
    `headline` holds what this kind of outcome is followed by, the foremost first.
    """

    n: int | None
    accuracy: float | None
    auroc: float | None
    log_loss: float | None
    majority: float | None
    reason: str
    headline: Mapping[str, float | None] = {}


class Mean(Document):
    """A measure over sites: each site counts once, or by its patients; over `sites` of them.

    `weighted` is over those of them that also show n.
    """

    unweighted: float | None
    weighted: float | None
    sites: int


class Rate(Document):
    """A proportion of pooled counts, its Wilson 95% interval, and how many sites show theirs."""

    value: float | None
    low: float | None
    high: float | None
    of: int
    sites_shown: int


class GroupSummary(Document):
    """One level of an attribute over all sites that know the attribute (`sites` of them)."""

    attribute: str
    level: str
    accuracy: Rate
    sensitivity: Rate
    selection_rate: Rate
    sites: int


class Summary(Document):
    """Everything a report starts from.

    `headline`: over sites, the measures that this kind of outcome is followed by from round to
    round, the foremost first.
    """

    sites: Mapping[str, SiteScores]
    accuracy: Mean
    auroc: Mean
    log_loss: Mean
    majority: Mean
    groups: tuple[GroupSummary, ...]
    headline: Mapping[str, Mean] = {}


Counts = tuple[int | None, int | None]  # how many, of how many


def summarise(evaluations: Mapping[str, SiteEvaluation]) -> Summary:
    """Put the sites' evaluations together; what a site hides is left out, never read as 0."""
    sites = {site: _scores(evaluation.overall) for site, evaluation in evaluations.items()}
    rows = list(sites.values())
    measures = dict.fromkeys(name for row in rows for name in row.headline)
    return Summary(
        sites=sites,
        accuracy=_mean((row.accuracy, row.n) for row in rows),
        auroc=_mean((row.auroc, row.n) for row in rows),
        log_loss=_mean((row.log_loss, row.n) for row in rows),
        majority=_mean((row.majority, row.n) for row in rows),
        groups=tuple(_group(*key, tallies) for key, tallies in _by_group(evaluations).items()),
        headline={
            name: _mean((row.headline.get(name), row.n) for row in rows) for name in measures
        },
    )


def _scores(tally: Tally) -> SiteScores:
    headline = _headline(tally)
    return SiteScores(
        n=tally.n,
        accuracy=headline.get("accuracy"),
        auroc=headline.get("auroc"),
        log_loss=headline.get("log_loss"),
        majority=_majority(tally),
        reason=tally.reason,
        headline=headline,
    )


def _headline(tally: Tally) -> dict[str, float | None]:
    match tally:
        case BinaryTally():
            accuracy = _ratio(tally.correct, tally.n)
            return {"log_loss": tally.log_loss, "auroc": tally.auroc, "accuracy": accuracy}
        case MulticlassTally():
            return {"log_loss": tally.log_loss, "accuracy": _ratio(tally.correct, tally.n)}
        case MultilabelTally():
            return {"log_loss": tally.log_loss, "accuracy": _ratio(tally.all_right, tally.n)}
        case RegressionTally():
            root = None if tally.squared is None else math.sqrt(tally.squared)
            return {"mae": tally.absolute, "rmse": root, "r2": _r2(tally)}
        case SurvivalTally():
            last = tally.horizons[-1].brier if tally.horizons else None
            return {"concordance": _ratio(tally.concordant, tally.pairs), "brier": last}
        case LabellingTally():
            return {"log_loss": tally.log_loss, "accuracy": tally.right}
        case ContactsTally():
            precisions = {"precision_l5": tally.fifth, "precision_l": tally.top}
            return {**precisions, "auroc": tally.auroc}
        case ReconstructionTally():
            lost = _ratio(tally.squared, tally.spread)
            explained = None if lost is None else 1 - lost
            return {"mse": tally.squared, "variance_explained": explained}


def _r2(tally: RegressionTally) -> float | None:
    if tally.squared is None or tally.outcome is None or tally.outcome2 is None:
        return None
    variance = tally.outcome2 - tally.outcome**2
    return 1 - tally.squared / variance if variance > 0 else None


def _majority(tally: Tally) -> float | None:
    if isinstance(tally, BinaryTally):
        share = _ratio(tally.positives, tally.n)
        return None if share is None else max(share, 1 - share)
    if isinstance(tally, MulticlassTally):
        shares = [_ratio(one.positives, tally.n) for one in tally.classes.values()]
        return _largest(shares)
    if isinstance(tally, LabellingTally):
        return _largest([state.true for state in tally.states.values()])
    return None


def _largest(shares: list[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return max(known) if known and len(known) == len(shares) else None


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _mean(values: Iterable[tuple[float | None, int | None]]) -> Mean:
    known = [(value, n) for value, n in values if value is not None]
    sized = [(value, n) for value, n in known if n]
    patients = sum(n for _, n in sized)
    return Mean(
        unweighted=math.fsum(value for value, _ in known) / len(known) if known else None,
        weighted=math.fsum(value * n for value, n in sized) / patients if patients else None,
        sites=len(known),
    )


def _by_group(
    evaluations: Mapping[str, SiteEvaluation],
) -> dict[tuple[str, str], list[Tally]]:
    found: dict[tuple[str, str], list[Tally]] = {}
    for evaluation in evaluations.values():
        for attribute, levels in evaluation.groups.items():
            for level, tally in levels.items():
                found.setdefault((attribute, level), []).append(tally)
    return found


def _group(attribute: str, level: str, tallies: list[Tally]) -> GroupSummary:
    return GroupSummary(
        attribute=attribute,
        level=level,
        accuracy=_rate(tallies, _right),
        sensitivity=_rate(tallies, _found),
        selection_rate=_rate(tallies, _called),
        sites=len(tallies),
    )


def _right(tally: Tally) -> Counts:
    match tally:
        case BinaryTally() | MulticlassTally():
            return tally.correct, tally.n
        case MultilabelTally():
            return tally.all_right, tally.n
        case _:
            return None, None


def _found(tally: Tally) -> Counts:
    return (tally.tp, tally.positives) if isinstance(tally, BinaryTally) else (None, None)


def _called(tally: Tally) -> Counts:
    if not isinstance(tally, BinaryTally) or tally.tp is None or tally.fp is None:
        return None, None
    return tally.tp + tally.fp, tally.n


def _rate(tallies: list[Tally], counts: Callable[[Tally], Counts]) -> Rate:
    """Pool the sites that show both counts; unknown where they have nobody to count.

    Of counts that hold noise, no more than all are counted.
    """
    pairs = [counts(tally) for tally in tallies]
    shown = [(part, whole) for part, whole in pairs if part is not None and whole is not None]
    whole = sum(whole for _, whole in shown)
    part = min(whole, sum(part for part, _ in shown))
    low, high = wilson(part, whole) if whole else (None, None)
    return Rate(value=_ratio(part, whole), low=low, high=high, of=whole, sites_shown=len(shown))
