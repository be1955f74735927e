"""What a fairness audit finds: contrasts with verdicts, extremes, and who became invisible."""

from typing import Literal

from cohortium.common.document import Document
from cohortium.common.evaluating import Criterion

Verdict = Literal["within margin", "GAP", "inconclusive", "not measured"]


class Contrast(Document):
    """One group against the reference group of its attribute, by one criterion.

    site: None over all sites that show both. gap: value - reference_value (for `calibration` the
    ratio), with its 95% interval. p: two-sided, of no gap; adjusted by Holm for primary contrasts,
    by Benjamini and Hochberg for the others. detectable: the smallest gap that so many patients
    would show with a power of 80%. base_rate: share with the outcome.
    """

    attribute: str
    level: str
    reference: str
    criterion: Criterion
    site: str | None
    primary: bool
    margin: float
    n: int | None = None
    reference_n: int | None = None
    base_rate: float | None = None
    reference_base_rate: float | None = None
    value: float | None = None
    reference_value: float | None = None
    gap: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    adjusted_p: float | None = None
    detectable: float | None = None
    verdict: Verdict
    reason: str = ""


class Extreme(Document):
    """Over all levels of an attribute: the worst value and the largest gap, with intervals.

    From a bootstrap of the counts, as the largest of several gaps is biased upwards.
    """

    attribute: str
    criterion: Criterion
    worst_level: str
    worst: float
    worst_low: float
    worst_high: float
    gap: float
    gap_low: float
    gap_high: float
    levels: int


class Invisible(Document):
    """A group that an audit cannot see at a site; `site` None: at none."""

    attribute: str
    level: str
    site: str | None
    reason: str


class FairnessAudit(Document):
    """Everything found, in the study's order of attributes, levels and criteria."""

    contrasts: tuple[Contrast, ...]
    extremes: tuple[Extreme, ...]
    invisible: tuple[Invisible, ...]
