"""The report: what a hostile name, a suppressed number or a careless template could do to it."""

import csv
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.server import report_samples

from cohortium.common.document import parse
from cohortium.common.errors import CohortiumError
from cohortium.common.metrics.performance import Estimate, Performance
from cohortium.common.metrics.random_effects import RandomEffects
from cohortium.server.reports import numbers
from cohortium.server.reports.headline import impossibility, points, verdict
from cohortium.server.reports.page import html
from cohortium.server.reports.report import write_report
from cohortium.server.reports.report_data import (
    ModelReport,
    Promise,
    Proof,
    ReportData,
    RoundReport,
    SiteReport,
    Summary,
    Traffic,
)
from cohortium.server.reports.tables import tables

HOSTILE = "</td><script>alert('1')</script>&\"=1+1"


def site(name: str, **values: object) -> SiteReport:
    given: dict[str, object] = {
        "name": name,
        "patients_band": "100-199",
        "approved_by": "Dr. Lind",
        "approved_at": "2026-11-22T14:03:42.123Z",
        "epsilon_spent": 2.9731,
        "epsilon_lifetime": 4.1,
        "epsilon_cap": 8.0,
        "delta": 1e-5,
        "sampler": "poisson",
        "noise_multiplier": 0.9814,
        "steps": 40,
        "headline": {"log_loss": 0.43219, "auroc": 0.87654, "accuracy": 0.8125},
        "majority": 0.5234,
        "n": 64,
        "messages": (Traffic(kind="update", count=10, bytes=12_340),),
        **values,
    }
    return parse(given, SiteReport, "site")


SENSITIVITY = Performance(
    measure="sensitivity",
    threshold=0.5,
    sites={
        "northgate": Estimate(value=0.8, low=0.7, high=0.9, of=60),
        "harbour": Estimate(reason="fewer than 11 patients in a cell"),
        "hillside": Estimate(value=0.6, low=0.5, high=0.7, of=90),
        "lakeview": Estimate(value=0.7, low=0.6, high=0.8, of=80),
    },
    pooled=Estimate(value=0.69, low=0.6, high=0.75, of=230),
    over_sites=RandomEffects(
        mean=0.7, low=0.55, high=0.82, new_low=0.02, new_high=0.99, tau2=0.12, i2=0.5, sites=3
    ),
)
AUROC = Performance(
    measure="auroc",
    threshold=None,
    sites={"northgate": Estimate(value=1.0, of=60, reason="no interval here")},
    pooled=Estimate(reason="not compared"),
    over_sites=None,
    reason="fewer than three sites",
)


def report(*sites: SiteReport) -> ReportData:
    hidden = {"log_loss": 0.5, "auroc": 0.8, "accuracy": None}
    return ReportData(
        study="heart",
        purpose="Find heart disease before it is felt.",
        state="completed",
        minimum_cell=11,
        promise=Promise(spent=2.9731, epsilon=3.0, delta=1e-5),
        sites=sites or (site("northgate"), site("harbour", headline=hidden, n=None)),
        performance=(AUROC, SENSITIVITY),
        rounds=(
            RoundReport(round=1, seconds=0.84, headline={"accuracy": 0.5}, replied=("northgate",)),
            RoundReport(round=2, seconds=0.81, missing=("harbour",)),
            RoundReport(round=3, seconds=130.0, headline={"accuracy": 0.8}),
        ),
        summary=Summary(weighted={"accuracy": 0.8125}, majority_accuracy=0.5417, sites_measured=1),
        model=ModelReport(file="model.safetensors", sha256="0c" * 32, parameters=1_209),
        proof=Proof(study_digest="5d" * 32, version="0.1.0", tls="TLSv1.3"),
    )


