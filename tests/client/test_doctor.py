"""The doctor finds what is wrong, says how to mend it, changes nothing, and never falls over."""

import base64
import hashlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from importlib.metadata import PathDistribution, version
from pathlib import Path

import pytest
import torch
from tests.federation import make_site, set_policy
from tests.transport import make_tls

from cohortium.client import examine_machine
from cohortium.client.config import SiteDir
from cohortium.client.doctor import examine, require_fit
from cohortium.client.enrol import join as join_consortium
from cohortium.client.finding import Finding
from cohortium.common import identity
from cohortium.common.code import code_version
from cohortium.common.errors import CohortiumError, UnreachableError, UsageError
from cohortium.common.identity import CertifiedKey, SigningKey, certificate_fingerprint
from cohortium.common.invitation import Invitation, JoinReply, JoinRequest, new_token
from cohortium.server.enrolment import EnrolmentService

NO_PROXY: Mapping[str, str] = {}


@pytest.fixture
def ca() -> CertifiedKey:
    return identity.make_ca("Test CA", datetime.now(UTC) - timedelta(days=100))


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[str]:
    """The coordinator's own enrolment door: real TLS, and it tells the time."""
    (tmp_path / "tls").mkdir()
    door = EnrolmentService("127.0.0.1", 0, make_tls(tmp_path / "tls", days=90), _nobody)
    door.start()
    yield f"127.0.0.1:{door.port}"
    door.stop()


def _nobody(request: JoinRequest) -> JoinReply:
    raise UsageError("nobody joins here")


@pytest.fixture
def directory(tmp_path: Path, coordinator: str) -> SiteDir:
    """A site in good health."""
    site = make_site(tmp_path / "a", "a", SigningKey.generate().public)
    site.database.close()
    identity.make_node_key(site.directory.node_key)
    trust(site.directory, (tmp_path / "tls" / "ca.pem").read_bytes())
    edit(site.directory, '"127.0.0.1:1"', f'"{coordinator}"')
    edit(site.directory, 'enrolment_address = ""', f'enrolment_address = "{coordinator}"')
    edit(site.directory, "memory_gib = 8.0", "memory_gib = 0.5")
    return site.directory


def trust(directory: SiteDir, pem: bytes) -> None:
    """Make the site one that joined this certificate authority."""
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
    findings = [one for one in examine(directory.root, environ=NO_PROXY) if one.check == check]
    assert len(findings) == 1
    return sound(findings[0])


def sound(finding: Finding) -> Finding:
    """Every finding is one line, and says what to do unless all is well."""
    assert (finding.verdict == "ok") == (finding.advice == "")
    assert "\n" not in finding.said + finding.advice
    return finding


# ------------------------------------------------------------------ the whole


def test_a_healthy_site_has_no_finding_and_nothing_is_changed(directory: SiteDir) -> None:
    def state() -> dict[Path, tuple[bytes, int]]:
        files = [path for path in directory.root.rglob("*") if path.is_file()]
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    before = state()
    findings = [sound(one) for one in examine(directory.root, environ=NO_PROXY)]
    assert {f.check: f.said for f in findings if f.verdict == "fail"} == {}
    assert {f.check for f in findings} == {
        "site.toml", "policy", "node.key", "signing.key", "ca.pem", "disk", "file system",
        "packages", "package files", "memory", "isolation", "self-test", "device", "proxy", "DNS",
        "TCP", "TLS", "clock", "data ward", "witness",
    }  # fmt: skip
    assert state() == before


def test_a_missing_or_broken_site_toml_is_the_only_finding(tmp_path: Path) -> None:
    (finding,) = examine(tmp_path)
    assert (finding.check, finding.verdict) == ("site.toml", "fail")
    (tmp_path / "site.toml").write_text("name = ")
    (finding,) = examine(tmp_path)
    assert "not valid TOML" in finding.said


def test_a_daemon_does_not_start_on_a_failure_and_is_told_the_first(directory: SiteDir) -> None:
    require_fit(directory.root)
    directory.signing_key.chmod(0o644)
    directory.ca.unlink()
    with pytest.raises(CohortiumError, match=r"^signing\.key: others can read it; run: chmod 600"):
        require_fit(directory.root)


def test_a_daemon_starts_although_the_coordinator_is_away_and_the_table_is_wrong(
    directory: SiteDir, coordinator: str
) -> None:
    edit(directory, coordinator, "127.0.0.1:1")
    (directory.root / "ward.csv").unlink()
    require_fit(directory.root)


