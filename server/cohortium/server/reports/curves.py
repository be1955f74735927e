"""Curves from the counts that sites show: reliability, net benefit, risk at the horizons."""

import math
from collections.abc import Iterator, Mapping, Sequence

from cohortium.common.metrics.calibration import PooledCalibration, PooledFit, flat
from cohortium.common.metrics.intervals import Z_95
from cohortium.common.metrics.reliability import reliability as binned
from cohortium.common.metrics.tallies import (
    AtHorizon,
    BinaryTally,
    Bins,
    MulticlassTally,
    MultilabelTally,
    SurvivalTally,
    Tally,
)
from cohortium.server.reports.findings import CalibrationLine, Curve, Horizon, NetBenefit

HIDDEN = "not shown by the site"
NOBODY_SHOWS = "no site shows it"


def binary(tallies: Mapping[str, Tally]) -> dict[str, dict[str, BinaryTally]]:
    """The yes or no questions in the tallies by subject; the only one of a binary task is ''."""
    found: dict[str, dict[str, BinaryTally]] = {}
    for site, tally in tallies.items():
        if isinstance(tally, BinaryTally):
            found.setdefault("", {})[site] = tally
        elif isinstance(tally, MulticlassTally):
            for subject, one in tally.classes.items():
                found.setdefault(subject, {})[site] = one
        elif isinstance(tally, MultilabelTally):
            for subject, one in tally.labels.items():
                found.setdefault(subject, {})[site] = one
    return found


def reliability(tallies: Mapping[str, Tally]) -> tuple[Curve, ...]:
    """For each subject every site's curve, then the pooled one in the bins that all have."""
    return tuple(
        curve for subject, own in binary(tallies).items() for curve in _curves(subject, own)
    )


def _curves(subject: str, tallies: Mapping[str, BinaryTally]) -> Iterator[Curve]:
    shown = [tally.bins for tally in tallies.values() if tally.bins]
    if not shown:
        return
    for site, tally in tallies.items():
        reason = "" if tally.bins else tally.reason or HIDDEN
        bins = binned([tally.bins])
        yield Curve(subject=subject, site=site, sites=1, bins=bins, reason=reason)
    yield Curve(subject=subject, site=None, sites=len(shown), bins=binned(shown))


def net_benefit(
    tallies: Mapping[str, Tally], thresholds: Sequence[float]
) -> tuple[NetBenefit, ...]:
    """At the study's thresholds and at the edges of the bins; of a yes or no outcome only."""
    own = [tally for tally in tallies.values() if isinstance(tally, BinaryTally)]
    edges = {t for tally in own if tally.bins for t in _edges(tally.bins)}
    found = (_benefit(own, t, thresholds) for t in sorted({*thresholds, *edges}))
    return tuple(one for one in found if one)


def _edges(bins: Bins) -> tuple[float, ...]:
    return tuple(place / len(bins.n) for place in range(1, len(bins.n)))


def _benefit(
    tallies: Sequence[BinaryTally], threshold: float, thresholds: Sequence[float]
) -> NetBenefit | None:
    known = [counts for tally in tallies if (counts := _counts(tally, threshold, thresholds))]
    n = sum(counts[0] for counts in known)
    if not n:
        return None
    positives, tp, fp = (sum(counts[i] for counts in known) for i in (1, 2, 3))
    odds = threshold / (1 - threshold)
    value = tp / n - odds * fp / n
    reach = Z_95 * math.sqrt(max(0.0, tp / n + odds**2 * fp / n - value**2) / n)
    return NetBenefit(
        threshold=threshold,
        sites=len(known),
        n=n,
        value=value,
        low=value - reach,
        high=value + reach,
        treat_all=positives / n - odds * (n - positives) / n,
    )


def _counts(
    tally: BinaryTally, threshold: float, thresholds: Sequence[float]
) -> tuple[int, int, int, int] | None:
    """(n, positives, tp, fp) with a score above a threshold, or None if not shown."""
    if tally.n is None or tally.positives is None:
        return None
    called: tuple[int, int] | None = None
    place = list(thresholds).index(threshold) if threshold in thresholds else -1
    if place == 0 and tally.tp is not None and tally.fp is not None:
        called = tally.tp, tally.fp
    elif 0 < place <= len(tally.further):
        called = tally.further[place - 1].tp, tally.further[place - 1].fp
    elif tally.bins and threshold in _edges(tally.bins):
        first = _edges(tally.bins).index(threshold) + 1
        tp = sum(tally.bins.positives[first:])
        called = tp, sum(tally.bins.n[first:]) - tp
    return (tally.n, tally.positives, *called) if called else None


