"""The doctor finds what is wrong, says how to mend it, changes nothing, and never falls over."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.federation import make_site

from cohortium.client.config import SiteDir
from cohortium.client.doctor import Finding, examine
from cohortium.common import identity
from cohortium.common.identity import SigningKey, certificate_fingerprint


@pytest.fixture
def coordinator() -> Iterator[str]:
    """Somebody who answers the telephone."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def directory(tmp_path: Path, coordinator: str) -> SiteDir:
    """A site in good health."""
    site = make_site(tmp_path / "a", "a", SigningKey.generate().public)
    site.database.close()
    identity.make_node_key(site.directory.node_key)
    certify(site.directory, datetime.now(UTC))
    edit(site.directory, "127.0.0.1:1", coordinator)
    return site.directory


def certify(directory: SiteDir, now: datetime) -> None:
    ca = identity.make_ca("Test CA", now)
    pem = ca.certificate_pem
    directory.ca.write_bytes(pem)
    text = directory.config.read_text()
    line = next(line for line in text.splitlines() if line.startswith("ca_fingerprint"))
    directory.config.write_text(
        text.replace(line, f'ca_fingerprint = "{certificate_fingerprint(pem)}"')
    )


def edit(directory: SiteDir, old: str, new: str) -> None:
    text = directory.config.read_text()
    assert old in text
    directory.config.write_text(text.replace(old, new))


def found(directory: SiteDir, check: str) -> Finding:
    findings = [finding for finding in examine(directory.root) if finding.check == check]
    assert len(findings) == 1
    (finding,) = findings
    assert finding.verdict == "ok" or finding.advice
    assert "\n" not in finding.said
    return finding


def test_a_healthy_site_has_no_finding_and_nothing_is_changed(directory: SiteDir) -> None:
    files = {path: path.read_bytes() for path in directory.root.rglob("*") if path.is_file()}
    findings = list(examine(directory.root))
    assert {f.check: f.verdict for f in findings if f.verdict == "fail"} == {}
    assert {f.check for f in findings} == {
        "site.toml", "policy", "node.key", "signing.key", "ca.pem", "disk", "packages", "device",
        "coordinator", "data ward",
    }  # fmt: skip
    after = {path: path.read_bytes() for path in directory.root.rglob("*") if path.is_file()}
    assert after == files


def test_a_missing_or_broken_site_toml_is_the_only_finding(tmp_path: Path) -> None:
    (finding,) = examine(tmp_path)
    assert (finding.check, finding.verdict) == ("site.toml", "fail")
    (tmp_path / "site.toml").write_text("name = ")
    (finding,) = examine(tmp_path)
    assert "not valid TOML" in finding.said


def test_keys_that_others_can_read_or_that_are_gone_are_found(directory: SiteDir) -> None:
    directory.signing_key.chmod(0o644)
    finding = found(directory, "signing.key")
    assert (finding.verdict, finding.advice) == ("fail", f"run: chmod 600 {directory.signing_key}")
    directory.node_key.unlink()
    assert found(directory, "node.key").said == "is missing"


def test_another_certificate_authority_than_the_joined_one_is_found(directory: SiteDir) -> None:
    directory.ca.write_bytes(identity.make_ca("Mallory", datetime.now(UTC)).certificate_pem)
    finding = found(directory, "ca.pem")
    assert finding.verdict == "fail"
    assert "telephone" in finding.advice


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAA=="])
def test_a_certificate_that_is_none_is_found(directory: SiteDir, content: bytes) -> None:
    directory.ca.write_bytes(content)
    assert found(directory, "ca.pem").verdict == "fail"


def test_an_expired_certificate_is_a_failure_and_not_minus_five_days(directory: SiteDir) -> None:
    certify(directory, datetime.now(UTC) - timedelta(days=365 * 40))
    finding = found(directory, "ca.pem")
    assert finding.verdict == "fail"
    assert finding.said.startswith("expired on ")


def test_a_policy_that_allows_nothing_or_too_much_is_said(directory: SiteDir) -> None:
    assert found(directory, "policy").verdict == "ok"
    edit(directory, "allow_unprotected = false", "allow_unprotected = true")
    assert found(directory, "policy").verdict == "warning"
    edit(directory, 'purposes = ["HMB"]', "purposes = []")
    assert "no study can run" in found(directory, "policy").said


@pytest.mark.parametrize(
    "address", ["example.org", "127.0.0.1", "", ":", ":9092", "127.0.0.1:", "127.0.0.1:x",
                "127.0.0.1:99999", "127.0.0.1:-1", "x" * 70 + ".org:1", "..:1"]
)  # fmt: skip
def test_an_address_that_is_none_is_a_finding_and_no_crash(
    directory: SiteDir, coordinator: str, address: str
) -> None:
    edit(directory, coordinator, address)
    assert found(directory, "coordinator").verdict == "fail"


def test_a_coordinator_that_does_not_answer_is_found(directory: SiteDir, coordinator: str) -> None:
    assert found(directory, "coordinator").verdict == "ok"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        edit(directory, coordinator, f"127.0.0.1:{closed.getsockname()[1]}")
        assert "does not answer" in found(directory, "coordinator").said


def test_a_table_that_does_not_fit_is_found_without_its_values(directory: SiteDir) -> None:
    table = directory.root / "ward.csv"
    good = table.read_text()
    table.write_text(good + "Jane Doe,1,2,0\n999,1,2,0\n")
    finding = found(directory, "data ward")
    assert finding.verdict == "fail"
    assert "column age" in finding.said
    assert "first in line 202" in finding.said
    assert "Jane" not in finding.said
    assert "999" not in finding.said
    table.unlink()
    assert "no such file" in found(directory, "data ward").said


def test_no_dataset_and_a_broken_dataset_file_are_said(directory: SiteDir) -> None:
    directory.dataset("ward").write_text("path = 3\n")
    assert found(directory, "data ward").verdict == "fail"
    directory.dataset("ward").unlink()
    assert found(directory, "data").verdict == "warning"
