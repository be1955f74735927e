"""part11/: e-signatures as 21 CFR 11.50 and 11.70 want them shown; controls of subparts B and C.

An engineering reading: whether a record falls under Part 11 is for the people who keep it to say.
"""

from collections.abc import Iterator

from cohortium.common.audit.evidence import ESignature, Evidence, Files
from cohortium.common.audit.paper import subject
from cohortium.common.audit.paper.control import counted, of, remaining, shown, tally
from cohortium.common.audit.paper.text import (
    csv_file,
    markdown,
    paragraphs,
    table,
)

SIGNATURES = "part11/esignatures.csv"
CONTROLS = "part11/controls.md"
FRAMEWORK = "21 CFR 11"
HEADER = (
    "study",
    "record",
    "printed name (11.50(a)(1))",
    "date and time (11.50(a)(2))",
    "meaning (11.50(a)(3))",
    "role",
    "user",
    "how identified (11.200)",
    "sha256 of the signed record (11.70)",
    "algorithm",
    "key",
    "signature",
)


def esignatures(evidence: Evidence) -> dict[str, bytes]:
    """One row for each e-signature; that of the export itself is log/seal.json."""
    rows = [
        (facts.study.name, what, *_signature(said))
        for facts, what, said in subject.signatures(evidence)
    ]
    return {SIGNATURES: csv_file(HEADER, [*rows, *_approvals(evidence)])}


def _signature(said: ESignature) -> tuple[str, ...]:
    return (
        said.name,
        said.at,
        said.meaning,
        said.role,
        said.user,
        said.auth,
        said.signed,
        said.algorithm,
        said.key,
        said.signature,
    )


def _approvals(evidence: Evidence) -> Iterator[tuple[str, ...]]:
    """Approvals were signed at the sites: here stands who decided, and that the block is there."""
    elsewhere = "the signed approval is in the site's own database"
    for facts in evidence.studies:
        for site, (persons, at) in subject.approvals(evidence, facts).items():
            what = f"approval of the study on the data of {site}"
            known = (facts.study.name, what, persons, at, "approval", "", "", elsewhere)
            yield (*known, facts.digest, "", "", "")


def part11_controls(evidence: Evidence, files: Files) -> dict[str, bytes]:
    actions = tally(evidence)
    rows = [
        (
            one.reference,
            markdown(one.title),
            markdown(one.emits),
            markdown(shown(one, files) or "-"),
            markdown(counted(one, actions) or "-"),
            markdown(remaining(one, files)),
        )
        for one in of(FRAMEWORK)
    ]
    return {
        CONTROLS: paragraphs(
            "# 21 CFR Part 11: controls and what is left to do",
            "An engineering reading, not a claim of compliance. Installation, operational and "
            "performance qualification (IQ, OQ, PQ) are the user's. The e-signatures are in "
            "esignatures.csv beside this file.",
            table(("section", "asks", "the system emits", "files", "events", "residual gap"), rows),
        )
    }
