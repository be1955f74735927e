"""Measures of a yes or no outcome."""

import math
from collections.abc import Callable

from cohortium.common.metrics.intervals import mcc_variance
from cohortium.common.metrics.measures import (
    LEAST_EXPECTED,
    NO_VARIANCE,
    At,
    Found,
    Measure,
    Sums,
    added,
    bare,
    exp,
    known,
    on_line,
    on_logit,
    on_scale,
    proportion,
    same,
    share,
    times_n,
)
from cohortium.common.metrics.reliability import expected_error, flattened, merged
from cohortium.common.metrics.tallies import BinaryTally

FITTED = "fitted at each site; the fit over the patients of all sites is the pooled calibration"
ONE_CLASS = "patients with and without the outcome are needed"


def confusion(tally: BinaryTally, at: At) -> Sums | None:
    """(tp, fp, tn, fn) at one of the study's thresholds."""
    if at.place == 0:
        return known(tally.tp, tally.fp, tally.tn, tally.fn)
    if tally.n is None or tally.positives is None or len(tally.further) < at.place:
        return None
    called = tally.further[at.place - 1]
    wrong = tally.n - tally.positives - called.fp, tally.positives - called.tp
    return float(called.tp), float(called.fp), *(float(max(count, 0)) for count in wrong)


def _right(tally: BinaryTally, at: At) -> Sums | None:
    if at.place == 0:
        return known(tally.correct, tally.n)
    cells = confusion(tally, at)
    return None if cells is None else (cells[0] + cells[2], sum(cells))


def _called(tally: BinaryTally, at: At) -> Sums | None:
    cells = confusion(tally, at)
    return None if cells is None else (cells[0] + cells[1], sum(cells))


def _observed(tally: BinaryTally, _: At) -> Sums | None:
    """(expected, observed, n)."""
    expected = times_n(tally.n, tally.mean_score)
    return known(expected[0], tally.positives, tally.n) if expected else None


def _of_confusion(part: str, whole: str) -> Callable[[Sums], Found | None]:
    """The share that one cell has in itself and others, by the cells' names."""
    cells = ("tp", "fp", "tn", "fn")

    def found(sums: Sums) -> Found | None:
        by_name = dict(zip(cells, sums, strict=True))
        return proportion(by_name[part], sum(by_name[name] for name in whole.split()))

    return found


def _balanced(sums: Sums) -> Found | None:
    """The mean of sensitivity and specificity.

    Interval from the two Wilson ones, squares of their distances added (Zou & Donner 2008,
    Statistics in Medicine 27:1693); logit scale by the delta method. Simulated coverage is 0.94 to
    0.96 from 10 patients in each of tp and fp on.
    """
    tp, fp, tn, fn = sums
    one, other = proportion(tp, tp + fn), proportion(tn, tn + fp)
    if one is None or other is None or one.interval is None or other.interval is None:
        return None
    below, above = (
        math.hypot(one.interval[end] - one.value, other.interval[end] - other.value) / 2
        for end in (0, 1)
    )
    value = (one.value + other.value) / 2
    variance = sum(p.value * (1 - p.value) / p.of for p in (one, other)) / 4
    scaled = on_logit(value, variance, sum(sums)).scaled
    return Found(value, (share(value - below), share(value + above)), round(sum(sums)), scaled)


def _f1(sums: Sums) -> Found | None:
    """2 tp / (2 tp + fp + fn) is 2j / (1 + j) of the share j = tp / (tp + fp + fn).

    The interval is Wilson's of j, carried over (Lam, Gopal & Qian 2023, arXiv:2309.14621,
    "Wilson indirect"); logit(f1) = logit(j) + log 2.
    """
    tp, fp, _, fn = sums
    found = proportion(tp, tp + fp + fn)
    if found is None or found.interval is None or found.scaled is None:
        return None
    low, high = (2 * end / (1 + end) for end in found.interval)
    centre, variance = found.scaled
    value = 2 * found.value / (1 + found.value)
    return Found(value, (low, high), found.of, (centre + math.log(2), variance))


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
    return on_scale(phi, sum(sums), scaled, math.tanh)


def _weighed(tally: BinaryTally, at: At) -> Sums | None:
    """Over patients, the net benefit of each and its square, then n."""
    cells = confusion(tally, at)
    if cells is None:
        return None
    tp, fp, _, _ = cells
    return tp - at.odds * fp, tp + at.odds**2 * fp, sum(cells)


