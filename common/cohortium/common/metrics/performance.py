"""How well a model does, by measure: at each site, over all patients, and over sites that differ.

A measure is worked out from sums that sites send, so that the pooled value is that of all rows
together. What it is at a further site is estimated on a scale where it is about normal (logit,
log, Fisher's), by random effects. What is measured of which outcome: `measures_*.py`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from cohortium.common.document import Document
from cohortium.common.metrics import (
    measures_binary,
    measures_classes,
    measures_patients,
    measures_regression,
    measures_survival,
)
from cohortium.common.metrics.measures import NO_VARIANCE, At, Found, Measure, Sums
from cohortium.common.metrics.random_effects import FEWEST, RandomEffects, random_effects
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
from cohortium.common.study import Study
from cohortium.common.task import SurvivalTask

T = TypeVar("T")
Group = tuple[str, str]  # attribute and level

NOT_SHOWN = "not shown by the site"
NO_SITE = "no site shows it"
TOO_FEW = "fewer than three sites show it with an interval"
NOISY = "the counts hold noise, which the fairness audit's intervals include"


class Estimate(Document):
    """A value and its 95% interval, over `of` patients; None is unknown, `reason` says why."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    of: int | None = None
    reason: str = ""


class Performance(Document):
    """One measure by site, pooled, and over sites.

    At a threshold or a horizon if it has one; of `part`, a class or a label, or of all if empty.
    `over_sites` is read as the measure is, but its `tau2` on the measure's own scale.
    """

    measure: str
    threshold: float | None
    sites: Mapping[str, Estimate]
    pooled: Estimate
    over_sites: RandomEffects | None
    reason: str = ""
    horizon: float | None = None
    part: str = ""


def performance(
    tallies: Mapping[str, Tally],
    thresholds: tuple[float, ...],
    horizons: tuple[float, ...] = (),
) -> tuple[Performance, ...]:
    """Every measure of the kind of outcome that the tallies are of, from what the sites show.

    Args:
        tallies: of one group of patients by site, all of one kind; without any, as if binary.
        thresholds: the study's, of a binary or multilabel task.
        horizons: the study's, of a survival task.
    """
    kind = next(iter(tallies.values())).kind if tallies else "binary"
    return tuple(_KINDS[kind](tallies, thresholds, horizons))


def of_study(evaluations: Mapping[str, SiteEvaluation], study: Study) -> tuple[Performance, ...]:
    """`performance` over all patients, the sites in the order that the study names them.

    Where sites add noise to their counts, values come without intervals.
    """
    tallies = {name: evaluations[name].overall for name in _ordered(evaluations, study)}
    found = performance(tallies, study.evaluation.thresholds, _horizons(study))
    return tuple(map(_without_intervals, found)) if _noisy(evaluations) else found


def _noisy(evaluations: Mapping[str, SiteEvaluation]) -> bool:
    return any(evaluation.noise_std for evaluation in evaluations.values())


def by_group(
    evaluations: Mapping[str, SiteEvaluation], study: Study
) -> dict[Group, tuple[Performance, ...]]:
    """`performance` of every (attribute, level) that a site knows; `{}` before the last evaluation.

    Where sites add noise to their counts, values come without intervals.
    """
    groups: dict[Group, dict[str, Tally]] = {}
    for site in _ordered(evaluations, study):
        for attribute, levels in evaluations[site].groups.items():
            for level, tally in levels.items():
                groups.setdefault((attribute, level), {})[site] = tally
    found = {
        group: performance(tallies, study.evaluation.thresholds, _horizons(study))
        for group, tallies in groups.items()
    }
    if not _noisy(evaluations):
        return found
    return {group: tuple(map(_without_intervals, measured)) for group, measured in found.items()}


def _ordered(evaluations: Mapping[str, SiteEvaluation], study: Study) -> list[str]:
    named = [name for name in study.sites.names if name in evaluations]
    return [*named, *(name for name in evaluations if name not in named)]


def _horizons(study: Study) -> tuple[float, ...]:
    return study.task.horizons if isinstance(study.task, SurvivalTask) else ()


def _without_intervals(found: Performance) -> Performance:
    return found.model_copy(
        update={
            "sites": {site: _pointwise(one) for site, one in found.sites.items()},
            "pooled": _pointwise(found.pooled),
            "over_sites": None,
            "reason": NOISY,
        }
    )


def _pointwise(one: Estimate) -> Estimate:
    if one.low is None:
        return one
    return one.model_copy(update={"low": None, "high": None, "reason": NOISY})


Asked = Iterator[Performance]
Values = tuple[float, ...]


def _binary(tallies: Mapping[str, BinaryTally], thresholds: Values, _: Values) -> Asked:
    yield from _one_label(tallies, thresholds, "")


def _multiclass(tallies: Mapping[str, MulticlassTally], _: Values, __: Values) -> Asked:
    yield from _all(measures_classes.MULTICLASS, tallies)
    for name in _parts(tally.classes for tally in tallies.values()):
        own = {site: t.classes[name] for site, t in tallies.items() if name in t.classes}
        yield from _all(measures_classes.ONE_CLASS, own, part=name)


