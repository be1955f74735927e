"""placeholder until written."""

from cohortium.common.audit.evidence import Evidence


def require_pdf() -> None:
    """x."""


def pdf_files(evidence: Evidence) -> dict[str, bytes]:
    """x."""
    return {}
