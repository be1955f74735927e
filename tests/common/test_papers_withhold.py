"""Papers of the bundle: what they must not show, and text that must stay text."""

import csv
import importlib
import io
import json
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as xml

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import evidence_samples as samples
from tests.evidence_papers import facts, papers, rows, text_of
from tests.evidence_samples import SITES

from cohortium.common.audit.evidence import FlagFacts, StudyFacts
from cohortium.common.audit.paper import subject
from cohortium.common.audit.paper.text import cell, decimal

HOSTILE = "</td><script>alert(1)</script> | [x](http://x) **b** `c` # h ]]> & \" ' \x1b[31m"
yaml: Any = importlib.import_module("yaml")  # it has no types


def front_matter(card: bytes) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.decode().split("---\n")[1])
    return found


def site_numbers(of: StudyFacts) -> set[str]:
    """Every value that is one site's, as papers would write it, and nobody else's."""
    pooled = {decimal(one.pooled.value) for one in of.performance}
    found = {
        decimal(estimate.value)
        for one in of.performance
        for estimate in one.sites.values()
        if estimate.value is not None
    }
    assert of.audit is not None
    found |= {
        decimal(one.gap)
        for one in of.audit.contrasts
        if one.gap is not None and subject.about_site(one) is not None
    }
    return {number for number in found - pooled if len(number) > 6}


@pytest.mark.parametrize("audience", ["consortium", "regulator"])
def test_no_paper_of_a_blinded_study_shows_a_result_or_the_size_of_one_site(audience: Any) -> None:
    blinded = facts(blinded=True)
    text = text_of(papers(samples.evidence(blinded, audience=audience)))
    assert len(site_numbers(blinded)) > 50
    assert not [number for number in site_numbers(blinded) if number in text]
    assert not [band for band in samples.BANDS.values() if band in text]
    assert not re.search(r"(north|south|west): this site", text)
    assert "Northman" not in text
    assert "measured again in a year" not in text, "why a flag about one site was accepted"


def test_what_a_site_of_a_blinded_study_spent_stands_without_its_name_but_at_the_site() -> None:
    evidence = samples.evidence(facts(blinded=True))
    own = tuple(
        row.model_copy(update={"epsilon": f"{row.epsilon}{SITES.index(row.site)}77"})
        for row in evidence.ledger
    )
    evidence = replace(evidence, ledger=own)
    at_the_site = replace(evidence, role="site", node="north")
    for shown, named in ((evidence, False), (at_the_site, True)):
        files = papers(shown)
        found = json.loads(files["gdpr/dpia-evidence.json"])["studies"][0]["epsilon_by_site"]
        assert {one["site"] for one in found} == (set(SITES) if named else {"a site"})
        for path in ("privacy/sp800-226.md", "model/made-up/chai-model-card.xml"):
            near = re.findall(r"(north|south|west):? (?:epsilon )?2\.000\d77", files[path].decode())
            assert bool(near) == named, path
        assert ("training:1:north" in files["model/made-up/mlbom.cdx.json"].decode()) == named


def test_the_same_search_finds_results_of_single_sites_where_the_study_is_not_blinded() -> None:
    text = text_of(papers(samples.evidence(facts())))
    assert [number for number in site_numbers(facts()) if number in text]
    assert "north: this site" in text
    assert samples.BANDS["north"] in text
    assert "measured again in a year" in text


def test_of_a_blinded_study_with_two_sites_no_result_is_shown() -> None:
    two = {site: found for site, found in facts().evaluations.items() if site != "west"}
    blinded = samples.facts(samples.study(blinded=True), found=two)
    assert subject.results(blinded) == subject.group_results(blinded) == ()
    assert subject.contrasts(blinded) == ()
    assert "model-index" not in front_matter(
        papers(samples.evidence(blinded))["model/made-up/model-card.md"]
    )


def test_names_of_approvers_are_for_regulators_and_never_for_the_consortium() -> None:
    shared = text_of(papers(samples.evidence(facts(), audience="consortium")))
    assert "Northman" not in shared
    assert "1 named at the site" in shared
    assert "Dr. Northman" in text_of(papers(samples.evidence(facts(), audience="regulator")))


def test_a_site_speaks_of_its_own_data_and_processing_only() -> None:
    files = papers(replace(samples.evidence(facts()), role="site", node="south", audience="site"))
    assert [path for path in files if path.startswith("data/")] == ["data/datasheets/south.json"]
    assert [row["controller (site)"] for row in rows(files, "gdpr/ropa.csv")] == ["south"]


@given(st.text(max_size=40))
def test_no_cell_is_a_formula_to_a_spreadsheet(text: str) -> None:
    for start in ("", "=", "+", "-", "@", "\t=", "\r=", " =", "＝"):
        made = cell(start + text)
        number = re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", made)
        assert number or not made.startswith(("=", "+", "-", "@", "\t", "\r", "＝", " "))


def test_a_formula_that_a_person_wrote_stays_text_in_every_table() -> None:
    evil = '=HYPERLINK("http://x";"y")'
    flag = replace(facts().flags[0], reason=evil, decision="", text=evil)
    study = samples.study(
        purpose={"text": "@SUM(1+1)*cmd|' /C calc'!A0", "duo": "GRU", "legal_basis": evil}
    )
    files = papers(samples.evidence(samples.facts(study, flagged=False, flags=(flag,))))
    for path in (path for path in files if path.endswith(".csv")):
        for row in csv.reader(io.StringIO(files[path].decode(), newline="")):
            assert not [text for text in row if text.startswith(("=", "@", "+", "-"))], path
    assert "'" + evil in rows(files, "fairness/1557-worksheet.csv")[-1]["what"]


def test_hostile_text_stays_text_in_xml_markdown_and_front_matter() -> None:
    study = samples.study(purpose={"text": HOSTILE, "duo": "GRU", "legal_basis": HOSTILE})
    flag = FlagFacts("1f0c2d3e", "fairness", None, HOSTILE, True)
    files = papers(samples.evidence(samples.facts(study, card="", flagged=False, flags=(flag,))))
    root = xml.fromstring(files["model/made-up/chai-model-card.xml"])
    assert root.find(".//{*}script") is None
    risks = root.find(".//{*}KnownRisksAndLimitations")
    assert risks is not None
    assert risks.text is not None
    assert "\\<script\\>alert(1)" in risks.text
    assert "\x1b" not in text_of(files)
    card = files["model/made-up/model-card.md"].decode()
    assert "\\<script\\>" in card
    assert "[x](http" not in card
    assert front_matter(card.encode())["license"] == "other"


def test_a_name_of_an_outcome_cannot_leave_the_front_matter() -> None:
    evil = '"}\n---\nlicense: mit'
    columns = dict(samples.study().data_model.model_dump()["columns"])
    columns["stage"] = {"kind": "category", "codes": (evil, "II", "III")}
    model = {"name": "ward", "columns": columns}
    task = {"kind": "binary", "label": "stage", "positive_codes": (evil,)}
    made = samples.facts(samples.study(task=task, data_model=model))
    card = papers(samples.evidence(made))["model/made-up/model-card.md"]
    matter = front_matter(card)
    assert matter["license"] == "other"
    assert "license: mit" in matter["model-index"][0]["results"][0]["task"]["name"]
