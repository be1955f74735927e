"""What a report says beyond the measures: groups, curves, calibration, other models, the release.

A number that is not known or not shown is None, and `reason` says why. `site` None is all patients
of the sites that show it; of them there are `sites`.
"""

from typing import Literal

from cohortium.common.document import Document
from cohortium.common.explaining.document import Told
from cohortium.common.metrics.performance import Performance
from cohortium.common.metrics.reliability import ReliabilityBin


class GroupPerformance(Document):
    """Every measure for one level of a declared attribute, or of an intersection of two."""

    attribute: str
    level: str
    performance: tuple[Performance, ...]


class Curve(Document):
    """Reliability of a score: of a site or pooled, for one class or label where there are more."""

    subject: str
    site: str | None
    sites: int
    bins: tuple[ReliabilityBin, ...] = ()
    reason: str = ""


class NetBenefit(Document):
    """At a threshold, over the sites that show the counts (Vickers & Elkin 2006).

    True positives less false ones at the threshold's odds, per patient, with a 95% interval;
    `treat_all`: of calling every patient positive. Calling nobody has 0.
    """

    threshold: float
    sites: int
    n: int
    value: float
    low: float
    high: float
    treat_all: float


class CalibrationLine(Document):
    """Logistic fit of the outcome on logit(score): intercept 0 and slope 1 are right.

    `attribute` and `level` are empty for all patients. `sites`: how many a pooled fit is over.
    """

    site: str | None
    sites: int = 1
    attribute: str = ""
    level: str = ""
    intercept: float | None = None
    intercept_low: float | None = None
    intercept_high: float | None = None
    slope: float | None = None
    slope_low: float | None = None
    slope_high: float | None = None
    reason: str = ""


class Horizon(Document):
    """Predicted and observed risk at a horizon; observed by Kaplan and Meier, with 95% interval."""

    horizon: float
    site: str | None
    sites: int
    n: int | None
    predicted: float | None = None
    observed: float | None = None
    observed_low: float | None = None
    observed_high: float | None = None
    reason: str = ""


class FlagState(Document):
    """A finding that keeps a gate of the release open, until a named person has answered for it.

    `id` is None where it would tell which site the flag is about.
    """

    id: str | None
    gate: str
    site: str | None
    subject: str
    numbers: str = ""
    open: bool
    decision: str | None = None
    reason: str = ""
    by: str | None = None
    at: str | None = None


class ReleaseReport(Document):
    """Whether the model was released, by whom, and what was overridden.

    problem: why a release that was signed does not hold any more.
    """

    state: Literal["released", "released with open flags", "not released"]
    by: str | None = None
    at: str | None = None
    reason: str = ""
    problem: str = ""
    flags: tuple[FlagState, ...] = ()


class ExplainedReport(Document):
    """What the final model goes by: means in which each of `sites` counts the same.

    `letters`: of a sequence, in the order of a motif's columns.
    """

    told: tuple[Told, ...]
    sites: int
    letters: str = ""
