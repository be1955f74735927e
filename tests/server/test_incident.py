"""One command: nothing runs, keys change, who is named is out, and the draft says what is known."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.federation import PLAIN, PRIVATE, write_study
from tests.server.test_roster import request

from cohortium.common.audit.events import Actor, os_user
from cohortium.common.cli import main
from cohortium.common.errors import IdentityError, UsageError
from cohortium.common.identity import VerifyKey, certificate_fingerprint
from cohortium.common.incident import DRAFT
from cohortium.common.messages import Consent
from cohortium.server import incident
from cohortium.server.opened import Opened, open_coordinator
from cohortium.server.setup import initialise
from cohortium.server.store import RoundRecord

WHO = ("--as", "Dr. E. Haddad", "--reason", "northgate lost a | laptop")
NOW = datetime.now(UTC)
SITES = ("a", "b")
LEAD = Actor(type="person", id="lead", auth="os-user")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Opened]:
    """A coordinator with two sites, one that is only invited, and two studies under way."""
    initialise(tmp_path / "home", "net", "127.0.0.1", 9092, 9093, os_user())
    with (opened := open_coordinator(tmp_path / "home")).database:
        for name in SITES:
            enrol(opened, name)
        opened.roster.invite("c", timedelta(hours=1), NOW, LEAD)
        for name, parts in (("first", PRIVATE), ("second", PLAIN)):
            study = write_study(tmp_path, parts, name=name)
            opened.store.submit(study, 0)
        first = opened.store.study("first")
        opened.store.begin(first.digest)
        consent = Consent(decision="approved", approvers=("Dr. Weiss",), patients="100-199")
        opened.store.decide(first.digest, "a", consent, 0)
        opened.store.record(first.digest, record(1, {"a": {"update": 1000}}))
        opened.store.record(first.digest, record(2, {"a": {"update": 1000, "evaluated": 50}}))
        yield opened


def enrol(opened: Opened, name: str, replace: bool = False) -> str:
    """Let a site join with fresh keys; its signing key."""
    token, _ = opened.roster.invite(name, timedelta(hours=1), NOW, LEAD, replace=replace)
    asked = request(opened.directory.root.parent, name, token)
    opened.roster.admit(asked, NOW, LEAD)
    return asked.signing_key


def record(number: int, received: dict[str, dict[str, int]]) -> RoundRecord:
    return RoundRecord(
        round=number,
        seconds=1.0,
        received=received,
        replied=tuple(received),
        missing=(),
        refused={},
        spent={},
        evaluations={},
        summary=None,
    )


def run(
    capsys: pytest.CaptureFixture[str], code: int, opened: Opened, *words: str
) -> dict[str, Any]:
    with pytest.raises(SystemExit, match=f"^{code}$"):
        main([*words, "--dir", str(opened.directory.root), "--json"])
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def declare(
    capsys: pytest.CaptureFixture[str], opened: Opened, *words: str, code: int = 0
) -> dict[str, Any]:
    return run(capsys, code, opened, "coordinator", "incident", *WHO, *words)


def actions(opened: Opened, *wanted: str) -> list[str]:
    return [event.action for event in opened.log.events() if event.action in wanted]


def test_every_study_is_stopped_and_none_starts_until_it_is_lifted(
    home: Opened, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = declare(capsys, home)
    assert (said["in_force"], said["studies"], said["running"]) == (True, ["first", "second"], [])
    assert said["seconds"] < 5
    assert [row.state for row in home.store.studies()] == ["stopped", "stopped"]
    frozen = "incident.frozen: an incident is in force here"
    for words in (
        ("study", "submit", str(tmp_path / "study.toml")),
        ("study", "resume", "first"),
        ("study", "release", "first", "--as", "x"),
        ("study", "export", "first", "--out", str(tmp_path / "out")),
    ):
        assert run(capsys, 4, home, *words)["error"].startswith(frozen)
    assert run(capsys, 0, home, "study", "list")["studies"]
    lifted = run(capsys, 0, home, "coordinator", "incident", "--lift", *WHO)
    assert lifted["in_force"] is False
    assert run(capsys, 0, home, "study", "resume", "first")["state"] == "submitted"
    kept = json.loads((Path(lifted["folder"]) / "incident.json").read_text())
    assert (kept["lifted"]["by"], kept["lifted"]["event"]) == ("Dr. E. Haddad", lifted["event"])


def test_given_again_it_does_what_is_left_and_nothing_twice(
    home: Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    first = declare(capsys, home)
    again = declare(capsys, home)
    assert (again["event"], again["since"]) == (first["event"], first["since"])
    assert again["events"] == first["events"]
    assert len(actions(home, "incident.declared")) == 1
    assert len(actions(home, "key.rotated")) == 2  # the first certificate, and one for this
    more = declare(capsys, home, "--sites", "b")
    assert more["revoked"] == ["b"]
    for _ in range(2):
        run(capsys, 0, home, "coordinator", "incident", "--lift", *WHO)
    assert len(actions(home, "run.resumed")) == 1


def test_cut_off_at_any_step_it_is_finished_by_the_next_call(
    home: Opened, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part fails once; the freeze holds from the first moment on."""
    for name in ("_ask_to_stop", "_record", "_renew", "_facts", "seal_evidence"):
        with monkeypatch.context() as broken:
            broken.setattr(incident, name, _power_cut)
            with pytest.raises(KeyboardInterrupt):
                incident.declare(home, "Dr. E. Haddad", "a test", ("a",), LEAD, NOW)
        assert home.incident.path.exists()
    said = declare(capsys, home, "--sites", "a")
    assert [row.ended for row in home.store.studies()] == [True, True]
    assert said["revoked"] == ["a"]
    assert len(actions(home, "incident.declared", "node.revoked")) == 3  # with c's invitation
    assert len(actions(home, "key.rotated")) == 2


