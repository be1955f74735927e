"""Everything that a study's report says, as one plain value: it is also written as report.json.

A number that is not known, not measured or suppressed is None, never 0. Shares lie in 0 to 1.
"""

from typing import Annotated, Literal

from pydantic import Field

from cohortium.common.document import Document
from cohortium.common.metrics.performance import Performance

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
    composed (never added); `n` counts test patients; `majority` is the accuracy of always giving
    the site's more frequent outcome. `sampler` is None without privacy.
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
    accuracy: Share | None = None
    auroc: Share | None = None
    log_loss: NotNegative | None = None
    majority: Share | None = None
    n: Count | None = None
    messages: tuple[Traffic, ...] = ()
    reasons: tuple[str, ...] = ()
    log_size: Count | None = None
    log_head: str | None = None


class GroupReport(Document):
    """One group of patients over all sites that could show it; `_low`, `_high`: 95% Wilson."""

    attribute: str
    level: str
    accuracy: Share | None = None
    accuracy_low: Share | None = None
    accuracy_high: Share | None = None
    sensitivity: Share | None = None
    sensitivity_low: Share | None = None
    sensitivity_high: Share | None = None
    selection_rate: Share | None = None
    selection_rate_low: Share | None = None
    selection_rate_high: Share | None = None
    n: Count | None = None
    sites_shown: Count
    sites_total: Count
    reason: str | None = None


class RoundReport(Document):
    """One round: how long it took, who replied, and the unweighted means over the sites."""

    round: Count
    seconds: NotNegative | None = None
    accuracy: Share | None = None
    auroc: Share | None = None
    log_loss: NotNegative | None = None
    replied: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


class Summary(Document):
    """The final model over the sites that measured it.

    `majority_accuracy` is what a model must beat: the mean of the sites' `majority`, weighted as
    `accuracy_weighted`.
    """

    accuracy_mean: Share | None = None
    accuracy_weighted: Share | None = None
    auroc_mean: Share | None = None
    log_loss_mean: NotNegative | None = None
    majority_accuracy: Share | None = None
    sites_measured: Count = 0


class ModelReport(Document):
    """The released file; `load` is the Python that reads it."""

    file: str
    sha256: str
    parameters: Count
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


class ReportData(Document):
    """One study's report. `minimum_cell`: groups with fewer test patients are not shown.

    `performance` holds every measure of the final model with its intervals.
    """

    study: str
    purpose: str
    legal_basis: str | None = None
    outcome: str | None = None
    state: str
    minimum_cell: Count | None = None
    sites: tuple[SiteReport, ...]
    groups: tuple[GroupReport, ...] = ()
    performance: tuple[Performance, ...] = ()
    rounds: tuple[RoundReport, ...] = ()
    summary: Summary = Summary()
    model: ModelReport | None = None
    proof: Proof
