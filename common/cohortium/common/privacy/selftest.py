"""The result of an empirical audit of private training, as it is recorded and shown.

L0 mechanism self-test, L1 orthogonal canaries with a positive control, L2 one-run audit
(Steinke, Nasr, Jagielski 2023). Only these numbers ever leave a site.
"""

from collections.abc import Mapping
from typing import Literal

from cohortium.common.document import Document
from cohortium.common.privacy.ledger_row import Decimal, Digest

Level = Literal["L0", "L1", "L2"]
Verdict = Literal["passed", "failed", "inconclusive"]


class Selftest(Document):
    """One audit.

    claim: the epsilon that was claimed for what was audited, estimate: what the audit found,
    control: what it found of a run that was broken on purpose ("" where there is none).
    checks: each check by name with `ok` or what is wrong. numbers: everything else, as decimals.
    study: digest of the study whose model and plan were used, "" for a made-up one. code: digest
    of the installed code. at: RFC 3339 in UTC.
    """

    v: Literal[1] = 1
    site: str
    level: Level
    verdict: Verdict
    words: str
    claim: Decimal | Literal[""] = ""
    estimate: Decimal | Literal[""] = ""
    control: Decimal | Literal[""] = ""
    checks: Mapping[str, str] = {}
    numbers: Mapping[str, Decimal] = {}
    study: Digest = ""
    device: str = "cpu"
    code: str
    at: str
