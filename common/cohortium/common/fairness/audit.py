"""The fairness audit across sites: from the counts that sites send, never from patients.

Every declared attribute, every declared pair of them, and the site itself; over the sites that show
both groups, and at each site. What cannot be measured is said, with the reason.
"""

from collections.abc import Iterator, Mapping, Sequence

from cohortium.common.evaluating import Criterion
from cohortium.common.fairness.adjust import benjamini_hochberg, holm
from cohortium.common.fairness.attributes import (
    OTHERS,
    SITE,
    WHOLE,
    Attribute,
    declared,
    groups,
    overall,
    with_unknown,
)
from cohortium.common.fairness.contrasts import (
    MARGINS,
    Pair,
    Question,
    contrast,
    equalised_odds,
    margin,
    mean_area,
    not_measured,
)
from cohortium.common.fairness.counts import SHARES, Group, shows
from cohortium.common.fairness.extremes import extreme, extreme_site
from cohortium.common.fairness.invisible import invisible
from cohortium.common.fairness.verdicts import Contrast, Extreme, FairnessAudit
from cohortium.common.metrics.tallies import SiteEvaluation
from cohortium.common.study import Study
from cohortium.common.task import BinaryTask, MulticlassTask, MultilabelTask

Evaluations = Mapping[str, SiteEvaluation]
Asked = tuple[str, Criterion]  # outcome and criterion

NO_OTHER = Group(reason="no other site shows it")
CRITERIA: tuple[Criterion, ...] = tuple(MARGINS)
NO_CALLS = "a gap is measured where the outcome is yes or no, or one of several classes"


def audit(study: Study, evaluations: Evaluations) -> FairnessAudit:
    """Compare groups within and across sites, by the study's attributes, criteria and margins.

    All levels of an attribute are compared with its reference, a site with all others together. Of
    several classes or labels, each is a yes or no question of its own. `unknown` is compared like a
    level where a site has such patients, but is never primary.

    Args:
        evaluations: by site, of the final model; their order does not matter.
    """
    shown = {site: evaluations[site] for site in _names(study, evaluations) if site in evaluations}
    attributes, asked = declared(study), _asked(study)
    found = [c for a in attributes for c in _contrasts(study, shown, a, asked)]
    contrasts = _adjusted([*found, *_site_contrasts(study, shown, asked)])
    return FairnessAudit(
        contrasts=contrasts,
        equalised_odds=equalised_odds(contrasts),
        extremes=tuple(_extremes(study, shown, attributes, asked)),
        invisible=invisible(attributes, _names(study, evaluations), shown),
    )


def _names(study: Study, evaluations: Evaluations) -> tuple[str, ...]:
    """The study's sites in its order."""
    others = sorted(set(evaluations) - set(study.sites.names))
    return (*study.sites.names, *others)


def _asked(study: Study) -> tuple[Asked, ...]:
    """Every outcome that is called, with the criteria that mean something for it."""
    task = study.task
    if isinstance(task, BinaryTask):
        return tuple((WHOLE, criterion) for criterion in CRITERIA)
    if isinstance(task, MultilabelTask):
        return tuple((label, criterion) for label in task.labels for criterion in CRITERIA)
    if isinstance(task, MulticlassTask):
        classes = study.attribute_levels(task.label)
        of_one = [criterion for criterion in CRITERIA if criterion != "accuracy"]
        return ((WHOLE, "accuracy"), *((code, c) for code in classes for c in of_one))
    return ()


def _contrasts(
    study: Study, shown: Evaluations, attribute: Attribute, asked: Sequence[Asked]
) -> Iterator[Contrast]:
    """Every level against the reference, over all sites and at each."""
    compared = [one for one in with_unknown(attribute, shown) if one != attribute.reference]
    if not asked:
        for level in compared:
            asking = (WHOLE, study.fairness.primary)
            yield not_measured(_question(study, attribute, level, asking, None), NO_CALLS)
    outcomes = tuple(dict.fromkeys(outcome for outcome, _ in asked))
    references = _by_site(shown, attribute, attribute.reference, outcomes)
    for level in compared:
        levels = _by_site(shown, attribute, level, outcomes)
        for asking in asked:
            pairs = [
                Pair(site, levels[site][asking[0]], references[site][asking[0]]) for site in shown
            ]
            yield contrast(_question(study, attribute, level, asking, None), pairs)
            for pair in pairs:
                yield contrast(_question(study, attribute, level, asking, pair.site), [pair])


