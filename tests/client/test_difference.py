"""What is new in a study since the one that was approved last, for whoever has to decide."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.federation import PRIVATE, approve, make_site, write_study

from cohortium.client.difference import difference
from cohortium.client.review import sheet
from cohortium.client.site import Site
from cohortium.common.cli import main
from cohortium.common.identity import SigningKey
from cohortium.common.study import Study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path, PRIVATE)


def changed(study: Study, part: str, values: Mapping[str, Any]) -> Study:
    document = study.model_dump()
    document[part] |= values
    return Study.model_validate(document)


def test_the_same_study_has_no_changes(study: Study) -> None:
    assert difference(study, Study.model_validate(study.model_dump())) == ()


def test_columns_are_counted_and_named(study: Study) -> None:
    few = changed(study, "data", {"features": ("age",)})
    few = changed(few, "fairness", {"attributes": ("age",)})
    lines = difference(few, study)
    assert lines[0] == "+2 columns (marker, sex)"
    assert difference(study, few)[0] == "-2 columns (marker, sex)"


def test_one_column_is_in_the_singular(study: Study) -> None:
    few = changed(study, "data", {"features": ("age", "sex")})
    assert difference(few, study) == ("+1 column (marker)",)


def test_sites_and_epsilon_are_said_in_short(study: Study) -> None:
    more = changed(study, "sites", {"names": ("a", "b", "c", "d")})
    assert difference(study, more) == ("+1 site (d)",)
    dear = changed(more, "privacy", {"epsilon": 5.0})
    assert difference(study, dear) == ("+1 site (d)", "epsilon 3 -> 5")


def test_a_swapped_site_shows_who_came_and_who_went(study: Study) -> None:
    swapped = changed(study, "sites", {"names": ("a", "b", "z")})
    assert difference(study, swapped) == ("+1 site (z)", "-1 site (c)")


@pytest.mark.parametrize(
    ("part", "values", "line"),
    [
        ("training", {"rounds": 9}, "rounds 4 -> 9"),
        ("privacy", {"delta": 1e-6}, "delta 1e-05 -> 1e-06"),
        ("privacy", {"clip_norm": 0.5}, "privacy.clip_norm 1 -> 0.5"),
        ("purpose", {"legal_basis": "consent"}, "legal basis test data, nobody's -> consent"),
        ("purpose", {"duo": "GRU"}, "purpose.duo HMB -> GRU"),
        ("data", {"dataset": "clinic"}, "data.dataset ward -> clinic"),
        ("split", {"test_fraction": 0.5}, "split.test_fraction 0.3 -> 0.5"),
    ],
)
def test_every_other_setting_is_named_by_its_word_or_key(
    study: Study, part: str, values: Mapping[str, Any], line: str
) -> None:
    assert difference(study, changed(study, part, values)) == (line,)


def test_another_schema_shows_as_one_line(study: Study) -> None:
    columns = study.model_dump()["data_model"]["columns"]
    columns["marker"] |= {"high": 11.0}
    assert difference(study, changed(study, "data_model", {"columns": columns})) == (
        "the schema changed",
    )


def test_a_long_text_does_not_flood_the_sheet(study: Study) -> None:
    (line,) = difference(study, changed(study, "purpose", {"text": "x" * 2000}))
    assert len(line) < 180
    assert line.endswith("...")


def test_a_study_that_goes_on_from_another_says_from_where(study: Study) -> None:
    document = study.model_dump()
    model = {"study": study.digest, "name": "ward-study", "round": 2, "model": "a" * 64}
    after = Study.model_validate({**document, "continues": model})
    assert difference(study, after) == ("starts from round 2 of ward-study",)
    assert "from round 2 of ward-study" in sheet(after, None)
    assert "from a fresh model" in sheet(study, None)


def test_the_order_of_inputs_or_sites_alone_is_a_change_too(study: Study) -> None:
    """Order decides which weight belongs to which column: no change may look like none."""
    assert difference(study, changed(study, "data", {"features": ("sex", "age", "marker")})) == (
        "columns in another order",
    )
    assert difference(study, changed(study, "sites", {"names": ("b", "a", "c")})) == (
        "sites in another order",
    )


# ------------------------------------------------------------------ on the review sheet


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path / "a", "a", SigningKey.generate().public)


def version(study: Study, name: str, **privacy: float) -> Study:
    document = study.model_dump()
    document["name"] = name
    document["privacy"] |= privacy
    return Study.model_validate(document)


def test_the_sheet_compares_with_the_study_approved_last_on_the_same_dataset(
    site: Site, study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = version(study, "first", epsilon=1.0), version(study, "second", epsilon=2.0)
    elsewhere = changed(version(study, "elsewhere"), "data", {"dataset": "clinic"})
    ward = site.directory.dataset("ward")
    site.directory.dataset("clinic").write_text(ward.read_text())
    for known in (first, second, elsewhere):
        approve(site, known)
    site.studies.receive(study, 0)
    known_study = site.studies.by_digest(study.digest)
    assert site.studies.approved_before(known_study) == second
    with pytest.raises(SystemExit, match="0"):
        main(["site", "review", study.name, "--dir", str(site.directory.root), "--json"])
    said = json.loads(capsys.readouterr().out)["sheet"]
    assert said.splitlines()[-1] == "Changes    against second: epsilon 2 -> 3"
    approve(site, first)  # again, and hence last
    assert site.studies.approved_before(known_study) == first


def test_the_first_study_on_a_dataset_is_compared_with_none(site: Site, study: Study) -> None:
    approve(site, study)
    assert site.studies.approved_before(site.studies.by_digest(study.digest)) is None
    assert "Changes" not in sheet(study, None)


def test_a_study_that_differs_by_name_only_says_so(study: Study) -> None:
    said = sheet(version(study, "again"), None, study)
    assert said.splitlines()[-1] == "Changes    against ward-study: nothing but the name"
