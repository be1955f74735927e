"""Blinding: no file of a shared report tells which hospital a value belongs to."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from tests.server.report_samples import SITES, SIZES, heart

from cohortium.server.reports.blinding import blinded, pseudonyms
from cohortium.server.reports.report import write_report
from cohortium.server.reports.report_data import ReportData

SECRET = b"the coordinator's"


@pytest.fixture(scope="module")
def open_report() -> ReportData:
    return heart()


@pytest.fixture(scope="module")
def report(open_report: ReportData) -> ReportData:
    state = f"completed (nothing came from {SITES[1]})"
    return blinded(open_report.model_copy(update={"state": state}), SECRET)


@pytest.fixture(scope="module")
def files(report: ReportData, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("blinded")
    write_report(report, out)
    return {path.name: path.read_text(encoding="utf-8") for path in out.iterdir()}


def test_no_file_names_a_site_its_people_or_its_size(
    files: dict[str, str], open_report: ReportData
) -> None:
    assert len(files) > 20
    needles = [*SITES, *(f"Dr. {name.title()}" for name in SITES), "example.org"]
    needles += [site.patients_band for site in open_report.sites]
    for name, text in files.items():
        for needle in needles:
            assert needle.lower() not in text.lower(), f"{needle} in {name}"


def test_no_size_of_a_site_stands_anywhere(files: dict[str, str]) -> None:
    page = "".join(ElementTree.fromstring(files["report.html"]).find("body").itertext())  # type: ignore[union-attr]
    for name, text in {**files, "report.html": page}.items():  # a figure's coordinates are no sizes
        for site, size in SIZES.items():
            assert not re.search(rf"(?<![\d.]){size}(?![\d.])", text), f"{site}'s size in {name}"


def test_the_page_says_that_it_is_blinded(files: dict[str, str], open_report: ReportData) -> None:
    assert "sites go by pseudonyms" in files["report.html"]
    assert json.loads(files["report.json"])["blinding"] == "blinded"
    assert open_report.blinding == "none"


def test_pseudonyms_are_those_of_the_key_and_not_of_the_order_of_the_study() -> None:
    names = [f"hospital-{number}" for number in range(30)]
    known = pseudonyms(names, SECRET)
    assert known == pseudonyms(names[::-1], SECRET)
    assert known != pseudonyms(names, b"another")
    assert sorted(known.values(), key=lambda p: (len(p), p))[25:28] == [
        "site Z",
        "site AA",
        "site AB",
    ]


def test_rows_stand_in_the_order_of_pseudonyms_as_the_study_s_own_would_tell(
    report: ReportData,
) -> None:
    assert [site.name for site in report.sites] == ["site A", "site B", "site C", "site D"]
    for found in report.performance:
        assert list(found.sites) == sorted(found.sites)
    assert report.audit is not None
    seen: dict[Any, list[str]] = {}
    for one in report.audit.contrasts:
        if one.site is not None:
            key = (one.attribute, one.level, one.criterion)
            seen.setdefault(key, []).append(one.site)
    assert len(seen) > 20
    assert all(sites == sorted(sites) for sites in seen.values())


def test_a_value_by_site_stands_only_where_three_sites_show_one(
    open_report: ReportData, report: ReportData
) -> None:
    pairs = list(zip(open_report.performance, report.performance, strict=True))
    for before, after in pairs:
        shown = sum(one.value is not None for one in before.sites.values())
        values = [one.value for one in after.sites.values() if one.value is not None]
        assert len(values) in (0, shown)
        assert not values or shown >= 3
        if shown < 3:
            assert after.pooled.value is None
        assert all(one.low is one.high is one.of is None for one in after.sites.values())
    assert any(one.value is not None for _, f in pairs for one in f.sites.values())


def test_the_base_rate_by_which_a_hospital_is_known_stands_for_no_site(report: ReportData) -> None:
    prevalence = next(found for found in report.performance if found.measure == "prevalence")
    assert [one.value for one in prevalence.sites.values()] == [None] * 4
    assert prevalence.pooled.value is not None
    assert report.audit is not None
    assert all(
        one.base_rate is one.n is one.low is None
        for one in report.audit.contrasts
        if one.site is not None or one.attribute == "site"
    )


def test_a_verdict_stays_where_its_numbers_go(open_report: ReportData, report: ReportData) -> None:
    assert open_report.audit is not None
    assert report.audit is not None
    before = [c for c in open_report.audit.contrasts if c.site is None and c.attribute != "site"]
    after = [c for c in report.audit.contrasts if c.site is None and c.attribute != "site"]
    assert [(c.level, c.criterion, c.verdict) for c in before] == [
        (c.level, c.criterion, c.verdict) for c in after
    ]
    gap = next(c for c in after if c.verdict == "GAP")
    assert (gap.gap, gap.reason) == (None, "blinded: fewer than three sites show it")


def test_a_flag_about_a_site_has_no_hash_that_could_be_tried_out(report: ReportData) -> None:
    assert report.release is not None
    about = {flag.site is None: flag for flag in report.release.flags}
    assert about[True].id == "1f0c2d3e"
    assert about[False].id is None
    assert (about[False].site or "").startswith("site ")
    assert about[False].reason == f"{about[False].site} has corrected its table"


def test_who_was_away_and_why_a_study_ended_is_not_told(report: ReportData) -> None:
    assert all(one.replied is one.missing is None for one in report.rounds)
    assert report.state == "completed"
    assert all(not site.messages for site in report.sites)
    assert {message.kind for message in report.traffic} == {"update", "evaluated"}


def test_two_sites_cannot_subtract_their_own_from_what_both_give(tmp_path: Path) -> None:
    alone = heart()
    two = alone.model_copy(
        update={
            "sites": alone.sites[:2],
            "performance": tuple(
                found.model_copy(
                    update={"sites": dict(list(found.sites.items())[:2]), "over_sites": None}
                )
                for found in alone.performance
            ),
        }
    )
    hidden = blinded(two, SECRET)
    assert hidden.summary.headline == {}
    assert all(found.pooled.value is None for found in hidden.performance)
    write_report(hidden, tmp_path)
