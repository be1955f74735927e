"""Was it worth joining, and whom did privacy harm: the federated model against others.

Beside it on the same patients: a site's own, trained alone and without noise; a recalibrated and a
personal one; and, where sites are left out one after the other, the model that never saw the site.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from cohortium.common.document import Document
from cohortium.common.fairness.attributes import Attribute, declared, with_unknown
from cohortium.common.metrics.intervals import Z_95, Interval, newcombe
from cohortium.common.metrics.paired import (
    Pairs,
    difference_in_differences,
    mcnemar,
    newcombe_paired,
)
from cohortium.common.metrics.random_effects import random_effects
from cohortium.common.metrics.tallies import Beside, BinaryTally, Comparison, SiteEvaluation
from cohortium.common.study import Study

LEFT_OUT = "left out"
ALL_SITES = "all sites"
NOT_SHOWN = "not shown by disclosure control"
NOBODY = "no patients"

Evaluations = Mapping[str, SiteEvaluation]


class Compared(Document):
    """The federated model against another, on the same patients; for `left out` as if on others.

    difference: federated minus other, with its 95% interval; below 0 the other is better in
    accuracy and AUROC, above 0 in log loss and Brier score. p: McNemar's exact test. extra: how
    much more of a difference this group has than the reference group of its attribute, which is,
    beside `own`, what the noise and the others' patients took from it or gave it. site: None over
    all sites that show it.
    """

    other: str
    measure: str
    site: str | None
    attribute: str = ""
    level: str = ""
    n: int | None = None
    federated: float | None = None
    other_value: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    extra: float | None = None
    extra_low: float | None = None
    extra_high: float | None = None
    reason: str = ""


class Crossed(Document):
    """How one model does at each site; `model` is `all sites` or `without SITE`."""

    model: str
    measure: str
    sites: Mapping[str, float | None]


class Value(Document):
    """Everything found, in the study's order; `reason` says why there is nothing."""

    compared: tuple[Compared, ...] = ()
    crossed: tuple[Crossed, ...] = ()
    reason: str = ""


def value(study: Study, main: Evaluations, without: Mapping[str, Evaluations]) -> Value:
    """What sites sent of the main model, and of the models without one of them.

    Args:
        main: by site, at the last evaluation of the main model.
        without: by the site left out, what each site sent of that model.
    """
    if study.task.kind != "binary":
        return Value(reason=f"not yet for a {study.task.kind} outcome, only for a binary one")
    compared = (*_beside(study, main), *_against_left_out(main, without))
    crossed = tuple(_crossed(study, main, without)) if without else ()
    asked = compared or crossed
    return Value(
        compared=compared,
        crossed=crossed,
        reason="" if asked else "the study trains no other model to compare with",
    )


# ------------------------------------------------------------------ beside


def _beside(study: Study, main: Evaluations) -> Iterator[Compared]:
    for other in dict.fromkeys(name for e in main.values() for name in e.beside):
        shown = {site: e.beside[other] for site, e in main.items() if other in e.beside}
        yield from _accuracies(other, {site: b.overall for site, b in shown.items()})
        yield from _aurocs(other, main, shown)
        for measure in ("log_loss", "brier"):
            yield from _means(other, measure, main, shown)
        for attribute in declared(study):
            yield from _groups(other, attribute, with_unknown(attribute, main), shown)


def _accuracies(other: str, overall: Mapping[str, Comparison]) -> Iterator[Compared]:
    found = {site: _pairs(comparison) for site, comparison in overall.items()}
    for site, pairs in found.items():
        yield _accuracy(other, site, pairs, reason=overall[site].reason)
    yield _accuracy(other, None, _pooled(found.values()))


def _groups(
    other: str, attribute: Attribute, levels: tuple[str, ...], shown: Mapping[str, Beside]
) -> Iterator[Compared]:
    """Each group over all sites that show it, against the reference group of its attribute."""
    found = {
        level: _pooled(
            _pairs(beside.groups[attribute.name][level])
            for beside in shown.values()
            if level in beside.groups.get(attribute.name, {})
        )
        for level in levels
    }
    reference = found.get(attribute.reference)
    for level, pairs in found.items():
        row = _accuracy(other, None, pairs, attribute.name, level)
        if pairs and reference and level != attribute.reference and pairs.n and reference.n:
            extra, (low, high) = difference_in_differences(pairs, reference)
            row = row.model_copy(update={"extra": extra, "extra_low": low, "extra_high": high})
        yield row


def _pairs(comparison: Comparison) -> Pairs | None:
    """None where a count is hidden."""
    counts = (
        comparison.both,
        comparison.federated_only,
        comparison.other_only,
        comparison.neither,
    )
    shown = [count for count in counts if count is not None]
    return Pairs(*shown) if len(shown) == len(counts) else None


def _pooled(found: Iterable[Pairs | None]) -> Pairs | None:
    shown = [pairs for pairs in found if pairs is not None]
    return sum(shown, start=Pairs(0, 0, 0, 0)) if shown else None


def _accuracy(
    other: str,
    site: str | None,
    pairs: Pairs | None,
    attribute: str = "",
    level: str = "",
    reason: str = "",
) -> Compared:
    row = Compared(other=other, measure="accuracy", site=site, attribute=attribute, level=level)
    if pairs is None:
        return row.model_copy(update={"reason": reason or NOT_SHOWN})
    if not pairs.n:
        return row.model_copy(update={"n": 0, "reason": reason or NOBODY})
    low, high = newcombe_paired(pairs)
    return row.model_copy(
        update={
            "n": pairs.n,
            "federated": (pairs.both + pairs.first_only) / pairs.n,
            "other_value": (pairs.both + pairs.second_only) / pairs.n,
            "difference": pairs.difference,
            "low": low,
            "high": high,
            "p": mcnemar(pairs),
        }
    )