def _by_site(
    shown: Evaluations, attribute: Attribute, level: str, outcomes: Sequence[str]
) -> dict[str, dict[str, Group]]:
    return {site: groups(e, attribute.name, level, outcomes) for site, e in shown.items()}


def _question(
    study: Study, attribute: Attribute, level: str, asking: Asked, site: str | None
) -> Question:
    outcome, criterion = asking
    registered = criterion == study.fairness.primary and level in attribute.levels
    return Question(
        attribute=attribute.name,
        level=level,
        reference=attribute.reference,
        criterion=criterion,
        outcome=outcome,
        site=site,
        primary=attribute.single and registered and site is None,
        margin=margin(study.fairness, criterion),
    )


def _site_contrasts(study: Study, shown: Evaluations, asked: Sequence[Asked]) -> Iterator[Contrast]:
    """Every site against all others that show the same, together; AUROC against their mean."""
    if len(shown) < 2 or SITE in study.fairness.attributes:
        return
    attribute = Attribute(SITE, tuple(shown), OTHERS, single=False)
    groups = _overall(shown, asked)
    for site in shown:
        for asking in asked:
            own = groups[asking[0]]
            question = _question(study, attribute, site, asking, None)
            others = {s: g for s, g in own.items() if s != site and shows(g, asking[1])}
            reference = mean_area(tuple(others.values())) if others else NO_OTHER
            found = contrast(question, [Pair(site, own[site], reference)])
            counted = tuple(s for s in shown if s == site or s in others) if found.sites else ()
            yield found.model_copy(update={"sites": counted})


def _overall(shown: Evaluations, asked: Sequence[Asked]) -> dict[str, dict[str, Group]]:
    """By outcome and site."""
    outcomes = tuple(dict.fromkeys(outcome for outcome, _ in asked))
    found = {site: overall(evaluation, outcomes) for site, evaluation in shown.items()}
    return {outcome: {site: own[outcome] for site, own in found.items()} for outcome in outcomes}


def _extremes(
    study: Study, shown: Evaluations, attributes: Sequence[Attribute], asked: Sequence[Asked]
) -> Iterator[Extreme]:
    """Of every attribute and of the sites, by each criterion that is a proportion."""
    seed = study.digest
    for attribute in attributes:
        for outcome, criterion in asked:
            if criterion in SHARES:
                levels = {
                    level: {
                        site: own[outcome]
                        for site, own in _by_site(shown, attribute, level, (outcome,)).items()
                    }
                    for level in attribute.levels
                }
                found = extreme(attribute.name, criterion, outcome, levels, seed)
                if found is not None:
                    yield found
    if SITE in study.fairness.attributes:
        return
    by_outcome = _overall(shown, asked)
    for outcome, criterion in asked:
        if criterion in SHARES:
            found = extreme_site(SITE, criterion, outcome, by_outcome[outcome], seed)
            if found is not None:
                yield found


def _adjusted(contrasts: Sequence[Contrast]) -> tuple[Contrast, ...]:
    """Primary contrasts by Holm, all others by Benjamini and Hochberg."""
    adjusted = list(contrasts)
    for primary, adjust in ((True, holm), (False, benjamini_hochberg)):
        places = [i for i, c in enumerate(adjusted) if c.primary == primary and c.p is not None]
        values = adjust([p for p in (adjusted[i].p for i in places) if p is not None])
        for place, value in zip(places, values, strict=True):
            adjusted[place] = adjusted[place].model_copy(update={"adjusted_p": value})
    return tuple(adjusted)
