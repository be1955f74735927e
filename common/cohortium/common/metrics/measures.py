"""What a measure is: sums that sites send, and an estimate with its interval found from them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from cohortium.common.metrics.intervals import Interval, expit, logit, wald, wilson

T = TypeVar("T")
Sums = tuple[float, ...]
Scaled = tuple[float, float]  # a value and its variance, on the scale on which sites are averaged

MAX_EXPONENT = 700.0  # above, a float overflows
LEAST_SHARE = 1e-12  # from 0 or 1; nearer to it, a share is there: no number of patients gives it
LEAST_EXPECTED = 1e-6  # patients that scores add up to; fewer are nobody

NOBODY = "there is nobody to count"
NO_INTERVAL = "too few patients, or too perfect a result, for an interval"
NO_VARIANCE = "sites send nothing that says how precise it is"
WITHIN = "patients of different sites are compared by no site"


@dataclass(frozen=True)
class At:
    """Where a measure is taken: the place among the study's thresholds or horizons, and the value.

    `value` is None for what has neither.
    """

    place: int = 0
    value: float | None = None

    @property
    def odds(self) -> float:
        """What a false call weighs against a right one, at a threshold t: t / (1 - t)."""
        return self.value / (1 - self.value) if self.value is not None else 1.0


@dataclass(frozen=True)
class Found:
    """An estimate, and the same with its variance on the scale on which sites are averaged.

    `why`: there is no interval.
    """

    value: float
    interval: Interval | None
    of: int
    scaled: Scaled | None
    why: str = NO_INTERVAL


@dataclass(frozen=True)
class Measure(Generic[T]):
    """`sums` of a group's tally somewhere, or None if not shown; `found` from them.

    `back` leads from the scale on which sites are averaged to that of the measure. `merge` puts
    the sums of sites together; with None the measure is one of each site alone, for the reason
    `within`. `nobody` is why there may be sums, but no estimate; `hidden`, why a site shows none.
    """

    name: str
    sums: Callable[[T, At], Sums | None]
    found: Callable[[Sums], Found | None]
    back: Callable[[float], float] = expit
    merge: Callable[[list[Sums]], Sums] | None = None
    within: str = WITHIN
    nobody: str = NOBODY
    hidden: Callable[[T, At], str] = lambda tally, _: getattr(tally, "reason", "")


def added(sums: list[Sums]) -> Sums:
    """Column by column, exactly rounded, so that the order of sites is without effect."""
    return tuple(math.fsum(column) for column in zip(*sums, strict=True))


def known(*values: float | None) -> Sums | None:
    """The values, or None where one is unknown."""
    found = tuple(float(value) for value in values if value is not None)
    return found if len(found) == len(values) else None


def times_n(n: int | None, *means: float | None) -> Sums | None:
    """Means back to the sums that add up, then n; None where one is unknown or nobody is there."""
    found = known(n, *means)
    return (*(mean * found[0] for mean in found[1:]), found[0]) if found and found[0] else None


def proportion(part: float, whole: float) -> Found | None:
    """A share with its Wilson interval, and its logit with the delta-method variance.

    Only on the logit scale, an empty side counts as half a patient (Haldane 1956). Counts that
    noise made contradict each other are cut to a share of at most 1.
    """
    if not whole:
        return None
    part = min(part, whole)
    yes, no = part or 0.5, (whole - part) or 0.5
    return Found(
        value=part / whole,
        interval=wilson(round(part), round(whole)),
        of=round(whole),
        scaled=(math.log(yes / no), 1 / yes + 1 / no),
    )


def on_scale(
    value: float, of: float, scaled: Scaled | None, back: Callable[[float], float]
) -> Found:
    """An estimate whose interval is the normal one on another scale, which may run backwards."""
    if scaled is None:
        return Found(value, None, round(of), None)
    low, high = sorted(wald(*scaled, back))
    return Found(value, (low, high), round(of), scaled)


def on_logit(share: float, variance: float, of: float) -> Found:
    """A share inside (0, 1) with its variance, on the logit scale; without interval at the ends."""
    inside = LEAST_SHARE < share < 1 - LEAST_SHARE and variance > 0
    scaled = (logit(share), variance / (share * (1 - share)) ** 2) if inside else None
    return on_scale(share, of, scaled, expit)


def on_log(value: float, variance: float, of: float) -> Found:
    """A positive value with its variance, on the log scale; without interval at 0."""
    inside = value > LEAST_SHARE and variance > 0
    scaled = (math.log(value), variance / value**2) if inside else None
    return on_scale(value, of, scaled, exp)


def on_line(value: float, variance: float, of: float) -> Found:
    """A value that may be anything, on its own scale."""
    return on_scale(value, of, (value, variance) if variance > 0 else None, same)


def bare(value: float, of: float, why: str) -> Found:
    """A value without interval."""
    return Found(value, None, round(of), None, why)


def exp(value: float) -> float:
    """As math.exp, but never infinite."""
    return math.exp(min(value, MAX_EXPONENT))


def share(value: float) -> float:
    """Cut to 0..1."""
    return max(0.0, min(1.0, value))


def same(value: float) -> float:
    """The scale that is already the measure's own."""
    return value
