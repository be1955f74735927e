"""`cohortium demo`: one document with what the product promises, and nothing left running."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.deployment import Running, assert_nothing_runs

DATA = Path(os.environ.get("COHORTIUM_TEST_DATA", "../shared/data"))
HEART = (DATA / "heart").resolve()


def demonstrate(place: Path, *options: str) -> dict[str, Any]:
    """Run it to its end and return its only document."""
    demo = Running(place, "demo", "--workdir", str(place / "demo"), *options)
    try:
        assert demo.wait(150) == 0, demo.stderr
    finally:
        demo.kill_group()
    assert_nothing_runs(place)
    (document,) = demo.lines
    return document


def check(document: dict[str, Any], place: Path, sites: int) -> None:
    """The keys of the product's contract, and that every file which they name exists."""
    assert (document["state"], document["rounds"]) == ("completed", 2)
    assert document["tls"] in ("TLSv1.2", "TLSv1.3")
    assert document["seconds"] > 0
    assert len(document["sites"]) == sites
    for site in document["sites"]:
        assert 0 < site["epsilon_spent"] <= site["epsilon_cap"]
        assert 0 < site["delta"] <= 1e-5
        assert not site["patients"].isdigit()  # a band, never the number
        assert set(site["metrics"]) >= {"accuracy", "auroc", "log_loss"}
    names = {site["name"] for site in document["sites"]}
    assert set(document["site_dirs"]) == names
    audit = document["audit"]
    assert set(audit["logs"]) == {"coordinator", *names}
    assert (audit["verified"], set(audit["witnesses"])) == ("VERIFIED", names)
    released = [document["model"], document["card"], document["release"]]
    sealed = [audit[key] for key in ("bundle", "policy", "verifier")]
    files = [*released, document["report"], *audit["logs"].values(), *sealed]
    folders = [document["coordinator_dir"], *document["site_dirs"].values()]
    for path in (*files, *folders):
        assert Path(path).exists()
        assert Path(path).is_relative_to(place)
    for path in audit["logs"].values():
        actions = [json.loads(line)["action"] for line in Path(path).read_text().splitlines()]
        assert "study.approved" in actions
    log = Path(audit["logs"]["coordinator"]).read_text()
    actions = [json.loads(line)["action"] for line in log.splitlines()]
    assert actions.count("flag.raised") == document["flags"]
    assert actions.count("flag.dispositioned") == document["flags"]
    assert actions[-3:] == ["model.released", "model.downloaded", "export.sealed"]
    card = Path(document["card"]).read_text()
    assert card.count("Dr. E. Haddad") >= 1
    assert "RELEASED OVER OPEN GATES" not in card


def test_the_demonstration_ends_with_one_document_and_no_process(tmp_path: Path) -> None:
    document = demonstrate(tmp_path, "--rounds", "2", "--sites", "2")
    check(document, tmp_path, sites=2)
    keys = (
        "study rounds seconds tls sites model card release report audit coordinator_dir site_dirs"
    )
    assert set(document) >= set(keys.split())


@pytest.mark.skipif(
    not HEART.is_dir(), reason="the UCI heart files are absent: set COHORTIUM_TEST_DATA"
)
@pytest.mark.slow
def test_the_four_hospitals_of_heart_disease_take_part(tmp_path: Path) -> None:
    options = ("--data", "heart", "--data-dir", str(HEART), "--rounds", "2")
    document = demonstrate(tmp_path, *options)
    check(document, tmp_path, sites=4)
    assert {site["name"] for site in document["sites"]} == {
        "cleveland",
        "hungarian",
        "switzerland",
        "va",
    }
