"""Everything that a study's report says, as one plain value: it is also written as report.json.

A number that is not known, not measured or suppressed is None, never 0. Shares lie in 0 to 1.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from cohortium.common.document import Document
from cohortium.common.fairness.verdicts import FairnessAudit
from cohortium.common.metrics.performance import Performance
from cohortium.common.metrics.value import Value
from cohortium.server.reports.findings import (
    CalibrationLine,
    Curve,
    ExplainedReport,
    GroupPerformance,
    Horizon,
    NetBenefit,
    ReleaseReport,
)

Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


class Traffic(Document):
    """Messages of one kind that left a site, and their bytes on the wire altogether."""

    kind: str
    count: Count
    bytes: Count


class SiteReport(Document):
    """One hospital: consent, privacy, what left it, and how the model does on its test patients.

    `epsilon_spent` is this study's, `epsilon_lifetime` that of all studies on the data set,
    composed (never added); `n` counts test patients; `headline` is what this kind of outcome is
    followed by, such as accuracy; `majority` is the accuracy of always giving
    the site's more frequent outcome. `sampler` is None without privacy.
    `external`: the site trains on none of its patients.
    """

    name: str
    patients_band: str
    approved_by: str | None = None
    approved_at: str | None = None
    epsilon_spent: NotNegative | None = None
    epsilon_lifetime: NotNegative | None = None
    epsilon_cap: NotNegative | None = None
    delta: NotNegative | None = None
    sampler: Literal["poisson", "full-batch"] | None = None
    noise_multiplier: NotNegative | None = None
    steps: Count | None = None
    unit: str = "patient"
    headline: Mapping[str, float | None] = {}
    majority: Share | None = None
    n: Count | None = None
    external: bool = False
    messages: tuple[Traffic, ...] = ()
    reasons: tuple[str, ...] = ()
    log_size: Count | None = None
    log_head: str | None = None


class RoundReport(Document):
    """One round: how long it took, who replied, and the unweighted means over the sites.

    `replied` and `missing` are None in a blinded report: who was away on a day is known.
    """

    round: Count
    seconds: NotNegative | None = None
    headline: Mapping[str, float | None] = {}
    replied: tuple[str, ...] | None = ()
    missing: tuple[str, ...] | None = ()


class Summary(Document):
    """The final model over the sites that measured it.

    `headline`: means of the sites, `weighted` by their patients. `majority_accuracy` is what a
    model must beat: the mean of the sites' `majority`, weighted as accuracy is.
    """

    headline: Mapping[str, float | None] = {}
    weighted: Mapping[str, float | None] = {}
    majority_accuracy: Share | None = None
    sites_measured: Count = 0


class ModelReport(Document):
    """The released file; `load` is the Python that reads it."""

    file: str
    sha256: str
    parameters: Count
    bytes: Count | None = None
    load: str | None = None


class Proof(Document):
    """What somebody else can check. Times are RFC 3339 in UTC."""

    tls: str | None = None
    ca_fingerprint: str | None = None
    study_digest: str
    coordinator_log_size: Count | None = None
    coordinator_log_head: str | None = None
    started: str | None = None
    finished: str | None = None
    version: str
    hosts: tuple[str, ...] = ()


class Promise(Document):
    """What each patient was promised; epsilon None: no differential privacy.

    spent: the most of it that any site has spent. noise_epsilon: of the noise in the counts by
    group, where the study asks for it.
    """

    spent: NotNegative | None = None
    epsilon: NotNegative | None = None
    delta: NotNegative | None = None
    noise_epsilon: NotNegative | None = None


class ReportData(Document):
    """One study's report. `minimum_cell`: groups with fewer test patients are not shown.

    `performance` holds every measure of the final model with its intervals, `by_group` the same
    by group. `blinding`: `none`, `blinded`, or `coordinator`: the coordinator's own copy of a study
    whose shared reports are blinded. `traffic`: over all sites, where a
    blinded report does not give it by site. `release` is None before the study has completed.
    `own`: patterns of the parameters that are each site's own, with which it was measured.
    """

    study: str
    purpose: str
    legal_basis: str | None = None
    outcome: str | None = None
    kind: str = "binary"
    state: str
    blinding: Literal["none", "blinded", "coordinator"] = "none"
    minimum_cell: Count | None = None
    own: tuple[str, ...] = ()
    promise: Promise = Promise()
    sites: tuple[SiteReport, ...]
    summary: Summary = Summary()
    performance: tuple[Performance, ...] = ()
    by_group: tuple[GroupPerformance, ...] = ()
    audit: FairnessAudit | None = None
    reliability: tuple[Curve, ...] = ()
    net_benefit: tuple[NetBenefit, ...] = ()
    calibration: tuple[CalibrationLine, ...] = ()
    horizons: tuple[Horizon, ...] = ()
    worth: Value = Value()
    explained: ExplainedReport | None = None
    release: ReleaseReport | None = None
    rounds: tuple[RoundReport, ...] = ()
    traffic: tuple[Traffic, ...] = ()
    model: ModelReport | None = None
    proof: Proof
