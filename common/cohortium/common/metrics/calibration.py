"""Calibration: the logistic regression of the outcome on logit(score).

A slope of 1 and an intercept of 0 are a calibrated model; below 1 its scores are too extreme (Cox
1958, Biometrika 45:562). The fit over all sites is that of their rows put together: gradient and
information at a point are sums over patients, so that Newton's method needs only their totals. One
iteration serves a site's own rows, and sites that are asked in turn: `newton` says where to look
next and is told the sums there.
"""

import math
from collections.abc import Callable, Generator, Mapping
from typing import Annotated, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cohortium.common.document import Document
from cohortium.common.metrics.intervals import Z_95
from cohortium.common.metrics.tallies import Calibration

CLOSEST = 1e-6  # to 0 or 1 that a score counts; logits then lie within +-FURTHEST
FURTHEST = math.log((1 - CLOSEST) / CLOSEST)  # 13.8
LEAST_OF_A_CLASS = 2
OWN_STEPS = 100  # a site's own rows cost nothing to look at again
EXACT, ROUGH = 1e-4, 0.1  # Newton steps, in standard errors, after which there is no further one
LONGEST = (5.0, 2.0)  # step in intercept and slope
FLAT = 1e-9  # share of the information that is left of the slope's beside the intercept's
DECIMALS, DIGITS = 3, 3  # of a site's own fit, and of its variances, that are shown

TOO_EVEN = "the scores vary too little for a slope"
TOO_FAR = "the best slope or intercept lies beyond what sites answer, as where scores separate"
NO_END = "the fit does not converge, as where scores separate"

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Point(Document):
    """An intercept and a slope at which sums are asked for."""

    intercept: float
    slope: float


class Sums(Document):
    """Over patients with outcome y and p = expit(intercept + slope x), x = logit(score).

    gradient: of y - p and (y - p) x. information: of p (1 - p) times 1, x and x squared. rounding:
    variance of the rounding error in each of them, 0 where they are exact.
    """

    gradient: tuple[float, float]
    information: tuple[float, float, float]
    rounding: Annotated[float, Field(ge=0)] = 0.0

    def __add__(self, other: "Sums") -> "Sums":
        (a, b), (c, d, e) = self.gradient, self.information
        (f, g), (h, i, j) = other.gradient, other.information
        return Sums(
            gradient=(a + f, b + g),
            information=(c + h, d + i, e + j),
            rounding=self.rounding + other.rounding,
        )


class Points(Document):
    """Where sums are asked for: overall, and of `groups[attribute][level]`, as far as wanted."""

    overall: Point | None
    groups: Mapping[str, Mapping[str, Point]]


class PooledFit(Document):
    """The fit over `sites`, with 95% Wald intervals; None is unknown, `reason` says why."""

    fit: Calibration | None = None
    intercept: tuple[float, float] | None = None
    slope: tuple[float, float] | None = None
    sites: tuple[str, ...] = ()
    reason: str = ""


class PooledCalibration(Document):
    """Overall and by `groups[attribute][level]`, after so many `steps`.

    `refused`: "rule: explanation" of each site that was asked and is in no fit.
    """

    overall: PooledFit
    groups: Mapping[str, Mapping[str, PooledFit]]
    steps: int
    refused: Mapping[str, str]


T = TypeVar("T")
Group = tuple[str, str]  # attribute and level
EVERYBODY: Group = ("", "")
Box = tuple[tuple[float, float], tuple[float, float]]  # lowest and highest intercept, and slope
Found = Calibration | str  # or why there is none

MAX_STEPS = 8  # that a site answers
BOX: Box = ((-10.0, 10.0), (0.0, 10.0))  # where it answers; 10 is a score far too timid
START = Point(intercept=0.0, slope=1.0)
ANYWHERE: Box = ((-math.inf, math.inf), (-math.inf, math.inf))


def flat(overall: T | None, groups: Mapping[str, Mapping[str, T]]) -> dict[Group, T]:
    """What is said overall (as EVERYBODY) and by attribute and level, in one mapping."""
    first = {} if overall is None else {EVERYBODY: overall}
    return first | {(a, level): v for a, found in groups.items() for level, v in found.items()}


def by_level(found: Mapping[Group, T]) -> dict[str, dict[str, T]]:
    """`groups[attribute][level]` of what `flat` makes; EVERYBODY is left out."""
    groups: dict[str, dict[str, T]] = {}
    for (attribute, level), value in found.items():
        if (attribute, level) != EVERYBODY:
            groups.setdefault(attribute, {})[level] = value
    return groups


def logits(scores: NDArray[np.float32] | Floats) -> Floats:
    """logit(score), within +-FURTHEST."""
    inside = np.clip(np.asarray(scores, np.float64), CLOSEST, 1 - CLOSEST)
    return np.log(inside) - np.log1p(-inside)


def probabilities(x: Floats, point: Point) -> Floats:
    """expit(intercept + slope x)."""
    return np.asarray(0.5 * (1 + np.tanh((point.intercept + point.slope * x) / 2)))


def sums_at(x: Floats, positive: Flags, point: Point) -> Sums:
    """The sums over patients with logits `x` (n,), of whom `positive` (n,) have the outcome."""
    p = probabilities(x, point)
    wrong, undecided = positive - p, p * (1 - p)
    parts = (wrong, wrong * x, undecided, undecided * x, undecided * x**2)
    a, b, c, d, e = (float(part.sum()) for part in parts)  # no BLAS: the same bits everywhere
    return Sums(gradient=(a, b), information=(c, d, e))