def _aurocs(other: str, main: Evaluations, shown: Mapping[str, Beside]) -> Iterator[Compared]:
    differences: dict[str, tuple[float, float]] = {}
    for site, beside in shown.items():
        ours, theirs = _tally(main[site]).auroc, beside.overall.auroc
        variance = beside.overall.auroc_difference_variance
        reason = beside.overall.reason or NOT_SHOWN
        row = _difference(other, "auroc", site, ours, theirs, variance, reason)
        if row.difference is not None and variance is not None:
            differences[site] = (row.difference, variance)
        yield row
    yield _mean_of(other, "auroc", differences)


def _means(
    other: str, measure: str, main: Evaluations, shown: Mapping[str, Beside]
) -> Iterator[Compared]:
    """Log loss and Brier score, which come without the variance of their difference."""
    for site, beside in shown.items():
        ours = getattr(_tally(main[site]), measure)
        theirs = getattr(beside.overall, measure)
        reason = beside.overall.reason or NOT_SHOWN
        yield _difference(other, measure, site, ours, theirs, None, reason)


def _difference(
    other: str,
    measure: str,
    site: str | None,
    ours: float | None,
    theirs: float | None,
    variance: float | None,
    reason: str,
) -> Compared:
    row = Compared(
        other=other, measure=measure, site=site, federated=ours, other_value=theirs, reason=reason
    )
    if ours is None or theirs is None:
        return row
    low, high = _normal(ours - theirs, variance)
    found = {"difference": ours - theirs, "low": low, "high": high, "reason": ""}
    return row.model_copy(update=found)


def _normal(centre: float, variance: float | None) -> Interval | tuple[None, None]:
    if variance is None:
        return None, None
    reach = Z_95 * math.sqrt(variance)
    return centre - reach, centre + reach


def _mean_of(other: str, measure: str, found: Mapping[str, tuple[float, float]]) -> Compared:
    """Over sites that may differ; none below three sites with a variance above 0."""
    usable = [pair for pair in found.values() if pair[1] > 0]
    pooled = random_effects([d for d, _ in usable], [v for _, v in usable])
    row = Compared(other=other, measure=measure, site=None)
    if pooled is None:
        reason = "fewer than three sites show it with an interval"
        return row.model_copy(update={"reason": reason})
    return row.model_copy(
        update={"difference": pooled.mean, "low": pooled.low, "high": pooled.high}
    )


# ------------------------------------------------------------------ left out


def _against_left_out(main: Evaluations, without: Mapping[str, Evaluations]) -> Iterator[Compared]:
    """Each site: the model of all against the one that never saw it.

    Both called the same patients, but no count of pairs is sent: the intervals are those of
    independent patients, wider than they need be.
    """
    both = {
        site: (_tally(main[site]), _tally(found[site]))
        for site, found in without.items()
        if site in main and site in found
    }
    for site, (ours, theirs) in both.items():
        yield _unpaired(site, _called(ours), _called(theirs), ours.reason or theirs.reason)
    if both:
        pairs = [(_called(ours), _called(theirs)) for ours, theirs in both.values()]
        shown = [(o, t) for o, t in pairs if o and t]
        yield _unpaired(None, _total([o for o, _ in shown]), _total([t for _, t in shown]), "")
    differences: dict[str, tuple[float, float]] = {}
    for site, (ours, theirs) in both.items():
        variance = _sum(ours.auroc_variance, theirs.auroc_variance)
        reason = ours.reason or theirs.reason or NOT_SHOWN
        row = _difference(LEFT_OUT, "auroc", site, ours.auroc, theirs.auroc, variance, reason)
        if row.difference is not None and variance is not None:
            differences[site] = (row.difference, variance)
        yield row
    if both:
        yield _mean_of(LEFT_OUT, "auroc", differences)


def _unpaired(
    site: str | None,
    ours: tuple[int, int] | None,
    theirs: tuple[int, int] | None,
    reason: str,
) -> Compared:
    row = Compared(other=LEFT_OUT, measure="accuracy", site=site)
    if ours is None or theirs is None:
        return row.model_copy(update={"reason": reason or NOT_SHOWN})
    low, high = newcombe(ours, theirs)
    p, q = ours[0] / ours[1], theirs[0] / theirs[1]
    found = {"n": ours[1], "federated": p, "other_value": q, "difference": p - q}
    return row.model_copy(update={**found, "low": low, "high": high})


def _called(tally: BinaryTally) -> tuple[int, int] | None:
    """Rightly called, of how many; None where hidden or of nobody."""
    return (tally.correct, tally.n) if tally.correct is not None and tally.n else None


def _total(found: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    return (sum(c for c, _ in found), sum(n for _, n in found)) if found else None


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _tally(evaluation: SiteEvaluation) -> BinaryTally:
    assert isinstance(evaluation.overall, BinaryTally)
    return evaluation.overall


# ------------------------------------------------------------------ models by sites


CROSSED: Mapping[str, Callable[[BinaryTally], float | None]] = {
    "accuracy": lambda tally: (c[0] / c[1]) if (c := _called(tally)) else None,
    "auroc": lambda tally: tally.auroc,
    "log_loss": lambda tally: tally.log_loss,
}


def _crossed(
    study: Study, main: Evaluations, without: Mapping[str, Evaluations]
) -> Iterator[Crossed]:
    models = {ALL_SITES: main} | {f"without {site}": found for site, found in without.items()}
    for model, found in models.items():
        for measure, read in CROSSED.items():
            sites = {s: read(_tally(found[s])) for s in study.sites.names if s in found}
            yield Crossed(model=model, measure=measure, sites=sites)
