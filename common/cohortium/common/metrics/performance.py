"""How well a model does, by measure: at each site, over all patients, and over sites that differ.

A measure is worked out from `Sums` that sites send, so that the pooled value is that of all rows
together. What it is at a further site is estimated on a scale where it is about normal (logit,
log, Fisher's), by random effects.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from cohortium.common.document import Document
from cohortium.common.metrics.intervals import (
    Interval,
    expit,
    logit,
    mcc_variance,
    wald,
    wilson,
)
from cohortium.common.metrics.random_effects import RandomEffects, random_effects
from cohortium.common.metrics.tallies import BinaryTally

Sums = tuple[float, ...]

MAX_EXPONENT = 700.0  # above, a float overflows

NOBODY = "there is nobody to count"
NO_INTERVAL = "too few patients, or too perfect a result, for an interval"
NOT_SHOWN = "not shown by the site"
NO_SITE = "no site shows it"
WITHIN = "patients of different sites are compared by no site"
TOO_FEW = "fewer than three sites show it with an interval"


class Estimate(Document):
    """A value and its 95% interval, over `of` patients; None is unknown, `reason` says why."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    of: int | None = None
    reason: str = ""


class Performance(Document):
    """One measure (at a threshold, if it has one) by site, pooled, and over sites.

    `over_sites` is read as the measure is, but its `tau2` on the measure's own scale.
    """

    measure: str
    threshold: float | None
    sites: Mapping[str, Estimate]
    pooled: Estimate
    over_sites: RandomEffects | None
    reason: str = ""


@dataclass(frozen=True)
class Found:
    """An estimate, and the same with its variance on the scale on which sites are averaged."""

    value: float
    interval: Interval | None
    of: int
    scaled: tuple[float, float] | None


@dataclass(frozen=True)
class Measure:
    """`sums` of a group at a threshold (by its place), or None if not shown; `found` from them.

    `back` leads from the scale on which sites are averaged to that of the measure.
    """

    name: str
    sums: Callable[[BinaryTally, int], Sums | None]
    found: Callable[[Sums], Found | None]
    back: Callable[[float], float]
    at_thresholds: bool = False
    adds_up: bool = True


def performance(
    tallies: Mapping[str, BinaryTally], thresholds: tuple[float, ...]
) -> tuple[Performance, ...]:
    """Every measure, the ones with a threshold at each, from what the sites show."""
    return (
        *(_over(measure, tallies, 0, None) for measure in MEASURES if not measure.at_thresholds),
        *(
            _over(measure, tallies, place, threshold)
            for place, threshold in enumerate(thresholds)
            for measure in MEASURES
            if measure.at_thresholds
        ),
    )


def _over(
    measure: Measure, tallies: Mapping[str, BinaryTally], place: int, threshold: float | None
) -> Performance:
    sums = {site: measure.sums(tally, place) for site, tally in tallies.items()}
    found = {site: measure.found(own) if own else None for site, own in sums.items()}
    scaled = [one.scaled for one in found.values() if one and one.scaled]
    effects = random_effects([y for y, _ in scaled], [variance for _, variance in scaled])
    return Performance(
        measure=measure.name,
        threshold=threshold,
        sites={
            site: _estimate(found[site], NOBODY if sums[site] else tally.reason or NOT_SHOWN)
            for site, tally in tallies.items()
        },
        pooled=_pooled(measure, sums.values()),
        over_sites=_read_back(effects, measure.back) if effects else None,
        reason="" if effects else TOO_FEW,
    )


def _pooled(measure: Measure, sums: Iterable[Sums | None]) -> Estimate:
    if not measure.adds_up:
        return Estimate(reason=WITHIN)
    shown = [own for own in sums if own]
    if not shown:
        return Estimate(reason=NO_SITE)
    total = tuple(math.fsum(column) for column in zip(*shown, strict=True))
    return _estimate(measure.found(total), NOBODY)


def _estimate(found: Found | None, reason: str) -> Estimate:
    if found is None:
        return Estimate(reason=reason)
    low, high = found.interval or (None, None)
    return Estimate(
        value=found.value,
        low=low,
        high=high,
        of=found.of,
        reason="" if found.interval else NO_INTERVAL,
    )


def _read_back(effects: RandomEffects, back: Callable[[float], float]) -> RandomEffects:
    ends = ("mean", "low", "high", "new_low", "new_high")
    return effects.model_copy(update={end: back(getattr(effects, end)) for end in ends})


def _confusion(tally: BinaryTally, place: int) -> Sums | None:
    """(tp, fp, tn, fn) at one of the study's thresholds."""
    if place == 0:
        cells = (tally.tp, tally.fp, tally.tn, tally.fn)
        return None if None in cells else tuple(float(cell or 0) for cell in cells)
    if tally.n is None or tally.positives is None or len(tally.further) < place:
        return None
    tp, fp = tally.further[place - 1].tp, tally.further[place - 1].fp
    return float(tp), float(fp), float(tally.n - tally.positives - fp), float(tally.positives - tp)


def _right(tally: BinaryTally, place: int) -> Sums | None:
    if place == 0:
        return _all(tally.correct, tally.n)
    cells = _confusion(tally, place)
    return None if cells is None else (cells[0] + cells[2], sum(cells))


def _all(*values: float | None) -> Sums | None:
    """The values, or None where one is unknown."""
    known = tuple(float(value) for value in values if value is not None)
    return known if len(known) == len(values) else None