def pooled_calibration(found: PooledCalibration | None) -> tuple[CalibrationLine, ...]:
    """The fit over all rows of the sites that took part, overall and by group."""
    if found is None:
        return ()
    fits = flat(found.overall, found.groups)
    return tuple(_fitted(attribute, level, fit) for (attribute, level), fit in fits.items())


def _fitted(attribute: str, level: str, found: PooledFit) -> CalibrationLine:
    line = CalibrationLine(
        site=None,
        sites=len(found.sites),
        attribute=attribute,
        level=level,
        reason=found.reason,
    )
    if found.fit is None:
        return line
    intercept, slope = found.intercept or (None, None), found.slope or (None, None)
    return line.model_copy(
        update={
            "intercept": found.fit.intercept,
            "intercept_low": intercept[0],
            "intercept_high": intercept[1],
            "slope": found.fit.slope,
            "slope_low": slope[0],
            "slope_high": slope[1],
        }
    )


def site_calibration(tallies: Mapping[str, Tally]) -> tuple[CalibrationLine, ...]:
    """Intercept and slope that sites fitted to their own patients; none if no site shows one."""
    own = {site: tally for site, tally in tallies.items() if isinstance(tally, BinaryTally)}
    if not any(tally.calibration for tally in own.values()):
        return ()
    return tuple(_fit(site, tally) for site, tally in own.items())


def _fit(site: str, tally: BinaryTally) -> CalibrationLine:
    fit = tally.calibration
    if fit is None:
        return CalibrationLine(site=site, reason=tally.reason or HIDDEN)
    intercept, slope = (
        Z_95 * math.sqrt(variance) for variance in (fit.intercept_variance, fit.slope_variance)
    )
    return CalibrationLine(
        site=site,
        intercept=fit.intercept,
        intercept_low=fit.intercept - intercept,
        intercept_high=fit.intercept + intercept,
        slope=fit.slope,
        slope_low=fit.slope - slope,
        slope_high=fit.slope + slope,
    )


def horizons(tallies: Mapping[str, Tally], times: Sequence[float]) -> tuple[Horizon, ...]:
    """At each horizon every site, then all patients: means of the sites' risks by patients."""
    own = {site: tally for site, tally in tallies.items() if isinstance(tally, SurvivalTally)}
    if not own:
        return ()
    return tuple(found for place, time in enumerate(times) for found in _at(own, place, time))


def _at(tallies: Mapping[str, SurvivalTally], place: int, time: float) -> Iterator[Horizon]:
    known: list[tuple[int, AtHorizon]] = []
    for site, tally in tallies.items():
        shown = tally.horizons[place] if place < len(tally.horizons) else None
        if shown is None or shown.predicted is None or shown.observed is None:
            reason = (shown.reason if shown else "") or tally.reason or HIDDEN
            yield Horizon(horizon=time, site=site, sites=1, n=tally.n, reason=reason)
            continue
        yield _risk(time, site, 1, tally.n, shown)
        if tally.n:
            known.append((tally.n, shown))
    if not known:
        yield Horizon(horizon=time, site=None, sites=0, n=None, reason=NOBODY_SHOWS)
        return
    yield _risk(time, None, len(known), sum(n for n, _ in known), _together(known))


def _together(known: Sequence[tuple[int, AtHorizon]]) -> AtHorizon:
    """Means by patients; the variance of the observed one as sites are independent."""
    total = sum(n for n, _ in known)
    variances = [shown.observed_variance for _, shown in known]
    complete = all(variance is not None for variance in variances)
    return AtHorizon(
        brier=None,
        brier_variance=None,
        predicted=math.fsum(n / total * (shown.predicted or 0.0) for n, shown in known),
        observed=math.fsum(n / total * (shown.observed or 0.0) for n, shown in known),
        observed_variance=math.fsum(
            (n / total) ** 2 * (shown.observed_variance or 0.0) for n, shown in known
        )
        if complete
        else None,
    )


def _risk(time: float, site: str | None, sites: int, n: int | None, shown: AtHorizon) -> Horizon:
    """The interval on the log(-log) scale of survival (Kalbfleisch & Prentice 1980)."""
    risk, variance = shown.observed, shown.observed_variance
    low = high = None
    if risk is not None and variance and 0 < risk < 1:
        survival = 1 - risk
        centre = math.log(-math.log(survival))
        reach = Z_95 * math.sqrt(variance) / (survival * abs(math.log(survival)))
        low, high = (1 - math.exp(-math.exp(centre + side * reach)) for side in (-1, 1))
    return Horizon(
        horizon=time,
        site=site,
        sites=sites,
        n=n,
        predicted=shown.predicted,
        observed=risk,
        observed_low=low,
        observed_high=high,
    )