def page_tables(page: str) -> dict[str, list[list[str]]]:
    """The text of each cell that a reader sees, by the id of its table; header rows left out."""
    found = {}
    for table in ElementTree.fromstring(page).iter("table"):
        rows = table.iterfind("tbody/tr")
        found[table.attrib["id"]] = [["".join(cell.itertext()) for cell in row] for row in rows]
    return found


def csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def heart() -> ReportData:
    return report_samples.heart()


@pytest.fixture(scope="module")
def heart_page(heart: ReportData) -> str:
    return html(heart)


@pytest.fixture(scope="module")
def survival() -> ReportData:
    return report_samples.survival()


def test_a_hostile_name_stays_text() -> None:
    data = report(site(HOSTILE, approved_by=HOSTILE, reasons=(HOSTILE,)))
    measured = SENSITIVITY.model_copy(update={"sites": {HOSTILE: Estimate(value=0.5, of=9)}})
    hostile = {"study": HOSTILE, "purpose": HOSTILE, "state": HOSTILE, "performance": (measured,)}
    page = html(data.model_copy(update=hostile))
    assert "<script" not in page
    assert page_tables(page)["table-results"][0][0] == HOSTILE
    assert ElementTree.fromstring(page).findtext("head/title") == f"{HOSTILE}: report"
    labels = {text.text for text in ElementTree.fromstring(page).iter("text")}
    assert HOSTILE[:20] in {str(label)[:20] for label in labels}


def test_a_name_that_a_spreadsheet_would_run_is_disarmed(tmp_path: Path) -> None:
    write_report(report(site("=cmd|'/c calc'!A1")), tmp_path)
    assert csv_rows(tmp_path / "results.csv")[0]["site"] == "'=cmd|'/c calc'!A1"


def test_the_page_needs_nothing_from_outside_and_runs_nothing(heart_page: str) -> None:
    assert not re.search(r"https?:|//|url\(|@import|src=|<link|<script|\son\w+=", heart_page)
    assert "default-src 'none'" in heart_page
    links = re.findall(r'href="([^"]*)"', heart_page)
    assert links
    assert all(link.startswith("#") and f'id="{link[1:]}"' in heart_page for link in links)


def test_the_page_is_well_formed_and_closes_every_element(heart_page: str) -> None:
    ElementTree.fromstring(heart_page)
    assert heart_page.startswith("<!DOCTYPE html>")
    parser = HTMLParser()
    parser.feed(heart_page)
    parser.close()
    assert parser.rawdata == ""


@pytest.mark.parametrize("kind", ["heart", "survival"])
def test_every_row_of_every_table_is_on_the_page_or_in_a_file_of_its_own(
    kind: str, request: pytest.FixtureRequest
) -> None:
    data: ReportData = request.getfixturevalue(kind)
    shown, made = page_tables(html(data)), tables(data)
    for name, table in made.items():
        if table.on_page and table.rows:
            cells = [[cell.text for cell in row] for row in table.rows]
            assert shown[f"table-{name}"] == cells, name
    assert [name for name, table in made.items() if not table.on_page] == ["groups_by_site"]


def test_every_figure_has_words_for_those_who_do_not_see_it(heart_page: str) -> None:
    drawings = [s for s in ElementTree.fromstring(heart_page).iter("svg") if "role" in s.attrib]
    assert len(drawings) > 30
    assert all("in the table below" in s.attrib["aria-label"] for s in drawings)
    for table in ElementTree.fromstring(heart_page).iter("table"):
        assert "".join(table.find("caption").itertext())  # type: ignore[union-attr]
        assert all(cell.attrib["scope"] == "col" for cell in table.iterfind("thead/tr/th"))


