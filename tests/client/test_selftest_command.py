"""`cohortium site selftest`: what it says, keeps and records, and what it never opens."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.client import broken_engines as broken
from tests.client.broken_engines import optimiser
from tests.federation import make_site
from torch import nn

from cohortium.client.config import SiteDir
from cohortium.client.examine_selftests import examine_selftests, last_selftests
from cohortium.client.selftest import check, mechanism, result
from cohortium.client.selftest.check import Wide, no_rows, released
from cohortium.client.selftest.result import Found, keep
from cohortium.client.site import Site, open_site
from cohortium.common.audit.events import read_event
from cohortium.common.cli import main
from cohortium.common.code import code_digest
from cohortium.common.document import parse_json
from cohortium.common.identity import SigningKey
from cohortium.common.privacy.selftest import Selftest

Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path / "a", "a", SigningKey.generate().public)


@pytest.fixture
def run(site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command on few draws; the two fresh processes are this one."""
    small = partial(mechanism.run, values=20_000, steps=60)
    monkeypatch.setattr(mechanism, "run", small)
    monkeypatch.setattr(mechanism, "COUNTS", 500)
    monkeypatch.setattr(check, "LIMIT", 6.0)  # no failure by chance

    def fresh(values: int) -> tuple[Wide, ...]:
        module = nn.Linear(values, 1, bias=False)
        both = [released(module, *no_rows(values), noise_multiplier=1.0) for _ in range(2)]
        return tuple(seen.sums[0].astype(np.float64) for seen in both)

    monkeypatch.setattr(mechanism, "_fresh", fresh)

    def call(*words: str) -> tuple[int, Any, str]:
        with pytest.raises(SystemExit) as ended:
            main(["site", "selftest", *words, "--dir", str(site.directory.root), "--json"])
        assert isinstance(ended.value.code, int)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return ended.value.code, json.loads(said.out), said.err

    return call


def found(verdict: Any = "passed", level: Any = "L0", words: str = "all is well") -> Found:
    return Found(level, verdict, words)


def test_a_passed_selftest_is_kept_and_recorded_and_no_dataset_is_opened(
    run: Run, site: Site
) -> None:
    (site.directory.root / "ward.csv").unlink()  # whoever opens it fails
    site.directory.dataset("ward").unlink()
    code, document, err = run()
    (test,) = document["selftests"]
    assert (code, test["level"], test["verdict"]) == (0, "L0", "passed"), test
    assert "ledger: 12 steps entered, 12 taken" in err
    kept = last_selftests(site.directory)["L0"]
    assert {**kept.model_dump(mode="json"), "event": test["event"]} == test
    assert (kept.site, kept.code, kept.device) == ("a", code_digest(), "cpu")
    event = next(event for event in site.log.events() if event.id == test["event"])
    assert (event.action, event.outcome, event.detail["verdict"]) == (
        "privacy.selftest",
        "success",
        "passed",
    )
    text = site.documents.text(event.obj[0].h)
    assert text is not None
    assert parse_json(text.encode(), Selftest, "kept") == kept
    (line,) = [row["line"] for row in site.database.execute("SELECT line FROM shared")]
    told = read_event(line, "shared")
    assert (told.id, told.obj, told.actor.type) == (event.id, event.obj, "site")


def test_a_broken_engine_ends_with_1_and_says_what_is_wrong(
    run: Run, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimiser(broken.Halved)(monkeypatch)
    code, document, _ = run("--level", "L0")
    (test,) = document["selftests"]
    assert (code, test["verdict"]) == (1, "failed")
    assert re.match(r"noise of poisson: 0\.(49|50)\d\d of the deviation", test["words"])
    assert test["checks"]["poisson-clip"] == "ok"
    event = next(event for event in site.log.events() if event.id == test["event"])
    assert event.outcome == "failure"
    assert str(event.reason).startswith("selftest.failed: noise of poisson")
    finding = examine_selftests(site.directory)
    assert (finding.verdict, "L0 failed" in finding.said) == ("fail", True)


def test_a_study_that_is_named_for_nothing_is_a_wrong_call(run: Run) -> None:
    assert run("--level", "L0", "--study", "x")[0] == 2
    assert run("--level", "L2")[0] == 2


# ------------------------------------------------------------------ the doctor


def test_the_doctor_asks_for_the_tests_that_were_not_run(site: Site, tmp_path: Path) -> None:
    fresh = examine_selftests(SiteDir(tmp_path))  # no database at all
    assert (fresh.verdict, fresh.said) == ("warning", "never run here")
    keep(site, found(), "cpu")
    half = examine_selftests(site.directory)
    assert half.verdict == "warning"
    assert half.advice.startswith("run: cohortium site selftest --level all")
    keep(site, found(level="L1"), "cpu")
    assert examine_selftests(site.directory).verdict == "ok"


def test_a_selftest_of_older_code_is_out_of_date(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(result, "code_digest", lambda: "0" * 64)
        keep(site, found(), "cpu")
    keep(site, found(level="L1"), "cpu")
    finding = examine_selftests(site.directory)
    assert finding.verdict == "warning"
    assert "of other code than is installed now" in finding.said


def test_a_later_pass_ends_the_doctors_alarm_and_an_inconclusive_result_is_no_pass(
    site: Site,
) -> None:
    keep(site, found("failed"), "cpu")
    keep(site, found("inconclusive", "L1"), "cpu")
    assert examine_selftests(site.directory).verdict == "fail"
    reopened = open_site(site.directory.root)
    keep(reopened, found("passed"), "cpu")
    assert examine_selftests(site.directory).verdict == "warning"
