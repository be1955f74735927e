"""The files that this report is: the page, its tables as CSV, and the studies as approved."""

from cohortium.common.audit.evidence import Evidence
from cohortium.common.audit.report import budget, egress, fairness, record, signatures, studies
from cohortium.common.audit.report.page import page
from cohortium.common.audit.report.table import Table, csv_bytes
from cohortium.common.document import canonical


def report_files(evidence: Evidence) -> dict[str, bytes]:
    """`report/`: the page, and the tables that a compliance officer files."""
    files = {"report/report.html": page(evidence).encode()}
    for table in filed(evidence):
        files[table.file] = csv_bytes(table)
    return files


def filed(evidence: Evidence) -> tuple[Table, ...]:
    """The tables with a file of their own under `report/`."""
    left, decided = egress.messages(evidence), signatures.decisions(evidence)
    return (
        signatures.approvals(decided),
        egress.register(evidence, left),
        record.refusals(evidence),
        record.reviews(evidence),
        studies.traceability(evidence, decided, left),
        studies.open_flags(evidence),
        studies.all_flags(evidence),
        budget.budget(budget.accounts(evidence)),
        budget.by_study(evidence),
        signatures.signatures(decided),
        studies.rounds(evidence),
    )


def fairness_files(evidence: Evidence) -> dict[str, bytes]:
    """`fairness/`: contrasts, hidden groups and performance, each row as it was worked out."""
    tables = (
        fairness.contrasts(evidence),
        fairness.invisible(evidence),
        fairness.performance(evidence),
    )
    return {table.file: csv_bytes(table) for table in tables}


def study_files(evidence: Evidence) -> dict[str, bytes]:
    """`studies/NAME/study.json`: the bytes whose SHA-256 is the study's digest.

    A site may know two studies of one name: then the digest's first digits tell them apart.
    """
    names = [one.study.name for one in evidence.studies]
    return {
        f"studies/{one.study.name}{f'-{one.digest[:8]}' if names.count(one.study.name) > 1 else ''}"
        "/study.json": canonical(one.study)
        for one in evidence.studies
    }