def newton(steps: int, box: Box) -> Generator[Point, Sums, Found]:
    """Where the sums are wanted next, until the fit is found; at most so many times.

    The likelihood is concave. A step is shortened to `LONGEST`, and halved where it went too far:
    the gradient along it has turned round and grown, or nothing is left to curve. The last step is
    taken without another look: what it leaves is of the order of its square, in standard errors.
    """
    at, move, before = np.array([START.intercept, START.slope]), np.zeros(2), 0.0
    for _ in range(steps):
        sums = yield Point(intercept=float(at[0]), slope=float(at[1]))
        gradient, covariance = np.array(sums.gradient), _inverse(sums)
        if covariance is None and not move.any():
            return TOO_EVEN
        small = 0.0 if covariance is None else _small(sums, covariance)
        if covariance is None or -float(gradient @ move) > before + small:
            move, before = move / 2, before / 2
            at = at - move
            continue
        full = covariance @ gradient
        if float(gradient @ full) <= small:
            return TOO_FAR if _reach(at, full, box) < 1 else _found(at + full, covariance, sums)
        reach = min(1.0, *(np.array(LONGEST) / np.maximum(np.abs(full), 1e-300)))
        move = full * min(reach, _reach(at, full, box))
        if not move.any():
            return TOO_FAR
        at, before = at + move, float(gradient @ move)
    return NO_END


def site_fit(scores: NDArray[np.float32] | Floats, positive: Flags) -> Calibration | None:
    """One site's own fit; None with fewer than two of a class, or scores that separate them.

    Args:
        scores: (n,) probabilities; `positive` (n,) who has the outcome.
    """
    x = logits(scores)
    if min(positive.sum(), (~positive).sum()) < LEAST_OF_A_CLASS or _separate(x, positive):
        return None
    found = drive(newton(OWN_STEPS, ANYWHERE), lambda point: sums_at(x, positive, point))
    return None if isinstance(found, str) else found


def drive(steps: Generator[Point, Sums, Found], look: Callable[[Point], Sums]) -> Found:
    """Answer a fit's every question by `look`."""
    try:
        point = next(steps)
        while True:
            point = steps.send(look(point))
    except StopIteration as end:
        found: Found = end.value
        return found


def shown(calibration: Calibration | None, minimum_cell: int) -> Calibration | None:
    """What a site may show of its own fit, where it may show means: rounded.

    Nothing, where it is so steep that fewer than half a cell's worth of patients are undecided:
    the sum of p (1 - p) is then below minimum_cell / 2, and the fit would tell how many score
    above its middle. With minimum_cell 0, all of it.
    """
    if calibration is None or minimum_cell == 0:
        return calibration
    a, b, c = calibration.intercept_variance, calibration.covariance, calibration.slope_variance
    if c < minimum_cell / 2 * (a * c - b * b):
        return None
    return Calibration(
        intercept=round(calibration.intercept, DECIMALS),
        slope=round(calibration.slope, DECIMALS),
        intercept_variance=_cut(a),
        slope_variance=_cut(c),
        covariance=_cut(b),
    )


def pooled_fit(found: Found, sites: tuple[str, ...]) -> PooledFit:
    """A fit with its intervals; their width counts what rounding may have moved."""
    if isinstance(found, str):
        return PooledFit(sites=sites, reason=found)
    return PooledFit(
        fit=found,
        intercept=_wald(found.intercept, found.intercept_variance),
        slope=_wald(found.slope, found.slope_variance),
        sites=sites,
    )


def _wald(value: float, variance: float) -> tuple[float, float]:
    reach = Z_95 * math.sqrt(variance)
    return value - reach, value + reach


def _separate(x: Floats, positive: Flags) -> bool:
    """Whether one cut of the score parts all with the outcome from all without it."""
    ill, well = x[positive], x[~positive]
    return bool(ill.min() >= well.max() or ill.max() <= well.min())


def _inverse(sums: Sums) -> Floats | None:
    """The covariance of intercept and slope, or None where the sums do not tell them apart."""
    a, b, c = sums.information
    left = a * c - b * b
    if a <= 0 or c <= 0 or left <= FLAT * a * c:
        return None
    return np.array([[c / left, -b / left], [-b / left, a / left]])


def _reach(at: Floats, step: Floats, box: Box) -> float:
    """How much of a step, up to 1, stays within the box."""
    most = 1.0
    for place, by, (low, high) in zip(at, step, box, strict=True):
        room = high - place if by > 0 else low - place
        if by and abs(room) < abs(by):
            most = min(most, float(room / by))
    return max(most, 0.0)


def _small(sums: Sums, covariance: Floats) -> float:
    """The squared length in standard errors of a step that need not be looked at again.

    Rounding alone makes steps with a variance of `rounding` times the variances: what is below four
    of its standard deviations may be nothing else.
    """
    if not sums.rounding:
        return EXACT**2
    return float(ROUGH**2 + 16 * sums.rounding * covariance.trace())


def _found(at: Floats, covariance: Floats, sums: Sums) -> Calibration:
    total = covariance + sums.rounding * covariance @ covariance
    return Calibration(
        intercept=float(at[0]),
        slope=float(at[1]),
        intercept_variance=float(total[0, 0]),
        slope_variance=float(total[1, 1]),
        covariance=float(total[0, 1]),
    )


def _cut(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
