"""Who writes which files of a bundle: functions from the evidence to bytes by path.

A writer is deterministic: no clock, no randomness, no database of its own. The files of `log/` and
the manifest, which come after the seal, are not among them.
"""

from collections.abc import Callable

from cohortium.common.audit import bundle, cef, ecs, fhir
from cohortium.common.audit.evidence import Evidence, Files
from cohortium.common.audit.paper.papers import PAPERS, indexes
from cohortium.common.audit.report.files import fairness_files, report_files, study_files
from cohortium.common.errors import CohortiumError

Writer = Callable[[Evidence], Files]

WRITERS: tuple[Writer, ...] = (
    bundle.own_files,
    report_files,
    fairness_files,
    study_files,
    fhir.files,
    ecs.files,
    cef.files,
    *PAPERS,
)


def write_all(evidence: Evidence, further: tuple[Writer, ...] = ()) -> dict[str, bytes]:
    """Every file that is under the manifest, by path.

    Args:
        further: writers that were asked for, such as that of the PDF.

    Raises:
        CohortiumError: two writers want the same path, a mistake of ours.
    """
    files = dict[str, bytes]()
    for writer in (*WRITERS, *further):
        for path, content in writer(evidence).items():
            if path in files:
                raise CohortiumError(f"two writers of this export write {path}")
            files[path] = content
    return dict(sorted({**files, **indexes(evidence, files)}.items()))
