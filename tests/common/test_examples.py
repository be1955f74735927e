"""The examples' documents and pages: complete, valid, and showing what was measured."""

import json
from pathlib import Path

import pytest
from benchmarks.examples import IN_FOLDER, RUNS, Line, text
from examples.prepare import EXAMPLES

from cohortium.common.study import load_study

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples"
STUDIES = sorted(FOLDER.glob("*/study*.toml"))
PAGES = sorted(FOLDER.glob("*/README.md"))
MEASURED = json.loads((FOLDER / "results.json").read_text())


def page_of(example: str) -> str:
    return (FOLDER / IN_FOLDER.get(example, example) / "README.md").read_text()


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_study_is_valid_and_named_on_its_page_or_run(path: Path) -> None:
    study = load_study(path)
    assert study.sites.min_sites <= len(study.sites.names)
    run = {one.file for runs in RUNS.values() for one in runs}
    assert path.name in run or path.name in (path.parent / "README.md").read_text()


def test_every_folder_has_a_page_and_every_page_is_in_both_lists() -> None:
    folders = {path.parent.name for path in STUDIES}
    assert {path.parent.name for path in PAGES} == folders
    for name in folders:
        assert f"{name}/README.md" in (FOLDER / "README.md").read_text()
        assert f"examples/{name}/README.md" in (ROOT / "docs/examples.md").read_text()


@pytest.mark.parametrize("example", sorted(RUNS))
def test_pages_show_what_was_measured(example: str) -> None:
    found = [Line(**one) for one in MEASURED if one["example"] == example]
    assert found
    assert text(found) in page_of(example)
    assert f"examples/prepare.py {example} " in page_of(example) or example == "solubility"
    assert example in EXAMPLES
    for one in found:
        assert (
            f"| {one.what} | {one.measure} | {one.value:.3f} |"
            in (ROOT / "docs/examples.md").read_text()
        )


def test_what_synthetic_patients_are_worth_stands_beside_the_others() -> None:
    page = (FOLDER / "synthetic/README.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(rows) > 15
    overview = (ROOT / "docs/examples.md").read_text()
    assert [row for row in rows if row not in overview] == []