def _multilabel(tallies: Mapping[str, MultilabelTally], thresholds: Values, _: Values) -> Asked:
    yield from _all(measures_classes.MULTILABEL, tallies)
    yield from _each(measures_classes.AVERAGES, tallies, thresholds)
    for name in _parts(tally.labels for tally in tallies.values()):
        own = {site: t.labels[name] for site, t in tallies.items() if name in t.labels}
        yield from _one_label(own, thresholds, name)


def _regression(tallies: Mapping[str, RegressionTally], _: Values, __: Values) -> Asked:
    yield from _all(measures_regression.REGRESSION, tallies)


def _survival(tallies: Mapping[str, SurvivalTally], _: Values, horizons: Values) -> Asked:
    yield from _all(measures_survival.SURVIVAL, tallies)
    for found in _each(measures_survival.AT_HORIZONS, tallies, horizons):
        yield found.model_copy(update={"horizon": found.threshold, "threshold": None})


def _labelling(tallies: Mapping[str, LabellingTally], _: Values, __: Values) -> Asked:
    yield from _all(measures_patients.LABELLING, tallies)
    for name in dict.fromkeys(name for tally in tallies.values() for name in tally.states):
        yield from _all(measures_patients.of_state(name), tallies, part=name)


def _contacts(tallies: Mapping[str, ContactsTally], _: Values, __: Values) -> Asked:
    yield from _all(measures_patients.CONTACTS, tallies)


def _reconstruction(tallies: Mapping[str, ReconstructionTally], _: Values, __: Values) -> Asked:
    yield from _all(measures_patients.RECONSTRUCTION, tallies)


_KINDS: dict[str, Callable[[Any, Values, Values], Asked]] = {
    "binary": _binary,
    "multiclass": _multiclass,
    "multilabel": _multilabel,
    "regression": _regression,
    "survival": _survival,
    "labelling": _labelling,
    "contacts": _contacts,
    "reconstruction": _reconstruction,
    "generation": _reconstruction,
}


def _one_label(tallies: Mapping[str, BinaryTally], thresholds: Values, part: str) -> Asked:
    yield from _all(measures_binary.WHOLE, tallies, part)
    yield from _each(measures_binary.AT_THRESHOLDS, tallies, thresholds, part)


def _all(measures: Sequence[Measure[T]], tallies: Mapping[str, T], part: str = "") -> Asked:
    for measure in measures:
        yield _over(measure, tallies, At(), part)


def _each(
    measures: Sequence[Measure[T]], tallies: Mapping[str, T], values: Values, part: str = ""
) -> Asked:
    for place, value in enumerate(values):
        for measure in measures:
            yield _over(measure, tallies, At(place, value), part)


def _parts(parts: Iterable[Mapping[str, BinaryTally]]) -> list[str]:
    """Classes or labels, in their order."""
    return list(dict.fromkeys(name for one in parts for name in one))


def _over(measure: Measure[T], tallies: Mapping[str, T], at: At, part: str) -> Performance:
    sums = {site: measure.sums(tally, at) for site, tally in tallies.items()}
    found = {site: measure.found(own) if own else None for site, own in sums.items()}
    scaled = [one.scaled for one in found.values() if one and one.scaled]
    effects = random_effects([y for y, _ in scaled], [variance for _, variance in scaled])
    return Performance(
        measure=measure.name,
        threshold=at.value,
        sites={
            site: _estimate(
                found[site],
                measure.nobody if sums[site] else measure.hidden(tally, at) or NOT_SHOWN,
            )
            for site, tally in tallies.items()
        },
        pooled=_pooled(measure, sums.values()),
        over_sites=_read_back(effects, measure.back) if effects else None,
        reason="" if effects else _why_not_over_sites(list(found.values())),
        part=part,
    )


def _why_unknown(measure: Measure[T], tally: T, at: At, sums: Sums | None) -> str:
    return measure.nobody if sums else measure.hidden(tally, at) or NOT_SHOWN


def _why_not_over_sites(found: list[Found | None]) -> str:
    shown = [one for one in found if one]
    if len(shown) >= FEWEST and all(one.why == NO_VARIANCE for one in shown):
        return NO_VARIANCE
    return TOO_FEW


def _pooled(measure: Measure[T], sums: Iterable[Sums | None]) -> Estimate:
    if measure.merge is None:
        return Estimate(reason=measure.within)
    shown = [own for own in sums if own]
    if not shown:
        return Estimate(reason=NO_SITE)
    return _estimate(measure.found(measure.merge(shown)), measure.nobody)


def _estimate(found: Found | None, reason: str) -> Estimate:
    if found is None:
        return Estimate(reason=reason)
    low, high = found.interval or (None, None)
    return Estimate(
        value=found.value,
        low=low,
        high=high,
        of=found.of,
        reason="" if found.interval else found.why,
    )


def _read_back(effects: RandomEffects, back: Callable[[float], float]) -> RandomEffects:
    """On the measure's own scale, which may run the other way (1 - R2 to R2)."""
    low, high = sorted((back(effects.low), back(effects.high)))
    new_low, new_high = sorted((back(effects.new_low), back(effects.new_high)))
    return effects.model_copy(
        update={
            "mean": back(effects.mean),
            "low": low,
            "high": high,
            "new_low": new_low,
            "new_high": new_high,
        }
    )
