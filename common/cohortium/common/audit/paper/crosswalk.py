"""controls/crosswalk.csv: demands of rules, what this system emits for each, and what is left.

First what each study's own measures were, read from the evidence; then rule by rule.
"""

from collections.abc import Iterator

from cohortium.common.audit.evidence import Evidence, Files
from cohortium.common.audit.paper.annex_iv import FRAMEWORK as ANNEX_IV
from cohortium.common.audit.paper.control import (
    NO_FILE,
    controls,
    counted,
    matching,
    remaining,
    shown,
    tally,
)
from cohortium.common.audit.paper.safeguards import Safeguard, safeguards
from cohortium.common.audit.paper.text import csv_file

PATH = "controls/crosswalk.csv"
HEADER = (
    "framework",
    "control",
    "title",
    "what the system emits",
    "file",
    "events",
    "residual gap",
)
LEFT = {
    "on": "that it was configured well, and holds outside this system",
    "off": "OFF in this study: whoever relies on it must do so by other means",
    "not recorded": "nothing in this bundle shows that it was on: ask the site or the coordinator",
}


def crosswalk(evidence: Evidence, files: Files) -> dict[str, bytes]:
    return {PATH: csv_file(HEADER, [*_studies(evidence, files), *_controls(evidence, files)])}


def _studies(evidence: Evidence, files: Files) -> Iterator[tuple[str, ...]]:
    for facts in evidence.studies:
        found = matching(files, [f"studies/{facts.study.name}/study.json"])
        for one in safeguards(evidence, facts):
            yield (f"study {facts.study.name}", one.name, one.state, one.words,
                   _file(one, found, files), "", LEFT[one.state])  # fmt: skip


def _file(one: Safeguard, study: tuple[str, ...], files: Files) -> str:
    """Where a measure was read from."""
    if one.source == "study":
        return "; ".join(study) or NO_FILE
    if one.source.startswith("ledger"):
        return "; ".join(matching(files, ["privacy/ledger.jsonl"])) or NO_FILE
    if one.source == "selftests":
        return "; ".join(matching(files, ["privacy/selftests.jsonl"])) or NO_FILE
    if one.source == "log":
        return "log/checkpoint"
    return "log/events.jsonl" if "events" in one.source else "gdpr/dpia-evidence.json"


def _controls(evidence: Evidence, files: Files) -> Iterator[tuple[str, ...]]:
    actions = tally(evidence)
    for one in controls():
        if one.framework == ANNEX_IV:  # a document of its own; here it is one row
            continue
        yield (
            one.framework,
            one.reference,
            one.title,
            one.emits,
            shown(one, files),
            counted(one, actions),
            remaining(one, files),
        )
