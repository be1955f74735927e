"""What a fairness audit finds: contrasts with verdicts, extremes, and who became invisible."""

from collections.abc import Mapping
from typing import Literal

from cohortium.common.document import Document
from cohortium.common.evaluating import Criterion

Verdict = Literal["within margin", "GAP", "inconclusive", "not measured"]


class Contrast(Document):
    """One group against the reference group of its attribute, by one criterion.

    outcome: the class or label that is called, where there are several; empty for yes or no.
    site: None over all sites that show both groups; `sites` names those that are counted.
    n: patients in the group, and `base_rate` the share of them with the outcome; of: the patients
    that `value` is a share of, such as those with the outcome for a sensitivity.
    gap: value - reference_value (for `calibration` value / reference_value), with its 95% interval.
    p: two-sided, of no gap; adjusted by Holm for primary contrasts, by Benjamini and Hochberg for
    the others. detectable: the smallest true gap that so many patients would get the verdict GAP
    for with a power of 80%; None where no gap would.
    """

    attribute: str
    level: str
    reference: str
    criterion: Criterion
    outcome: str = ""
    site: str | None
    sites: tuple[str, ...] = ()
    primary: bool
    margin: float
    n: int | None = None
    reference_n: int | None = None
    of: int | None = None
    reference_of: int | None = None
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


class EqualisedOdds(Document):
    """Equal opportunity and false positive rate together: the worse of their two verdicts.

    gap: the larger of the two, without sign.
    """

    attribute: str
    level: str
    reference: str
    outcome: str = ""
    site: str | None
    gap: float | None
    verdict: Verdict


class Extreme(Document):
    """Over all levels of an attribute: the worst value and the largest gap, with 95% intervals.

    The largest of several gaps is biased upwards by luck: worst_level, worst and gap are those of
    `shrunken`, every level's value pulled towards that of all together, the more the fewer patients
    it has. The intervals, from a bootstrap of the counts, hold whichever level is the worst. All of
    `levels` at the same `sites`. The worst value is the highest for false_positive_rate, the lowest
    for every other criterion.
    """

    attribute: str
    criterion: Criterion
    outcome: str = ""
    sites: tuple[str, ...] = ()
    worst_level: str
    worst: float
    worst_low: float
    worst_high: float
    gap: float
    gap_low: float
    gap_high: float
    levels: int
    shrunken: Mapping[str, float] = {}


class Invisible(Document):
    """A group that an audit cannot see at a site; `site` None: at none."""

    attribute: str
    level: str
    site: str | None
    reason: str


class FairnessAudit(Document):
    """Everything found, in the study's order of attributes, levels and criteria."""

    contrasts: tuple[Contrast, ...]
    equalised_odds: tuple[EqualisedOdds, ...] = ()
    extremes: tuple[Extreme, ...]
    invisible: tuple[Invisible, ...]
