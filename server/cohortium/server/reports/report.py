"""One study's report on disk: report.html for people, report.json and CSV files for machines."""

import json
from pathlib import Path

from cohortium.common.errors import CohortiumError
from cohortium.server.reports.page import html
from cohortium.server.reports.report_data import ReportData
from cohortium.server.reports.tables import tables


def write_report(data: ReportData, directory: Path) -> Path:
    """Write report.html, report.json and the CSV files; return the page's path.

    The same data give the same bytes.

    Raises:
        CohortiumError: the directory cannot be written.
    """
    document = json.dumps(data.model_dump(mode="json"), indent=2, ensure_ascii=False)
    files = {
        "report.html": html(data),
        "report.json": document + "\n",
        **{f"{name}.csv": table.csv() for name, table in tables(data).items()},
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise CohortiumError(
            f"{directory}: the report cannot be written ({error.strerror}); choose another place"
        ) from None
    return directory / "report.html"