def test_the_same_data_give_the_same_bytes(heart: ReportData, tmp_path: Path) -> None:
    for place in ("one", "two"):
        write_report(heart, tmp_path / place)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) > 20
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_measure_that_a_site_hides_is_never_zero(tmp_path: Path) -> None:
    write_report(report(), tmp_path)
    rows = {(row["measure"], row["where"]): row for row in csv_rows(tmp_path / "performance.csv")}
    row = rows["sensitivity", "harbour"]
    assert [row[key] for key in ("patients", "value", "low", "new_low", "tau2")] == [""] * 5
    assert row["reason"] == "fewer than 11 patients in a cell"
    assert rows["sensitivity", "mean over 3 sites"]["new_high"] == "0.99"
    assert rows["auroc", "mean over sites"]["reason"] == "fewer than three sites"


def test_an_empty_study_still_makes_a_page() -> None:
    data = ReportData(
        study="s", purpose="p", state="failed", sites=(), proof=Proof(study_digest="", version="1")
    )
    page = html(data)
    assert page_tables(page)["table-rounds"] == [["nothing to show"]]
    assert "nothing is known about this model" in page
    assert "No model came out of this study" in page
    assert "Nothing is known about differences between groups" in page


def test_what_is_suppressed_is_said_in_words_and_never_zero(
    heart: ReportData, heart_page: str, tmp_path: Path
) -> None:
    write_report(heart, tmp_path)
    shown = page_tables(heart_page)
    switzerland = next(row for row in shown["table-results"] if row[0] == "switzerland")
    assert switzerland[2:] == ["not shown"] * 4
    hidden = [row for row in csv_rows(tmp_path / "groups_by_site.csv") if row["value"] == ""]
    assert {row["reason"] for row in hidden} >= {report_samples.FEW}
    assert all(row["low"] == row["high"] == "" for row in hidden)
    unseen = {(row[0], row[1]): row[2:] for row in shown["table-invisible"]}
    assert unseen["sex", "female"] == ["switzerland, va-long-beach", report_samples.FEW]
    assert unseen["sex x age", "female x >=60"][0] == "at every site"


def test_page_csv_and_json_tell_the_same_numbers(tmp_path: Path) -> None:
    data = report()
    write_report(data, tmp_path)
    shown = page_tables((tmp_path / "report.html").read_text(encoding="utf-8"))
    result = csv_rows(tmp_path / "results.csv")[0]
    assert shown["table-results"][0] == [
        "northgate",
        "64",
        "81.2\u00a0%",
        "0.432",
        "0.877",
        "52.3\u00a0%",
    ]
    assert numbers.percent(float(result["accuracy"])) == "81.2\u00a0%"
    assert (result["auroc"], result["log_loss"]) == ("0.87654", "0.43219")
    spent = csv_rows(tmp_path / "privacy.csv")[0]
    assert (spent["epsilon_spent"], spent["delta"], spent["steps"]) == ("2.9731", "1e-05", "40")
    written = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert parse(written, ReportData, "report.json") == data


