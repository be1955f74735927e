"""What is trained on is what lies at the site now."""

from pathlib import Path

from tests.federation import PLAIN, approve, make_site, write_study, write_ward

from cohortium.common.identity import SigningKey


def test_a_table_that_changed_is_read_again_and_not_trained_on_from_memory(tmp_path: Path) -> None:
    site = make_site(tmp_path / "a", "a", SigningKey.generate().public, patients=200)
    study = write_study(tmp_path, PLAIN)
    approve(site, study)
    before = site.workshop.prepare(study).patients
    write_ward(site.directory.load_dataset("ward").path, seed=1, patients=400)
    assert site.workshop.prepare(study).patients > before * 1.5
