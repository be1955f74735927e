"""`cohortium demo`: one document with what the product promises, and nothing left running."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.deployment import Running, assert_nothing_runs

from cohortium.common.audit import bundle, verify

DATA = Path(os.environ.get("COHORTIUM_TEST_DATA", "../shared/data"))
HEART = (DATA / "heart").resolve()


def demonstrate(place: Path, *options: str) -> dict[str, Any]:
    """Run it to its end and return its only document."""
    demo = Running(place, "demo", "--workdir", str(place / "demo"), *options)
    try:
        assert demo.wait(280) == 0, demo.stderr
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


def swapped(files: dict[str, bytes], name: str, old: bytes, new: bytes) -> dict[str, bytes]:
    assert old in files[name]
    return {**files, name: files[name].replace(old, new, 1)}


def tamper(files: dict[str, bytes]) -> Iterator[tuple[str, dict[str, bytes], str]]:
    """What somebody who holds the sealed file may try, and what of it the verifier names."""
    leaves, events = files["log/leaf-hashes.bin"], files["log/events.jsonl"].splitlines(True)
    notes, ledger = files["log/checkpoint"].splitlines(True), files["privacy/ledger.jsonl"]
    yield "event edited", swapped(files, "log/events.jsonl", b'"round":1', b'"round":2'), "event"
    yield "log cut", {**files, "log/leaf-hashes.bin": leaves[:-32]}, "log/leaf-hashes.bin"
    turned = leaves[32:64] + leaves[:32] + leaves[64:]
    yield "leaves exchanged", {**files, "log/leaf-hashes.bin": turned}, "signed root"
    yield "events exchanged", {**files, "log/events.jsonl": b"".join(events[::-1])}, "event"
    forged = swapped(files, "log/checkpoint", notes[-1][-10:-2], b"AAAAAAAA")
    yield "cosignature forged", forged, "cosignature"
    count = swapped(files, "fairness/rates.json", b'"k":', b'"k":1')
    yield "count changed", count, "fairness/rates.json"
    row = swapped(files, "privacy/ledger.jsonl", b'"steps":8', b'"steps":1')
    yield "ledger row changed", row, "privacy/ledger.jsonl"
    less = b"".join(ledger.splitlines(True)[1:])
    yield "ledger row removed", {**files, "privacy/ledger.jsonl": less}, "privacy/ledger.jsonl"
    yield "file added", {**files, "report/more.csv": b"a"}, "report/more.csv"
    gone = {name: text for name, text in files.items() if name != "report/approvals.csv"}
    yield "file removed", gone, "report/approvals.csv"
    page = swapped(files, "report/report.html", b"Dr. A. Weiss", b"Dr. A. Nother")
    yield "page edited", page, "report/report.html"
    yield "seal edited", swapped(files, "log/seal.json", b"Haddad", b"Hadda."), "log/seal.json"


def attack(document: dict[str, Any], place: Path, out: Callable[[], str]) -> None:
    """Each tampering with the demonstration's own evidence is caught and named."""
    audit = document["audit"]
    files, target = bundle.read(Path(audit["bundle"])), place / "tampered.zip"
    for name, changed, named in tamper(files):
        bundle.write(target, changed)
        assert verify.main([str(target), "--policy", audit["policy"]]) == 1, name
        assert named in out().splitlines()[-1], name
    alone = files["log/checkpoint"].split(b"\n\n")
    unseen = alone[0] + b"\n\n" + alone[1].splitlines(True)[0]
    bundle.write(target, {**files, "log/checkpoint": unseen})
    assert verify.main([str(target), "--policy", audit["policy"]]) == 2
    assert "UNWITNESSED" in out()


def test_the_demonstration_ends_with_evidence_that_nobody_can_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = demonstrate(tmp_path, "--rounds", "2", "--sites", "2")
    check(document, tmp_path, sites=2)
    attack(document, tmp_path, lambda: capsys.readouterr().out)
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
