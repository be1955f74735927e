"""All papers of a bundle at once, for tests."""

import csv
import functools
import io
from collections.abc import Mapping

from tests import evidence_samples as samples

from cohortium.common.audit.evidence import Evidence, StudyFacts
from cohortium.common.audit.paper.papers import PAPERS, indexes

OTHERS = {
    "README.txt": b"",
    "report/report.html": b"",
    "report/egress.csv": b"",
    "privacy/ledger.jsonl": b"",
    "privacy/selftests.jsonl": b"",
    "fairness/rates.json": b"",
    "studies/made-up/study.json": b"{}",
    "siem/events.cef": b"",
}


def papers(evidence: Evidence, others: Mapping[str, bytes] = OTHERS) -> dict[str, bytes]:
    """The whole bundle but for what is sealed later."""
    made = {path: text for paper in PAPERS for path, text in paper(evidence).items()}
    files = {**others, **made}
    return {**made, **indexes(evidence, files)}


@functools.cache
def facts(private: bool = True, blinded: bool = False) -> StudyFacts:
    return samples.facts(samples.study(private=private, blinded=blinded))


def text_of(files: Mapping[str, bytes]) -> str:
    return "\n".join(content.decode() for content in files.values())


def rows(files: Mapping[str, bytes], path: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(files[path].decode(), newline="")))
