"""What the evaluations of all sites say together: per site, on average, and per group."""

import math
from collections.abc import Callable, Iterable, Mapping

from cohortium.common.document import Document
from cohortium.common.metrics.intervals import wilson
from cohortium.common.metrics.tallies import BinaryTally, SiteEvaluation


class SiteScores(Document):
    """One site's results; None where the site cannot or may not show them, with its `reason`.

    `majority` is the accuracy of always answering the site's more frequent class: any model must
    be read against it.
    """

    n: int | None
    accuracy: float | None
    auroc: float | None
    log_loss: float | None
    majority: float | None
    reason: str


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
    """Everything a report starts from."""

    sites: Mapping[str, SiteScores]
    accuracy: Mean
    auroc: Mean
    log_loss: Mean
    majority: Mean
    groups: tuple[GroupSummary, ...]


Counts = tuple[int | None, int | None]  # how many, of how many


def summarise(evaluations: Mapping[str, SiteEvaluation]) -> Summary:
    """Put the sites' evaluations together; what a site hides is left out, never read as 0."""
    sites = {site: _scores(evaluation.overall) for site, evaluation in evaluations.items()}
    rows = list(sites.values())
    return Summary(
        sites=sites,
        accuracy=_mean((row.accuracy, row.n) for row in rows),
        auroc=_mean((row.auroc, row.n) for row in rows),
        log_loss=_mean((row.log_loss, row.n) for row in rows),
        majority=_mean((row.majority, row.n) for row in rows),
        groups=tuple(_group(*key, tallies) for key, tallies in _by_group(evaluations).items()),
    )


def _scores(tally: BinaryTally) -> SiteScores:
    return SiteScores(
        n=tally.n,
        accuracy=_ratio(tally.correct, tally.n),
        auroc=tally.auroc,
        log_loss=tally.log_loss,
        majority=_majority(tally),
        reason=tally.reason,
    )


def _majority(tally: BinaryTally) -> float | None:
    share = _ratio(tally.positives, tally.n)
    return None if share is None else max(share, 1 - share)


def _ratio(part: int | None, whole: int | None) -> float | None:
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
) -> dict[tuple[str, str], list[BinaryTally]]:
    found: dict[tuple[str, str], list[BinaryTally]] = {}
    for evaluation in evaluations.values():
        for attribute, levels in evaluation.groups.items():
            for level, tally in levels.items():
                found.setdefault((attribute, level), []).append(tally)
    return found


def _group(attribute: str, level: str, tallies: list[BinaryTally]) -> GroupSummary:
    return GroupSummary(
        attribute=attribute,
        level=level,
        accuracy=_rate(tallies, lambda tally: (tally.correct, tally.n)),
        sensitivity=_rate(tallies, lambda tally: (tally.tp, tally.positives)),
        selection_rate=_rate(tallies, lambda tally: (_called(tally), tally.n)),
        sites=len(tallies),
    )


def _called(tally: BinaryTally) -> int | None:
    return None if tally.tp is None or tally.fp is None else tally.tp + tally.fp


def _rate(tallies: list[BinaryTally], counts: Callable[[BinaryTally], Counts]) -> Rate:
    """Pool the sites that show both counts; unknown where they have nobody to count."""
    pairs = [counts(tally) for tally in tallies]
    shown = [(part, whole) for part, whole in pairs if part is not None and whole is not None]
    part, whole = sum(part for part, _ in shown), sum(whole for _, whole in shown)
    low, high = wilson(part, whole) if whole else (None, None)
    return Rate(value=_ratio(part, whole), low=low, high=high, of=whole, sites_shown=len(shown))
