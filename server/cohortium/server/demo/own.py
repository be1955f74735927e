"""A study of the user's own in the demonstration: its documents, and one file for each site."""

import re
import shutil
from pathlib import Path

from cohortium.common.document import read_toml
from cohortium.common.errors import CohortiumError, UsageError
from cohortium.common.study import load_study, start_file
from cohortium.server.demo.data import MINIMUM_CELL, DemoData

START = "start.safetensors"


def own_study(study: Path, tables: Path, directory: Path, rounds: int | None) -> DemoData:
    """Copy study and schema into `directory`; the files of the sites stay where they are.

    Args:
        tables: a directory with `<site>.csv`, or another ending that the sites' readers know, for
            each site that the study names.
        rounds: instead of the study's own.

    Raises:
        DocumentError: the study is not valid.
        UsageError: a site has no file, or several.
    """
    loaded = load_study(study)
    found = {site: _file(tables, site) for site in loaded.sites.names}
    schema = study.parent / read_toml(study)["data"]["schema"]
    text, start = study.read_text(encoding="utf-8"), start_file(study)
    text = re.sub(r"(?m)^schema = .*$", 'schema = "schema.toml"', text)
    if rounds is not None:
        text = re.sub(r"(?m)^rounds = \d+", f"rounds = {rounds}", text)
    try:
        directory.mkdir(parents=True)
        (directory / "schema.toml").write_text(schema.read_text(encoding="utf-8"), encoding="utf-8")
        if start is not None:
            shutil.copy(start, directory / START)
            text = re.sub(r"(?m)^start = .*$", f'start = "{START}"', text)
        (directory / "study.toml").write_text(text, encoding="utf-8")
    except OSError as error:
        raise CohortiumError(f"{directory}: cannot be written ({error.strerror})") from None
    return DemoData(
        tuple(loaded.sites.names),
        found,
        directory / "schema.toml",
        directory / "study.toml",
        MINIMUM_CELL,
    )


def _file(tables: Path, site: str) -> Path:
    there = sorted(path for path in tables.glob(f"{site}.*") if path.stem == site)
    if len(there) != 1:
        many = "several files" if there else "no file"
        raise UsageError(
            f'--tables {tables}: {many} for site "{site}"; give one, such as {site}.csv'
        )
    return there[0].resolve()
