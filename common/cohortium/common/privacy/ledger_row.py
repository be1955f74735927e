"""One row of a site's privacy ledger: all that somebody else needs to compute its epsilon again.

Numbers are decimal strings, as in the event log: their bytes, and the row's hash, are the same
everywhere. `dp` is dp-accounting's interchange record (`DpEvent`) as JSON, with `type` first:

    {"type": "SelfComposed", "count": 25, "event": {"type": "PoissonSampled",
     "sampling_probability": "0.04", "event": {"type": "Gaussian", "noise_multiplier": "1.1"}}}
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from cohortium.common.document import Document

Decimal = Annotated[str, Field(pattern=r"^(-?\d+(\.\d+)?(e[+-]?\d+)?|inf)$")]
Digest = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
Purpose = Literal["training", "measurement", "validation", "evaluation"]


class Accountant(Document):
    """Which program computed an epsilon, and how it was set."""

    name: str
    version: str
    settings: Mapping[str, str] = {}


class CrossCheck(Document):
    """The same epsilon by another program; `agrees` within 0.02, or relative to the larger."""

    accountant: Accountant
    epsilon: Decimal
    agrees: bool


class Lifetime(Document):
    """The dataset's account at `delta`: everything ever done with it, in all studies.

    before, after: PLD epsilon as reported. spent, limit: Renyi divergence at `order`, the filter
    that the site enforces.
    """

    before: Decimal
    after: Decimal
    cap: Decimal
    delta: Decimal
    filter: Literal["renyi"] = "renyi"
    order: Decimal
    spent: Decimal
    limit: Decimal


class Earlier(Document):
    """What a study had spent of the dataset, for a purpose, before rows were written in full."""

    study: str
    purpose: Purpose
    dp: Mapping[str, Any]


class LedgerRow(Document):
    """What one round, or a loss of records that was counted as spent, took of a dataset.

    id: `site-row`, row counting from 1. prev: SHA-256 of the site's row before, "" for the first.
    lineage: datasets of one population share a budget. study: its digest; round: below 1 for a
    loss. epsilon: of this study so far, for the same purpose, at `delta`. code: digest of the
    installed code; software: versions of what computes. cross_check: of all the steps that were
    planned, when they were set aside. earlier: only in a dataset's first row, where there were rows
    before this form: without them nobody could compute its lifetime again.
    """

    v: Literal[1] = 1
    id: str
    prev: Digest
    site: str
    dataset: str
    lineage: str
    study: Digest
    round: int
    purpose: Purpose
    unit: Literal["patient"] = "patient"
    max_records_per_unit: int = 1
    adjacency: Literal["add-or-remove-one"] = "add-or-remove-one"
    dp: Mapping[str, Any]
    sampler: Literal["poisson", "full-batch"]
    sample_rate: Decimal
    noise_multiplier: Decimal
    clip_norm: Decimal
    clipping: str
    steps: int
    steps_planned: int
    rng: str
    floating_point: str
    delta: Decimal
    epsilon: Decimal
    accountant: Accountant
    cross_check: CrossCheck | None = None
    lifetime: Lifetime
    code: str
    software: Mapping[str, str]
    at: str
    earlier: tuple[Earlier, ...] = ()