def test_up_ends_with_the_line_that_says_why_and_leaves_no_daemon(directory: SiteDir) -> None:
    directory.node_key.chmod(0o640)
    command = [sys.executable, "-m", "cohortium.common.cli", "site", "up", "--dir"]
    ended = subprocess.run(
        [*command, str(directory.root)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: node.key: others can read it; run: chmod 600 ")
    assert ended.stderr.count("\n") == 1
    assert not directory.status.exists()


# ------------------------------------------------------------------ keys and certificate


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


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nAA=="]
)
def test_a_certificate_that_is_none_is_found(directory: SiteDir, content: bytes) -> None:
    directory.ca.write_bytes(content)
    findings = {one.check: sound(one) for one in examine(directory.root, environ=NO_PROXY)}
    assert findings["ca.pem"].verdict == "fail"
    assert findings["TLS"].verdict == "fail"


def test_an_expired_certificate_is_a_failure_and_not_minus_five_days(directory: SiteDir) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=365 * 40)
    trust(directory, identity.make_ca("Test CA", long_ago).certificate_pem)
    finding = found(directory, "ca.pem")
    assert finding.verdict == "fail"
    assert finding.said.startswith("expired on ")


# ------------------------------------------------------------------ policy


def test_a_policy_that_allows_nothing_or_too_much_is_said(directory: SiteDir) -> None:
    assert found(directory, "policy").verdict == "ok"
    edit(directory, "allow_unprotected = false", "allow_unprotected = true")
    assert found(directory, "policy.allow_unprotected").verdict == "warning"
    edit(directory, 'purposes = ["HMB"]', "purposes = []")
    assert "no study can run" in found(directory, "policy.purposes").said


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("allow_exact_counts", "true", "has no effect"),
        ("max_epsilon_per_study", "10.5", "10.5 is more than dataset ward has ever to give (10)"),
        ("hours", '"20:00-20:00"', "is an empty range"),
        ("models", "[]", "no study can run"),
        ("may_leave", '["evaluated"]', "no study can train"),
        ("require_secure_aggregation", "true", "every study is refused"),
        ("minimum_cell", "0", "disclosure control of held-out results is off"),
    ],
)
def test_a_rule_that_contradicts_another_is_a_warning(
    directory: SiteDir, key: str, value: str, said: str
) -> None:
    set_policy(directory.config, {key: value})
    finding = found(directory, f"policy.{key}")
    assert finding.verdict == "warning"
    assert said in finding.said


def test_two_approvals_that_one_person_would_have_to_give_are_said(directory: SiteDir) -> None:
    set_policy(directory.config, {"approvals_needed": "2"})
    assert found(directory, "policy").verdict == "ok"
    text = directory.config.read_text() + '\n[people]\n"Dr. Weiss" = "approver"\n"Bo" = "operator"'
    directory.config.write_text(text)
    said = found(directory, "policy.approvals_needed").said
    assert said == "2 approvals are needed, and [people] has 1 approver(s)"
    directory.config.write_text(text + '\n"Dr. Bo" = "approver"\n')
    assert found(directory, "policy").verdict == "ok"


def test_an_automatic_approval_of_what_the_policy_forbids_is_said(directory: SiteDir) -> None:
    rule = (
        '[[auto_approve]]\nname = "small"\npurposes = ["HMB"]\ndatasets = ["ward"]\n'
        "max_epsilon = 4.0\nmax_rounds = 100\n"
    )
    text = directory.config.read_text()
    directory.config.write_text(f"{text}\n{rule}")
    assert found(directory, "policy").verdict == "ok"
    wide = rule.replace('["HMB"]', '["HMB", "GRU"]').replace("4.0", "4.5").replace("100", "101")
    directory.config.write_text(f"{text}\n{wide.replace('ward', 'icu')}")
    assert found(directory, "auto_approve small").said == (
        "covers what [policy] forbids: purposes GRU; epsilon 4.5; 101 rounds; "
        "datasets icu, which are not registered"
    )


# ------------------------------------------------------------------ network


@pytest.mark.parametrize(
    ("ahead", "verdict"),
    [
        (timedelta(0), "ok"),
        (timedelta(minutes=10), "warning"),
        (timedelta(minutes=-10), "warning"),
        (timedelta(hours=2), "fail"),
    ],
)
def test_a_clock_that_differs_from_the_coordinators_is_found(
    directory: SiteDir, ahead: timedelta, verdict: str
) -> None:
    findings = examine(directory.root, lambda: datetime.now(UTC) + ahead, NO_PROXY)
    (clock,) = [sound(finding) for finding in findings if finding.check == "clock"]
    assert clock.verdict == verdict
    seconds = int(clock.said.removeprefix("differs from the coordinator's by ")[:-2])
    assert abs(seconds - abs(ahead.total_seconds())) <= 1


def test_a_clock_is_not_invented_where_the_coordinator_does_not_tell(directory: SiteDir) -> None:
    text = directory.config.read_text()
    line = next(line for line in text.splitlines() if line.startswith("enrolment_address"))
    directory.config.write_text(text.replace(line, 'enrolment_address = "127.0.0.1:1"'))
    assert found(directory, "clock").said == "not measured: the enrolment port does not tell"