def _observed(tally: BinaryTally, _: int) -> Sums | None:
    """(expected, observed, n)."""
    expected = _times_n(tally, tally.mean_score)
    return _all(*expected[:1], tally.positives, tally.n) if expected else None


def _times_n(tally: BinaryTally, *means: float | None) -> Sums | None:
    """Means back to the sums that add up, then n."""
    known = _all(tally.n, *means)
    return known and (*(mean * known[0] for mean in known[1:]), known[0])


def _proportion(part: float, whole: float) -> Found | None:
    """A share with its Wilson interval, and its logit with the delta-method variance.

    Only on the logit scale, an empty side counts as half a patient (Haldane 1956).
    """
    if not whole:
        return None
    yes, no = part or 0.5, (whole - part) or 0.5
    return Found(
        value=part / whole,
        interval=wilson(round(part), round(whole)),
        of=round(whole),
        scaled=(math.log(yes / no), 1 / yes + 1 / no),
    )


def _of_confusion(part: str, whole: str) -> Callable[[Sums], Found | None]:
    """The share that one cell has in itself and others, by the cells' names."""
    cells = ("tp", "fp", "tn", "fn")

    def found(sums: Sums) -> Found | None:
        by_name = dict(zip(cells, sums, strict=True))
        return _proportion(by_name[part], sum(by_name[name] for name in whole.split()))

    return found


def _f1(sums: Sums) -> Found | None:
    """2 tp / (2 tp + fp + fn) is 2j / (1 + j) of the share j = tp / (tp + fp + fn).

    The interval is Wilson's of j, carried over (Lam, Gopal & Qian 2023, arXiv:2309.14621,
    "Wilson indirect"); logit(f1) = logit(j) + log 2.
    """
    tp, fp, _, fn = sums
    share = _proportion(tp, tp + fp + fn)
    if share is None or share.interval is None or share.scaled is None:
        return None
    low, high = (2 * end / (1 + end) for end in share.interval)
    centre, variance = share.scaled
    value = 2 * share.value / (1 + share.value)
    return Found(value, (low, high), share.of, (centre + math.log(2), variance))


def _mcc(sums: Sums) -> Found | None:
    """Matthews' correlation, with the interval of its inverse hyperbolic tangent (Fisher's z)."""
    tp, fp, tn, fn = sums
    if not (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn):
        return None
    root = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    phi = max(-1.0, min(1.0, (tp * tn - fp * fn) / root))
    variance = mcc_variance(tp, fp, tn, fn)
    inside = abs(phi) < 1 and variance > 0
    scaled = (math.atanh(phi), variance / (1 - phi**2) ** 2) if inside else None
    return _on_scale(phi, round(sum(sums)), scaled, math.tanh)


def _auroc(sums: Sums) -> Found | None:
    area, variance, n = sums
    inside = 0 < area < 1 and variance > 0
    scaled = (logit(area), variance / (area * (1 - area)) ** 2) if inside else None
    return _on_scale(area, round(n), scaled, expit)


def _brier(sums: Sums) -> Found | None:
    """The mean squared error; its variance from the mean of its squares."""
    errors, squares, n = sums
    if not n:
        return None
    mean = errors / n
    variance = (squares / n - mean**2) / n
    return _on_scale(mean, round(n), (mean, variance) if variance > 0 else None, _share)


def _observed_to_expected(sums: Sums) -> Found | None:
    """Patients with the outcome over those that the scores add up to, on a log scale.

    Variance of the log (1 - p) / observed, with p the share observed (Debray et al. 2017, BMJ
    356:i6460): the expected number is taken as given.
    """
    expected, observed, n = sums
    if not n or not expected:
        return None
    variance = (1 - observed / n) / observed if observed else 0.0
    scaled = (math.log(observed / expected), variance) if variance > 0 else None
    return _on_scale(observed / expected, round(n), scaled, _exp)


def _on_scale(
    value: float, of: int, scaled: tuple[float, float] | None, back: Callable[[float], float]
) -> Found:
    return Found(value, wald(*scaled, back) if scaled else None, of, scaled)


def _exp(value: float) -> float:
    return math.exp(min(value, MAX_EXPONENT))


def _share(value: float) -> float:
    return max(0.0, min(1.0, value))


MEASURES = (
    Measure("prevalence", lambda t, _: _all(t.positives, t.n), lambda s: _proportion(*s), expit),
    Measure(
        "auroc",
        lambda t, _: _all(t.auroc, t.auroc_variance or 0.0, t.n),
        _auroc,
        expit,
        adds_up=False,
    ),
    Measure("brier", lambda t, _: _times_n(t, t.brier, t.brier_squares), _brier, _share),
    Measure(
        "observed_to_expected",
        _observed,
        _observed_to_expected,
        _exp,
    ),
    Measure("accuracy", _right, lambda s: _proportion(*s), expit, at_thresholds=True),
    Measure("sensitivity", _confusion, _of_confusion("tp", "tp fn"), expit, at_thresholds=True),
    Measure("specificity", _confusion, _of_confusion("tn", "tn fp"), expit, at_thresholds=True),
    Measure("ppv", _confusion, _of_confusion("tp", "tp fp"), expit, at_thresholds=True),
    Measure("npv", _confusion, _of_confusion("tn", "tn fn"), expit, at_thresholds=True),
    Measure("f1", _confusion, _f1, expit, at_thresholds=True),
    Measure("mcc", _confusion, _mcc, math.tanh, at_thresholds=True),
)
