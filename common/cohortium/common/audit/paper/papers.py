"""All papers of a bundle.

`PAPERS` need the evidence alone. `INDEXES` name files of the bundle, so they come after all others
and see them; the RO-Crate lists everything and comes last.
"""

from collections.abc import Callable

from cohortium.common.audit.evidence import Evidence, Files
from cohortium.common.audit.paper.annex_iv import annex_iv
from cohortium.common.audit.paper.chai import chai_cards
from cohortium.common.audit.paper.crate import PATH, crate
from cohortium.common.audit.paper.crosswalk import crosswalk
from cohortium.common.audit.paper.datasheets import datasheets
from cohortium.common.audit.paper.dpia import dpia
from cohortium.common.audit.paper.hipaa import security_rule
from cohortium.common.audit.paper.mlbom import mlboms
from cohortium.common.audit.paper.model_card import model_cards
from cohortium.common.audit.paper.part11 import esignatures, part11_controls
from cohortium.common.audit.paper.provenance import provenances
from cohortium.common.audit.paper.ropa import ropa
from cohortium.common.audit.paper.sbom import sboms
from cohortium.common.audit.paper.sp800_226 import sp800_226
from cohortium.common.audit.paper.worksheet_1557 import worksheet_1557

PAPERS: tuple[Callable[[Evidence], dict[str, bytes]], ...] = (
    model_cards,
    chai_cards,
    mlboms,
    sboms,
    provenances,
    datasheets,
    dpia,
    ropa,
    sp800_226,
    esignatures,
    worksheet_1557,
)
INDEXES: tuple[Callable[[Evidence, Files], dict[str, bytes]], ...] = (
    security_rule,
    part11_controls,
    crosswalk,
    annex_iv,
)
_LAST = ("hipaa/security-rule.csv", "part11/controls.md", "controls/crosswalk.csv",
         "annex-iv/index.md", PATH)  # fmt: skip


def indexes(evidence: Evidence, files: Files) -> dict[str, bytes]:
    """The files that name others, of a bundle of these files; each may name the other indexes."""
    known = {**dict.fromkeys(_LAST, b""), **files}
    made = {path: text for index in INDEXES for path, text in index(evidence, known).items()}
    return {**made, PATH: crate(evidence, {**files, **made})}
