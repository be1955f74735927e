"""A site's directory outlives the program: formats are migrated, other code is approved anew."""

from pathlib import Path
from typing import Any

import pytest
from tests.asking import Asker
from tests.federation import FULL, approve, make_site, write_study

from cohortium.client import database
from cohortium.client.approvals import Facts, approval_of
from cohortium.client.daemon import run
from cohortium.client.site import Site, open_site
from cohortium.common.audit.events import timestamp
from cohortium.common.audit.log import LOG_MIGRATION
from cohortium.common.cli import main
from cohortium.common.database import open_database
from cohortium.common.errors import CohortiumError
from cohortium.common.identity import SigningKey
from cohortium.common.messages import Update
from cohortium.common.study import Study

LATER = ("purpose", "row", "cross_check")
TABLES = ("studies", "approvals", "replies", "ledger", "reservations", "events")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path, FULL)


@pytest.fixture
def asker(tmp_path: Path, study: Study) -> Asker:
    """At a site that has approved the study and answered its first round."""
    key = SigningKey.generate()
    asker = Asker(key, make_site(tmp_path / "a", "a", key.public))
    approve(asker.site, study)
    assert asker.invite(study).message.decision == "approved"
    assert isinstance(asker.train(study, 1).message, Update)
    return asker


def of_the_first_format(site: Site, table: str) -> list[tuple[Any, ...]]:
    """A table's rows without the columns that came later."""
    rows = site.database.execute(f"SELECT * FROM {table}")
    return [tuple(row[key] for key in row.keys() if key not in LATER) for row in rows]  # noqa: SIM118


def written_by_the_first_format(site: Site) -> None:
    """Put site.db back into the format of 0.1 with the same rows; there was no mark yet."""
    path = site.directory.database
    rows = {table: of_the_first_format(site, table) for table in TABLES}
    site.database.close()
    path.unlink()
    site.directory.mark.unlink()
    with open_database(path, [database.SCHEMA, LOG_MIGRATION]) as old:
        for table, found in rows.items():
            for row in found:
                places = ", ".join("?" * len(row))
                old.execute(f"INSERT INTO {table} VALUES ({places})", row)


def spent(site: Site, study: Study) -> list[int]:
    return [entry.round for entry in site.ledger(study).entries()]


def test_a_study_that_began_under_the_first_format_goes_on(asker: Asker, study: Study) -> None:
    first = asker.train(study, 1)
    written_by_the_first_format(asker.site)
    for _ in range(2):  # the second time there is nothing to migrate
        again = Asker(asker.key, open_site(asker.site.directory.root))
        assert again.train(study, 1).body == first.body
        again.site.log.verify()
        again.site.database.close()
    again = Asker(asker.key, open_site(asker.site.directory.root))
    for round in (2, 3):
        assert isinstance(again.train(study, round).message, Update)
    assert spent(again.site, study) == [1, 2, 3]
    assert again.site.ledger(study).balance().epsilon_spent == pytest.approx(3.0, rel=1e-3)
    again.site.watermark.check()


def test_a_study_approved_for_other_code_waits_for_a_new_approval_and_spends_nothing_twice(
    asker: Asker, study: Study
) -> None:
    first, site = asker.train(study, 1), asker.site
    data = site.facts(study).data
    before = approval_of(
        study,
        "a",
        "Dr. Weiss",
        timestamp(site.clock()),
        "2999-01-01T00:00:00.000Z",
        Facts(code="0" * 64, data=data),
    )
    site.approvals.add(before, site.key)  # as the version before signed it
    assert asker.train(study, 2).rule == "approval.code"
    assert asker.train(study, 1).body == first.body
    assert asker.invite(study).message.decision == "waiting"
    assert spent(site, study) == [1]
    with pytest.raises(SystemExit, match="0"):
        main(["site", "approve", study.name, "--as", "Dr. Weiss", "--dir", root(site)])
    assert asker.invite(study).message.decision == "approved"
    assert isinstance(asker.train(study, 2).message, Update)
    assert spent(site, study) == [1, 2]
    assert site.ledger(study).reserved()[study.digest][0].steps == 1


def root(site: Site) -> str:
    return str(site.directory.root)


def test_a_database_of_a_newer_program_is_left_alone_and_said_so_in_one_line(
    asker: Asker, capsys: pytest.CaptureFixture[str]
) -> None:
    site = asker.site
    site.database.execute("PRAGMA user_version = 99")
    before = site.directory.database.read_bytes()
    site.database.close()
    with pytest.raises(SystemExit, match="1"):
        main(["site", "studies", "--dir", root(site)])
    said = capsys.readouterr().err
    assert "written by a newer Cohortium (format 99, this one knows " in said
    assert said.count("\n") == 1
    with pytest.raises(CohortiumError, match="written by a newer Cohortium"):
        run(site.directory.root, lambda state: None)
    assert site.directory.database.read_bytes() == before


def test_a_configuration_of_the_first_version_is_still_good(asker: Asker) -> None:
    """Keys that came later have defaults."""
    path = asker.site.directory.config
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(x for x in lines if not x.startswith("studies_at_once")))
    assert asker.site.directory.load_config().studies_at_once == 2