def _net_benefit(sums: Sums) -> Found | None:
    """tp / n - fp / n * t / (1 - t) (Vickers & Elkin 2006, Medical Decision Making 26:565).

    A mean over patients of 1, -t / (1 - t) or 0, with its normal interval. Simulated coverage is
    0.93 to 0.97 from 10 patients in each of tp and fp on.
    """
    total, squares, n = sums
    if not n:
        return None
    return on_line(total / n, (squares / n - (total / n) ** 2) / n, n)


def _auprc(sums: Sums) -> Found | None:
    """Average precision with the logit interval of Boyd, Eng & Page 2013 (ECML PKDD, 451).

    Its variance on the logit scale is 1 / (positives * a * (1 - a)): as if precision were a share
    of that many trials. Simulated coverage is 0.93 to 0.97 for areas of 0.15 to 0.75 from 20
    positives on, and 0.99 at 0.92.
    """
    area, positives, n = sums
    if not positives:
        return None
    return on_logit(area, area * (1 - area) / positives, n)


def _brier(sums: Sums) -> Found | None:
    """The mean squared error; its variance from the mean of its squares."""
    errors, squares, n = sums
    mean = errors / n
    variance = (squares / n - mean**2) / n
    return on_scale(mean, n, (mean, variance) if variance > 0 else None, share)


def _observed_to_expected(sums: Sums) -> Found | None:
    """Patients with the outcome over those that the scores add up to, on a log scale.

    Variance of the log (1 - p) / observed, with p the share observed (Debray et al. 2017, BMJ
    356:i6460): the expected number is taken as given.
    """
    expected, observed, n = sums
    if not n or expected < LEAST_EXPECTED:
        return None
    variance = max(0.0, 1 - observed / n) / observed if observed else 0.0
    scaled = (math.log(observed / expected), variance) if variance > 0 else None
    return on_scale(observed / expected, n, scaled, exp)


def _calibration(term: str) -> Callable[[BinaryTally, At], Sums | None]:
    """(value, variance, n) of the site's own logistic fit."""

    def sums(tally: BinaryTally, _: At) -> Sums | None:
        fit = tally.calibration
        if fit is None:
            return None
        return known(getattr(fit, term), getattr(fit, f"{term}_variance"), tally.n)

    return sums


def _ece(sums: Sums) -> Found | None:
    value = expected_error(sums)
    return value and bare(value[0], value[1], "no interval is known to keep its coverage")


WHOLE: tuple[Measure[BinaryTally], ...] = (
    Measure(
        "prevalence",
        lambda t, _: known(t.positives, t.n),
        lambda s: proportion(*s),
        merge=added,
    ),
    Measure(
        "auroc",
        lambda t, _: known(t.auroc, t.auroc_variance or 0.0, t.n),
        lambda s: on_logit(*s),
    ),
    Measure("auprc", lambda t, _: known(t.auprc, t.positives, t.n), _auprc, nobody=ONE_CLASS),
    Measure("brier", lambda t, _: times_n(t.n, t.brier, t.brier_squares), _brier, share, added),
    Measure(
        "log_loss",
        lambda t, _: times_n(t.n, t.log_loss),
        lambda s: bare(s[0] / s[1], s[1], NO_VARIANCE),
        same,
        added,
    ),
    Measure("observed_to_expected", _observed, _observed_to_expected, exp, added),
    Measure(
        "calibration_intercept",
        _calibration("intercept"),
        lambda s: on_line(*s),
        same,
        within=FITTED,
    ),
    Measure("calibration_slope", _calibration("slope"), lambda s: on_line(*s), same, within=FITTED),
    Measure("ece", lambda t, _: flattened(t.bins), _ece, same, merged),
)
CALLED: tuple[Measure[BinaryTally], ...] = (
    Measure("accuracy", _right, lambda s: proportion(*s), merge=added),
    Measure("balanced_accuracy", confusion, _balanced, merge=added, nobody=ONE_CLASS),
    Measure("sensitivity", confusion, _of_confusion("tp", "tp fn"), merge=added),
    Measure("specificity", confusion, _of_confusion("tn", "tn fp"), merge=added),
    Measure("selection_rate", _called, lambda s: proportion(*s), merge=added),
    Measure("ppv", confusion, _of_confusion("tp", "tp fp"), merge=added),
    Measure("npv", confusion, _of_confusion("tn", "tn fn"), merge=added),
    Measure("f1", confusion, _f1, merge=added),
    Measure("mcc", confusion, _mcc, math.tanh, added),
)
AT_THRESHOLDS = (*CALLED, Measure("net_benefit", _weighed, _net_benefit, same, added))
