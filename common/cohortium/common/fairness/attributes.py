"""By what patients are compared: declared attributes, pairs of them, and the site itself."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cohortium.common.fairness.counts import NOT_SHOWN, Group, group, together
from cohortium.common.metrics.tallies import (
    UNKNOWN,
    BinaryTally,
    MulticlassTally,
    MultilabelTally,
    SiteEvaluation,
    Tally,
    crossed,
)
from cohortium.common.study import Study

SITE = "site"  # the attribute of the hospitals themselves
OTHERS = "all others"  # its reference
EMPTY = together(())  # of a level that no patient of a site has
WHOLE = ""  # the outcome of a yes or no task, and the right class of several


@dataclass(frozen=True)
class Attribute:
    """`levels` in the study's order, with the one that the others are compared with.

    single: declared by itself, so that the study's primary criterion is tested for it.
    """

    name: str
    levels: tuple[str, ...]
    reference: str
    single: bool


def declared(study: Study) -> tuple[Attribute, ...]:
    """The study's attributes, then its intersections; their reference is that of both."""
    fairness = study.fairness
    single = [_single(study, name) for name in fairness.attributes]
    return (*single, *(_pair(study, *names) for names in fairness.intersections))


def with_unknown(
    attribute: Attribute, evaluations: Mapping[str, SiteEvaluation]
) -> tuple[str, ...]:
    """The levels, and then `unknown` if some site has patients of that."""
    shown = {level for e in evaluations.values() for level in e.groups.get(attribute.name, {})}
    extra = [UNKNOWN] if UNKNOWN in shown and UNKNOWN not in attribute.levels else []
    return (*attribute.levels, *extra)


def groups(
    evaluation: SiteEvaluation, attribute: str, level: str, outcomes: Iterable[str]
) -> dict[str, Group]:
    """What a site shows of one level, by outcome."""
    levels = evaluation.groups.get(attribute)
    if levels is None:
        return dict.fromkeys(outcomes, Group(reason=f"the site sends no results by {attribute}"))
    if level not in levels:
        return dict.fromkeys(outcomes, EMPTY)
    return _by_outcome(levels[level], evaluation.noise_std, outcomes)


def overall(evaluation: SiteEvaluation, outcomes: Iterable[str]) -> dict[str, Group]:
    """What a site shows of all its patients, by outcome."""
    return _by_outcome(evaluation.overall, evaluation.noise_std, outcomes)


def _by_outcome(tally: Tally, noise_std: float, outcomes: Iterable[str]) -> dict[str, Group]:
    shown = _binary(tally)
    hidden = Group(reason=tally.reason or NOT_SHOWN)
    return {name: group(shown[name], noise_std) if name in shown else hidden for name in outcomes}


def _binary(tally: Tally) -> Mapping[str, BinaryTally]:
    """One yes or no question for each outcome that is called."""
    if isinstance(tally, BinaryTally):
        return {WHOLE: tally}
    if isinstance(tally, MultilabelTally):
        return tally.labels
    if isinstance(tally, MulticlassTally):
        right = BinaryTally(
            n=tally.n,
            positives=None,
            correct=tally.correct,
            tp=None,
            fp=None,
            tn=None,
            fn=None,
            log_loss=None,
            auroc=None,
            reason=tally.reason,
        )
        return {WHOLE: right, **tally.classes}
    return {}


def _single(study: Study, name: str) -> Attribute:
    levels = study.attribute_levels(name)
    return Attribute(name, levels, study.fairness.reference.get(name, levels[0]), single=True)


def _pair(study: Study, one: str, other: str) -> Attribute:
    first, second = _single(study, one), _single(study, other)
    return Attribute(
        name=crossed(one, other),
        levels=tuple(crossed(a, b) for a in first.levels for b in second.levels),
        reference=crossed(first.reference, second.reference),
        single=False,
    )