@pytest.mark.parametrize("kind", ["heart", "survival"])
def test_the_json_document_is_read_back_as_it_was(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    data: ReportData = request.getfixturevalue(kind)
    write_report(data, tmp_path)
    written = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert parse(written, ReportData, "report.json") == data


def test_a_gap_stands_on_the_first_screen_and_nobody_is_called_fair(
    heart: ReportData, heart_page: str
) -> None:
    answers = {point.question: point.answers for point in points(heart)}
    found = answers["Differences between groups"]
    assert found[0].startswith("GAP: Sensitivity (equal opportunity), sex female against male")
    assert "have been neither shown nor excluded" in found[-1]
    assert answers["Groups nobody could see"][0].startswith("sex x age female x >=60: at no site")
    assert "kept." in answers["Privacy, spent and promised"][0]
    assert answers["Release"] == ("Not released.", "1 flag is open (gates: fairness).")
    text = "".join(ElementTree.fromstring(heart_page).find("body").itertext())  # type: ignore[union-attr]
    assert not re.search(r"\bfair\b|\bunbiased\b", text, re.IGNORECASE)


def test_a_study_without_a_gap_is_not_called_equal(survival: ReportData) -> None:
    answers = {point.question: point.answers for point in points(survival)}
    assert answers["Differences between groups"][0] == "No gap larger than its margin was shown."
    assert "neither shown nor excluded" in answers["Differences between groups"][1]


def test_unequal_base_rates_are_said_to_exclude_equal_errors(heart: ReportData) -> None:
    assert heart.audit is not None
    said = impossibility(heart)
    first = heart.audit.contrasts[0]
    level = first.model_copy(update={"base_rate": 0.5, "reference_base_rate": 0.5})
    same = heart.audit.model_copy(update={"contrasts": (level,)})
    apart = heart.audit.model_copy(
        update={"contrasts": (first.model_copy(update={"base_rate": 0.2, "n": 100}),)}
    )
    assert impossibility(heart.model_copy(update={"audit": same})) == ""
    assert "sex: female 20.0" in impossibility(heart.model_copy(update={"audit": apart}))
    assert said == "" or "calibrated" in said


def test_a_promise_that_was_broken_is_not_called_kept() -> None:
    broken = report().model_copy(update={"promise": Promise(spent=3.2, epsilon=3.0, delta=1e-5)})
    answers = {point.question: point.answers for point in points(broken)}
    assert "NOT KEPT" in answers["Privacy, spent and promised"][0]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (numbers.epsilon(2.9701), "2.98"),
        (numbers.epsilon(3.0), "3.00"),
        (numbers.epsilon(0.1 + 0.2), "0.30"),
        (numbers.delta(1e-5), "1\u00a0×\u00a010⁻⁵"),
        (numbers.delta(2.5e-6), "2.5\u00a0×\u00a010⁻⁶"),
        (numbers.size(999), "999\u00a0B"),
        (numbers.size(12_340), "12.3\u00a0kB"),
        (numbers.size(999_600), "1.0\u00a0MB"),
        (numbers.seconds(0.84), "0.8\u00a0s"),
        (numbers.seconds(130), "2\u00a0min\u00a010\u00a0s"),
        (numbers.points(-0.0304), "−3.0"),
        (numbers.points(-0.0001), "0.0"),
        (numbers.plain(1234.5), "1,234"),
        (numbers.plain(-0.01234), "−0.0123"),
    ],
)
def test_numbers_carry_their_units_and_privacy_is_rounded_up(written: str, expected: str) -> None:
    assert written == expected


@pytest.mark.parametrize(
    ("accuracy", "majority", "words"),
    [
        (0.8, 0.54, "is right for 80.0\u00a0% of the test patients; always giving"),
        (0.54, 0.54, "no better than always giving the more frequent outcome (54.0\u00a0%)"),
        (0.8, None, "is right for 80.0\u00a0% of the test patients."),
        (None, 0.54, "nothing is known"),
    ],
)
def test_a_model_that_has_learnt_nothing_is_not_praised(
    accuracy: float | None, majority: float | None, words: str
) -> None:
    summary = Summary(weighted={"accuracy": accuracy}, majority_accuracy=majority)
    assert words in verdict(report().model_copy(update={"summary": summary}))


def test_a_model_whose_interval_holds_the_majority_is_not_called_better() -> None:
    measured = Performance(
        measure="accuracy",
        threshold=0.5,
        sites={},
        pooled=Estimate(value=0.6, low=0.5, high=0.7, of=100),
        over_sites=None,
    )
    data = report().model_copy(update={"performance": (measured,)})
    assert "has not been shown to be better" in verdict(data)


def test_a_study_without_privacy_says_so() -> None:
    bare = {"epsilon_spent": None, "epsilon_lifetime": None, "epsilon_cap": None, "sampler": None}
    data = report(site("northgate", **bare)).model_copy(update={"promise": Promise()})
    page = html(data)
    assert "not private" in page
    assert "no differential privacy" in page
    assert "no cap" in page


def test_a_report_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CohortiumError, match="the report cannot be written"):
        write_report(report(), tmp_path / "file")
