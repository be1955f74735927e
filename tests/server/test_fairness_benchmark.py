"""The comparison with pooled rows through the whole federation, on generated and real patients."""

import os
from pathlib import Path

import pytest
from benchmarks.fairness import MINIMUM_CELL, Run, compare
from benchmarks.federations import measured
from benchmarks.heart_studies import POLICY_AUDITED, study_audited
from benchmarks.heart_tables import hospitals

from cohortium.common.errors import UsageError
from cohortium.common.fairness.audit import audit

DATA = Path(
    os.environ.get("COHORTIUM_TEST_DATA", str(Path(__file__).parents[2] / "../shared/data"))
)
FOLDERS = ("heart_flamby", "heart")
HERE = pytest.mark.skipif(
    not all((DATA / name).is_dir() for name in FOLDERS),
    reason="the hospitals' files are not here; COHORTIUM_TEST_DATA names the directory above "
    "heart_flamby/ and heart/",
)


def check(runs: tuple[Run, Run]) -> None:
    everything, hidden = runs
    assert len(everything.differences) == 5
    for run in runs:
        for one in run.differences:
            assert one.passes, f"{one.what}: {one.largest}"
        assert all(sent < 100_000 for sent in run.bytes_sent.values())
    assert sum(one.numbers for one in everything.differences) > 400
    assert hidden.minimum_cell == MINIMUM_CELL
    assert {one.reason for one in hidden.invisible if one.site is None} == {"seen at no site"}


def test_counts_of_four_hospitals_say_what_their_rows_in_one_place_would(tmp_path: Path) -> None:
    check(compare(hospitals(None, tmp_path)))


def test_nearly_all_patients_ill_at_one_hospital_give_no_wrong_number(tmp_path: Path) -> None:
    """45 of 46, all held out: one patient without the outcome says little about any error."""
    study = study_audited()
    evaluations = measured(study, hospitals(None, tmp_path), POLICY_AUDITED).evaluations
    tally = evaluations["switzerland"].overall
    assert (tally.n, tally.positives) == (46, 45)  # type: ignore[union-attr]
    for one in audit(study, evaluations).contrasts:
        if "switzerland" not in (one.site, one.level):
            continue
        if one.criterion in ("false_positive_rate", "auroc"):
            assert one.verdict in ("inconclusive", "not measured")
        if one.verdict != "not measured":
            assert one.low is not None or one.reason
        else:
            assert one.gap is None
            assert one.reason


def test_a_folder_without_the_hospitals_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cleveland\.csv"):
        hospitals(tmp_path, tmp_path)


@HERE
@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS)
def test_real_hospitals_are_told_something_else_than_their_rows_say(
    folder: str, tmp_path: Path
) -> None:
    check(compare(hospitals(DATA / folder, tmp_path)))
