"""Measures of the time to an event."""

import math

from cohortium.common.metrics.measures import (
    LEAST_EXPECTED,
    At,
    Found,
    Measure,
    Sums,
    added,
    bare,
    exp,
    known,
    on_line,
    on_log,
    on_logit,
    on_scale,
    share,
    times_n,
)
from cohortium.common.metrics.tallies import AtHorizon, SurvivalTally

NO_PAIRS = "no two patients of a site can be compared"
UNREACHED = "nobody is expected to have the event by then"


def _pairs(tally: SurvivalTally, _: At) -> Sums | None:
    """(concordant, pairs, variance of C times pairs squared, n)."""
    found = known(tally.concordant, tally.pairs, tally.n)
    if found is None:
        return None
    concordant, pairs, n = found
    return concordant, pairs, (tally.c_variance or 0.0) * pairs**2, n


def _concordance(sums: Sums) -> Found | None:
    """Harrell's C; of several sites, over the pairs within each (stratified by site).

    Interval on the logit scale, variance by the infinitesimal jackknife at each site. Simulated
    coverage is 0.93 to 0.97 from 30 events on (C of 0.58 to 0.85), and 0.93 with 27.
    """
    concordant, pairs, variance, n = sums
    return on_logit(concordant / pairs, variance / pairs**2, n) if pairs else None


def _at(tally: SurvivalTally, at: At) -> AtHorizon | None:
    return tally.horizons[at.place] if at.place < len(tally.horizons) else None


def _why(tally: SurvivalTally, at: At) -> str:
    there = _at(tally, at)
    return (there.reason if there else "") or tally.reason


def _weighted(n: int | None, value: float | None, variance: float | None) -> Sums | None:
    """(value times n, variance times n squared, n), or None where one is unknown or n is 0."""
    found = known(value, variance, n)
    return (found[0] * found[2], found[1] * found[2] ** 2, found[2]) if found and n else None


def _brier_sums(tally: SurvivalTally, at: At) -> Sums | None:
    there = _at(tally, at)
    return _weighted(tally.n, there.brier, there.brier_variance) if there else None


def _brier(sums: Sums) -> Found | None:
    """Inverse-probability-of-censoring weighted; of several sites, with each one's own weights.

    Simulated coverage is 0.93 to 0.97 from 35 events by the horizon on, and 0.926 with 18.
    """
    total, variance, n = sums
    found = on_line(total / n, variance / n**2, n)
    return on_scale(found.value, n, found.scaled, share)


def _risk_sums(tally: SurvivalTally, at: At) -> Sums | None:
    there = _at(tally, at)
    return _weighted(tally.n, there.observed, there.observed_variance) if there else None


def _risk(sums: Sums) -> Found | None:
    """Kaplan and Meier's; of several sites, their mean by patients.

    Interval on the scale log(-log(1 - risk)) (Kalbfleisch & Prentice 1980).
    """
    total, variance, n = sums
    risk = total / n
    if not 0 < risk < 1 or variance <= 0:
        return on_scale(risk, n, None, _from_log_hazard)
    hazard = -math.log(1 - risk)
    spread = variance / n**2 / ((1 - risk) * hazard) ** 2
    return on_scale(risk, n, (math.log(hazard), spread), _from_log_hazard)


def _from_log_hazard(value: float) -> float:
    return -math.expm1(-exp(value))


def _expected_sums(tally: SurvivalTally, at: At) -> Sums | None:
    """(expected, observed, variance of the observed, n), all as numbers of patients."""
    expected, risk = _predicted_sums(tally, at), _risk_sums(tally, at)
    return (expected[0], *risk) if risk and expected else None


def _observed_to_expected(sums: Sums) -> Found | None:
    """Observed over predicted risk; its variance is that of the observed, on the log scale.

    The expected number is taken as given: simulated coverage is 0.95 where predicted risks are much
    alike, and up to 0.99 where they differ widely.
    """
    expected, observed, variance, n = sums
    if expected < LEAST_EXPECTED:
        return None
    return on_log(observed / expected, variance / expected**2, n)


def _predicted_sums(tally: SurvivalTally, at: At) -> Sums | None:
    there = _at(tally, at)
    return times_n(tally.n, there.predicted) if there else None


def _predicted(sums: Sums) -> Found | None:
    return bare(sums[0] / sums[1], sums[1], "a mean of predictions, known exactly")


SURVIVAL: tuple[Measure[SurvivalTally], ...] = (
    Measure("concordance", _pairs, _concordance, merge=added, nobody=NO_PAIRS),
)
AT_HORIZONS: tuple[Measure[SurvivalTally], ...] = (
    Measure("brier", _brier_sums, _brier, share, added, hidden=_why),
    Measure("observed_risk", _risk_sums, _risk, _from_log_hazard, added, hidden=_why),
    Measure("predicted_risk", _predicted_sums, _predicted, share, added, hidden=_why),
    Measure(
        "observed_to_expected",
        _expected_sums,
        _observed_to_expected,
        exp,
        added,
        nobody=UNREACHED,
        hidden=_why,
    ),
)