def _power_cut(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_server_has_another_key_and_certificate_of_the_same_authority(
    home: Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = home.directory
    before = directory.certificate.read_bytes(), directory.server_key.read_bytes()
    authority = directory.ca.read_bytes(), directory.signing_key.read_bytes()
    declare(capsys, home)
    after = directory.certificate.read_bytes(), directory.server_key.read_bytes()
    assert before[0] != after[0]
    assert before[1] != after[1]
    assert authority == (directory.ca.read_bytes(), directory.signing_key.read_bytes())
    *_, event = [e for e in home.log.events() if e.action == "key.rotated"]
    fingerprints = [certificate_fingerprint(pem) for pem in (before[0], after[0])]
    assert event.detail == dict(zip(("key_before", "key_after"), fingerprints, strict=True))


def test_who_is_named_is_shut_out_and_unused_invitations_are_void(
    home: Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    declare(capsys, home, "--sites", "a")
    assert {m.name: m.state for m in home.roster.members()} == {"a": "revoked", "b": "enrolled"}


def test_a_site_that_nobody_knows_stops_nothing(
    home: Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    said = declare(capsys, home, "--sites", "a,nobody", code=2)
    assert 'no site "nobody" is enrolled' in said["error"]
    assert not home.incident.path.exists()
    assert [row.ended for row in home.store.studies()] == [False, False]
    assert declare(capsys, home, "--lift", "--sites", "a", code=2)["error"].startswith("--sites")


def test_the_draft_has_the_clock_the_headings_and_what_came_here_and_leaves_the_rest_open(
    home: Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    said = declare(capsys, home, "--sites", "a")
    path = Path(said["draft"])
    assert path.name == DRAFT
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    for article in ("33(3)(a)", "33(3)(b)", "33(3)(c)", "33(3)(d)"):
        assert f"## GDPR Article {article}: " in text
    assert "## 45 CFR 164.404(c)(1)" in text
    assert "## 45 CFR 164.410" in text
    noticed = datetime.fromisoformat(said["since"])
    assert f"| GDPR Article 33(1) | {noticed + timedelta(hours=72):%Y-%m-%d %H:%M} UTC |" in text
    assert f"{noticed + timedelta(days=60):%Y-%m-%d %H:%M} UTC" in text
    assert "| a | ward | 100-199 |  |" in text
    assert "| first | a | update, to here | 2 | round 1 | round 2 | 2000 |" in text
    assert "| first | a | evaluated, to here | 1 | round 2 | round 2 | 50 |" in text
    assert "northgate lost a \\| laptop" in text  # a person's text makes no column
    assert text.count("CONTROLLER TO COMPLETE") >= 12
    assert said["events"]["certificate"] in text
    assert "certificate authority: a new one means a new coordinator" in text


def test_the_event_says_who_why_and_what(home: Opened, capsys: pytest.CaptureFixture[str]) -> None:
    said = declare(capsys, home, "--sites", "a,b")
    (event,) = [e for e in home.log.events() if e.action == "incident.declared"]
    assert event.id == said["event"]
    assert event.reason == WHO[3]
    assert event.detail == {"person": "Dr. E. Haddad", "studies": "first,second", "sites": "a, b"}


# ------------------------------------------------------------------ coming back


def test_a_site_comes_back_with_new_keys_and_the_old_ones_are_never_taken_again(
    home: Opened, tmp_path: Path
) -> None:
    old = home.roster.member("a")
    home.roster.revoke("a", NOW, LEAD)
    with pytest.raises(UsageError, match="--replace"):
        home.roster.invite("a", timedelta(hours=1), NOW, LEAD)
    new = enrol(home, "a", replace=True)
    now = home.roster.member("a")
    assert (now.state, now.signing_key) == ("enrolled", new)
    assert [(m.name, m.signing_key) for m in home.roster.former()] == [("a", old.signing_key)]
    events = [e for e in home.log.events() if e.detail.get("site") == "a"]
    rotated, enrolled = events[-2:]
    before, after = (VerifyKey.from_text(text).fingerprint for text in (old.signing_key, new))
    assert (rotated.action, enrolled.action) == ("key.rotated", "node.enrolled")
    assert rotated.detail == {"site": "a", "key_before": before, "key_after": after}
    token, _ = home.roster.invite("a", timedelta(hours=1), NOW, LEAD, replace=True)
    stale = request(tmp_path, "a", token).model_copy(update={"signing_key": old.signing_key})
    with pytest.raises(IdentityError, match="enrolled for a site already"):
        home.roster.admit(stale, NOW, LEAD)


def test_until_the_site_has_come_back_its_old_keys_count_and_it_is_listed_once(
    home: Opened,
) -> None:
    before = home.roster.member("a")
    home.roster.invite("a", timedelta(hours=1), NOW, LEAD, replace=True)
    assert home.roster.member("a") == before
    names = [(m.name, m.state) for m in home.roster.members()]
    assert names == [("a", "enrolled"), ("b", "enrolled"), ("c", "invited")]


def test_nobody_is_replaced_who_was_never_there(
    home: Opened, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = ("--out", str(tmp_path / "x.invite"), "--replace")
    said = run(capsys, 2, home, "coordinator", "invite", "nobody", *out)
    assert 'no site named "nobody" was ever enrolled' in said["error"]
    assert run(capsys, 0, home, "coordinator", "invite", "a", *out)["site"] == "a"
