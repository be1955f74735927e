"""The report: what a hostile name, a suppressed number or a careless template could do to it."""

import csv
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cohortium.common.document import parse
from cohortium.common.errors import CohortiumError
from cohortium.common.metrics.performance import Estimate, Performance
from cohortium.common.metrics.random_effects import RandomEffects
from cohortium.server.reports import numbers
from cohortium.server.reports.charts import line_chart
from cohortium.server.reports.forest import LEFT, RIGHT, forest
from cohortium.server.reports.report import html, verdict, write_report
from cohortium.server.reports.report_data import (
    GroupReport,
    ModelReport,
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
        "accuracy": 0.8125,
        "auroc": 0.87654,
        "log_loss": 0.43219,
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
    return ReportData(
        study="heart",
        purpose="Find heart disease before it is felt.",
        state="completed",
        minimum_cell=11,
        sites=sites or (site("northgate"), site("harbour", accuracy=None, n=None)),
        groups=(
            GroupReport(
                attribute="sex",
                level="female",
                accuracy=0.75,
                accuracy_low=0.661,
                accuracy_high=0.8214,
                n=108,
                sites_shown=2,
                sites_total=2,
            ),
            GroupReport(attribute="sex", level="male", sites_shown=0, sites_total=2),
        ),
        performance=(AUROC, SENSITIVITY),
        rounds=(
            RoundReport(round=1, seconds=0.84, accuracy=0.5, log_loss=0.69, replied=("northgate",)),
            RoundReport(round=2, seconds=0.81, missing=("harbour",)),
            RoundReport(round=3, seconds=130.0, accuracy=0.8, log_loss=0.45),
        ),
        summary=Summary(accuracy_weighted=0.8125, majority_accuracy=0.5417, sites_measured=1),
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


def test_a_hostile_name_stays_text(tmp_path: Path) -> None:
    data = report(site(HOSTILE, approved_by=HOSTILE, reasons=(HOSTILE,)))
    data = data.model_copy(update={"study": HOSTILE, "purpose": HOSTILE, "state": HOSTILE})
    page = html(data)
    assert "<script" not in page
    assert page_tables(page)["table-results"][0][0] == HOSTILE
    assert ElementTree.fromstring(page).findtext("head/title") == f"{HOSTILE}: report"


def test_a_name_that_a_spreadsheet_would_run_is_disarmed(tmp_path: Path) -> None:
    write_report(report(site("=cmd|'/c calc'!A1")), tmp_path)
    assert csv_rows(tmp_path / "results.csv")[0]["site"] == "'=cmd|'/c calc'!A1"


def test_the_page_needs_nothing_from_outside_and_runs_nothing() -> None:
    page = html(report())
    assert not re.search(r"https?:|//|url\(|@import|src=|href=|<link|<script|\son\w+=", page)
    assert "default-src 'none'" in page


def test_the_page_is_well_formed_and_closes_every_element() -> None:
    page = html(report())
    ElementTree.fromstring(page)
    assert page.startswith("<!DOCTYPE html>")
    parser = HTMLParser()
    parser.feed(page)
    parser.close()
    assert parser.rawdata == ""


def test_every_row_of_every_table_is_on_the_page() -> None:
    data = report()
    shown = page_tables(html(data))
    made = tables(data)
    assert set(shown) == {f"table-{name}" for name in made}
    for name, table in made.items():
        assert shown[f"table-{name}"] == [[cell.text for cell in row] for row in table.rows]
    assert [len(made[name].rows) for name in ("results", "sites", "groups", "rounds")] == [
        4,
        2,
        2,
        3,
    ]


def test_a_measure_that_a_site_hides_is_not_drawn_and_never_zero(tmp_path: Path) -> None:
    plot = forest(SENSITIVITY)
    assert plot is not None
    hidden = plot.rows[1]
    assert (hidden.label, hidden.at, hidden.span, hidden.text) == (
        "harbour",
        None,
        None,
        "not shown",
    )
    write_report(report(), tmp_path)
    rows = {(row["measure"], row["where"]): row for row in csv_rows(tmp_path / "performance.csv")}
    row = rows["sensitivity", "harbour"]
    assert [row[key] for key in ("patients", "value", "low", "new_low", "tau2")] == [""] * 5
    assert row["reason"] == "fewer than 11 patients in a cell"
    assert rows["sensitivity", "mean over 3 sites"]["new_high"] == "0.99"
    assert rows["auroc", "mean over sites"]["reason"] == "fewer than three sites"


def test_an_interval_wider_than_the_figure_is_cut_at_its_edge() -> None:
    plot = forest(SENSITIVITY)
    assert plot is not None
    assert [tick.label for tick in plot.ticks] == ["0.4", "0.6", "0.8", "1"]
    assert [row.kind for row in plot.rows] == ["site"] * 4 + ["pooled", "over"]
    assert plot.rows[-1].new is not None
    assert plot.rows[-1].new[0] == LEFT
    assert plot.rows[-1].text == "70.0\u00a0% (55.0\u00a0to\u00a082.0\u00a0%)"
    assert plot.rows[0].at == pytest.approx(LEFT + (RIGHT - LEFT) * 2 / 3, abs=0.1)


def test_a_measure_that_nobody_shows_makes_no_empty_figure() -> None:
    nobody = AUROC.model_copy(update={"sites": {"northgate": Estimate(reason="no patients")}})
    assert forest(nobody) is None
    alone = forest(AUROC)
    assert alone is not None
    assert [(row.text, row.span) for row in alone.rows] == [("1.000", None)]


def test_an_empty_study_still_makes_a_page() -> None:
    data = ReportData(
        study="s", purpose="p", state="failed", sites=(), proof=Proof(study_digest="", version="1")
    )
    page = html(data)
    assert page_tables(page)["table-rounds"] == [["nothing to show"]]
    assert "nothing is known about this model" in page
    assert "No model came out of this study" in page


def test_what_is_suppressed_is_said_in_words_and_never_zero(tmp_path: Path) -> None:
    write_report(report(), tmp_path)
    shown = page_tables((tmp_path / "report.html").read_text(encoding="utf-8"))
    male = shown["table-groups"][1]
    assert male[2:6] == ["suppressed: fewer than 11 patients"] * 4
    assert shown["table-results"][1][1:3] == ["not shown", "not shown"]
    row = csv_rows(tmp_path / "groups.csv")[1]
    assert [row["accuracy"], row["accuracy_low"], row["test_patients"]] == ["", "", ""]
    written = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert written["groups"][1]["accuracy"] is None


def test_page_csv_and_json_tell_the_same_numbers(tmp_path: Path) -> None:
    data = report()
    write_report(data, tmp_path)
    shown = page_tables((tmp_path / "report.html").read_text(encoding="utf-8"))
    result = csv_rows(tmp_path / "results.csv")[0]
    assert shown["table-results"][0] == [
        "northgate",
        "64",
        "81.2\u00a0%",
        "52.3\u00a0%",
        "0.877",
        "0.432",
    ]
    assert numbers.percent(float(result["accuracy"])) == "81.2\u00a0%"
    assert (result["auroc"], result["log_loss"]) == ("0.87654", "0.43219")
    spent = csv_rows(tmp_path / "privacy.csv")[0]
    assert (spent["epsilon_spent"], spent["delta"], spent["steps"]) == ("2.9731", "1e-05", "40")
    assert shown["table-groups"][0][3] == "75.0\u00a0% (66.1\u00a0to\u00a082.1\u00a0%)"
    written = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert parse(written, ReportData, "report.json") == data


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
    summary = Summary(accuracy_weighted=accuracy, majority_accuracy=majority)
    assert words in verdict(report().model_copy(update={"summary": summary}))


def test_a_study_without_privacy_says_so() -> None:
    bare = {"epsilon_spent": None, "epsilon_lifetime": None, "epsilon_cap": None, "sampler": None}
    page = html(report(site("northgate", **bare)))
    assert "not private" in page
    assert "no differential privacy" in page
    assert "no cap" in page


def test_a_chart_of_one_round_or_of_equal_values_divides_by_no_zero() -> None:
    one = line_chart([(1, 0.5)], str, None)
    flat = line_chart([(1, 0.0), (2, 0.0)], str, 0.0)
    assert one is not None
    assert flat is not None
    assert [tick.label for tick in one.x_ticks] == ["1"]
    assert len({y for _, y in flat.dots}) == 1
    assert line_chart([], str, 0.5) is None


def test_the_ends_of_a_chart_lie_on_its_levels() -> None:
    chart = line_chart([(1, 0.5), (11, 0.8)], lambda level: f"{level:.1f}", None)
    assert chart is not None
    assert [tick.label for tick in chart.y_ticks] == ["0.5", "0.6", "0.7", "0.8"]
    assert chart.dots[1][1] == chart.y_ticks[-1].at
    assert [tick.label for tick in chart.x_ticks] == ["1", "3", "5", "7", "9", "11"]


def test_a_report_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CohortiumError, match="the report cannot be written"):
        write_report(report(), tmp_path / "file")
