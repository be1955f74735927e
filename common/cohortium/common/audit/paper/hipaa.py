"""hipaa/security-rule.csv: 45 CFR 164.308, 310, 312 and 316, and what of each a person must do.

An engineering reading, not legal advice. Most of the rule is about people and buildings: there the
bundle has nothing, and the row says so.
"""

from cohortium.common.audit.evidence import Evidence, Files
from cohortium.common.audit.paper.control import counted, of, remaining, shown, tally
from cohortium.common.audit.paper.text import csv_file

PATH = "hipaa/security-rule.csv"
FRAMEWORK = "HIPAA Security Rule"
HEADER = ("section", "standard", "what the system emits", "evidence", "events", "residual")


def security_rule(evidence: Evidence, files: Files) -> dict[str, bytes]:
    actions = tally(evidence)
    rows = [
        (
            one.reference,
            one.title,
            one.emits,
            shown(one, files),
            counted(one, actions),
            remaining(one, files),
        )
        for one in of(FRAMEWORK)
    ]
    return {PATH: csv_file(HEADER, rows)}