def test_a_join_says_whether_the_name_or_the_port_is_wrong(
    tmp_path: Path, ca: CertifiedKey
) -> None:
    for number, (address, said) in enumerate(
        [("nobody.invalid:1", 'DNS: "nobody.invalid" has no address; check the name'),
         ("127.0.0.1:1", "TCP: 127.0.0.1:1 does not answer")]
    ):  # fmt: skip
        file = tmp_path / f"{number}.invite"
        _invitation(ca, address).write(file)
        with pytest.raises(UnreachableError) as caught:
            join_consortium(file, tmp_path / "site")
        assert str(caught.value).startswith(said)
        assert list((tmp_path / "site").iterdir()) == []


def test_a_site_that_joined_knows_where_to_ask_the_time(tmp_path: Path) -> None:
    reply = JoinReply(
        coordinator_name="consortium",
        fleet_address="127.0.0.1:9092",
        coordinator_signing_key=SigningKey.generate().public.text,
    )
    tls = make_tls(tmp_path)
    door = EnrolmentService("127.0.0.1", 0, tls, lambda request: reply)
    door.start()
    address = f"127.0.0.1:{door.port}"
    ca = identity.load_certified_key(tmp_path / "ca.key", tls.ca)
    _invitation(ca, address).write(tmp_path / "a.invite")
    join_consortium(tmp_path / "a.invite", tmp_path / "a")
    door.stop()
    assert SiteDir(tmp_path / "a").load_config().coordinator.enrolment_address == address


def _invitation(ca: CertifiedKey, address: str) -> Invitation:
    return Invitation(
        coordinator="North Consortium",
        site="a",
        enrolment_address=address,
        fleet_address=address,
        ca_certificate=ca.certificate_pem.decode(),
        ca_fingerprint=certificate_fingerprint(ca.certificate_pem),
        token=new_token(),
        expires=datetime.now(UTC) + timedelta(hours=1),
    )


# ------------------------------------------------------------------ machine


def test_more_memory_than_the_machine_has_and_an_absent_device_are_found(
    directory: SiteDir,
) -> None:
    edit(directory, "memory_gib = 0.5", "memory_gib = 1000000.0")
    edit(directory, 'device = "auto"', 'device = "mps"')
    assert found(directory, "memory").verdict == "warning"
    if not torch.backends.mps.is_available():
        assert "torch finds only" in found(directory, "device").said


def test_a_state_directory_on_a_network_share_is_a_failure(tmp_path: Path) -> None:
    share, mounts = tmp_path / "my share", tmp_path / "mounts"
    (share / "site").mkdir(parents=True)
    written = str(share).replace(" ", r"\040")
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {written} nfs4 rw 0 0\n")
    *_, on_share = examine_machine.examine_disk(share / "site", mounts)
    assert (on_share.verdict, "nfs4" in on_share.said) == ("fail", True)
    *_, local = examine_machine.examine_disk(tmp_path, mounts)
    assert (local.verdict, local.said) == ("ok", "ext4")


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("1.6.0", "<1.7,>=1.6", True),
        ("1.7.0", "<1.7,>=1.6", False),
        ("1.10", "<1.7,>=1.6", False),
        ("2.13.0+cpu", ">=2.6", True),
        ("2.5.1", ">=2.6", False),
        ("1.6", "==1.6.0", True),
        ("1.36.0", "", True),
    ],
)
def test_versions_are_compared_as_numbers(version: str, wanted: str, fits: bool) -> None:
    assert examine_machine.fits(version, wanted) is fits


def test_the_packages_are_held_against_our_own_metadata(directory: SiteDir) -> None:
    said = found(directory, "packages").said
    assert set(examine_machine.PACKAGES) <= set(examine_machine.wanted_versions())
    assert all(f"{name} {version(name)}" in said for name in examine_machine.PACKAGES)
    assert code_version() in said


def test_a_package_whose_file_was_changed_is_found(tmp_path: Path) -> None:
    info = tmp_path / "pkg-1.0.dist-info"
    info.mkdir()
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"x = 1\n").digest()).decode().rstrip("=")
    (info / "METADATA").write_text("Name: pkg\nVersion: 1.0\n")
    (info / "RECORD").write_text(f"pkg.py,sha256={digest},6\npkg-1.0.dist-info/RECORD,,\n")
    (tmp_path / "pkg.py").write_text("x = 1\n")
    assert not examine_machine.is_changed(PathDistribution(info))
    (tmp_path / "pkg.py").write_text("x = 2\n")
    assert examine_machine.is_changed(PathDistribution(info))
    (tmp_path / "pkg.py").unlink()
    assert examine_machine.is_changed(PathDistribution(info))


# ------------------------------------------------------------------ data


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
