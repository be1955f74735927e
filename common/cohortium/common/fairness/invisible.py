"""Groups that nobody can see: hidden, without patients, or not recorded."""

from collections.abc import Iterator, Mapping, Sequence

from cohortium.common.fairness.attributes import Attribute
from cohortium.common.fairness.verdicts import Invisible
from cohortium.common.metrics.tallies import (
    UNKNOWN,
    BinaryTally,
    MulticlassTally,
    MultilabelTally,
    SiteEvaluation,
    Tally,
)

NO_EVALUATION = "the site sent no evaluation"
NOBODY = "no patients"


def invisible(
    attributes: Sequence[Attribute],
    sites: Sequence[str],
    evaluations: Mapping[str, SiteEvaluation],
) -> tuple[Invisible, ...]:
    """Every declared level at every site of the study where its results cannot be seen.

    A level that is invisible at all sites comes first, with `site` None. Patients whose attribute
    is unknown are listed too: to which group they belong, nobody can see.
    """
    found: list[Invisible] = []
    for attribute in attributes:
        for level in attribute.levels:
            found += _level(attribute, level, sites, evaluations)
        found += _unknown(attribute, sites, evaluations)
    return tuple(found)


def _level(
    attribute: Attribute,
    level: str,
    sites: Sequence[str],
    evaluations: Mapping[str, SiteEvaluation],
) -> Iterator[Invisible]:
    reasons = {site: _why(attribute, level, evaluations.get(site)) for site in sites}
    hidden = {site: reason for site, reason in reasons.items() if reason}
    if len(hidden) == len(sites):
        yield Invisible(attribute=attribute.name, level=level, site=None, reason="seen at no site")
    for site, reason in hidden.items():
        yield Invisible(attribute=attribute.name, level=level, site=site, reason=reason)


def _why(attribute: Attribute, level: str, evaluation: SiteEvaluation | None) -> str:
    """Why a level cannot be seen at a site; empty if it can."""
    if evaluation is None:
        return NO_EVALUATION
    levels = evaluation.groups.get(attribute.name)
    if levels is None:
        return f"the site sends no results by {attribute.name}"
    if _unrecorded(attribute, levels):
        return f"the site records {attribute.name} for nobody"
    tally = levels.get(level)
    if tally is None or tally.n == 0:
        return NOBODY
    return "" if _seen(tally) else tally.reason or "hidden"


def _unrecorded(attribute: Attribute, levels: Mapping[str, Tally]) -> bool:
    return UNKNOWN in levels and all(
        level in levels and levels[level].n == 0 for level in attribute.levels if level != UNKNOWN
    )


def _seen(tally: Tally) -> bool:
    """Whether anything of a group's results is shown, not only how many it holds."""
    if isinstance(tally, BinaryTally):
        return tally.correct is not None or tally.tp is not None
    if isinstance(tally, MulticlassTally):
        return tally.correct is not None or any(map(_seen, tally.classes.values()))
    if isinstance(tally, MultilabelTally):
        return tally.all_right is not None or any(map(_seen, tally.labels.values()))
    return tally.n is not None


def _unknown(
    attribute: Attribute, sites: Sequence[str], evaluations: Mapping[str, SiteEvaluation]
) -> Iterator[Invisible]:
    if UNKNOWN in attribute.levels:
        return
    for site in sites:
        tally = (
            evaluations[site].groups.get(attribute.name, {}).get(UNKNOWN)
            if site in evaluations
            else None
        )
        if tally is not None and tally.n != 0:
            count = f"{tally.n}" if tally.n is not None else "a hidden number of"
            reason = f"{attribute.name} is not recorded for {count} patients"
            yield Invisible(attribute=attribute.name, level=UNKNOWN, site=site, reason=reason)
