"""Whoever examines the log sees what matters, and that it was examined is signed and has no gap."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.federation import make_site

from cohortium.client.site import Site, site_log
from cohortium.common.audit.events import Event, os_user
from cohortium.common.audit.review import SECURITY, verify
from cohortium.common.audit.tree import Tree
from cohortium.common.cli import main
from cohortium.common.errors import SignatureError
from cohortium.common.identity import SigningKey

NOW = datetime.now(UTC)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site with two quiet events, and between them one that a reviewer must see."""
    site = make_site(tmp_path / "a", "a", SigningKey.generate().public)
    site.log.append("log.started", actor=site.actor)
    site.log.append(
        "round.refused", actor=site.actor, outcome="denied", reason="privacy.cap", round=1
    )
    site.log.append("privacy.released", actor=site.actor, detail={"dataset": "ward"})
    return site


def review(
    capsys: pytest.CaptureFixture[str], code: int, site: Site, *words: str
) -> dict[str, Any]:
    who = () if "--as" in words else ("--as", "E. Haddad")
    with pytest.raises(SystemExit, match=f"^{code}$"):
        main(["audit", "review", *who, *words, "--dir", str(site.directory.root), "--json"])
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def last(site: Site) -> Event:
    *_, event = site.log.events()
    return event


def test_a_review_shows_what_was_denied_and_is_signed_over_the_log_that_was_looked_at(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Tree(site.database, "events").root(3).hex()
    said = review(capsys, 0, site, "--findings", "one refusal, as it should be")
    assert [event["action"] for event in said["shown"]] == ["round.refused"]
    assert (said["first"], said["last"]) == (0, 2)
    event = last(site)
    assert (event.id, event.action) == (said["event"], "log.review")
    assert event.detail["root"] == root
    assert event.detail["findings"] == "one refusal, as it should be"
    assert event.detail["events"] == "1"
    assert verify(event) == site.key.public


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("reviewer", "somebody else"),
        ("first", "1"),
        ("last", "1"),
        ("findings", "nothing at all"),
        ("root", "0" * 64),
        ("events", "0"),
        ("at", "2020-01-01T00:00:00.000Z"),
        ("signature", "0" * 128),
        ("signature", "none"),
        pytest.param("key", SigningKey.generate().public.text, id="key-another"),
    ],
)
def test_a_review_that_says_something_else_than_was_signed_does_not_verify(
    site: Site, capsys: pytest.CaptureFixture[str], key: str, value: str
) -> None:
    review(capsys, 0, site)
    event = last(site)
    forged = event.model_copy(update={"detail": {**event.detail, key: value}})
    with pytest.raises(SignatureError):
        verify(forged)


def test_the_next_review_begins_where_the_last_ended_and_leaves_nothing_out(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    review(capsys, 0, site)
    site.log.append("run.paused", actor=os_user(), detail={"by": "x"})
    again = review(capsys, 0, site)
    assert (again["first"], again["last"]) == (3, 4)  # with the first review itself
    assert [event["action"] for event in again["shown"]] == ["run.paused"]


def test_a_range_is_of_days(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    tomorrow = f"{NOW + timedelta(days=2):%Y-%m-%d}"
    yesterday = f"{NOW - timedelta(days=1):%Y-%m-%d}"
    assert review(capsys, 0, site, "--since", yesterday, "--until", tomorrow)["last"] == 2
    assert "nothing was logged" in review(capsys, 2, site, "--since", tomorrow)["error"]
    assert "nothing was logged" in review(capsys, 2, site, "--until", yesterday)["error"]
    assert "is no day" in review(capsys, 2, site, "--since", "monday")["error"]
    old = site_log(site.database, site.name, site.key, lambda: NOW - timedelta(days=40))
    assert old.append("log.started", actor=site.actor).src.seq == 4


def test_an_auditor_signs_with_the_key_that_is_registered_and_no_other(
    site: Site, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    own, other = SigningKey.generate(), SigningKey.generate()
    own.save(tmp_path / "own.key")
    other.save(tmp_path / "other.key")
    file = site.directory.config
    file.write_text(f'{file.read_text()}\n[auditors]\n"E. Haddad" = "{own.public.text}"\n')
    assert "sign with --key" in review(capsys, 2, site)["error"]
    wrong = review(capsys, 3, site, "--key", str(tmp_path / "other.key"))
    assert 'not the key that is registered for auditor "E. Haddad"' in wrong["error"]
    stranger = ("--as", "x", "--key", str(tmp_path / "own.key"))
    assert review(capsys, 3, site, *stranger)["exit_code"] == 3
    review(capsys, 0, site, "--key", str(tmp_path / "own.key"))
    assert verify(last(site)) == own.public


@pytest.mark.parametrize("findings", ["two\nlines", "", "x" * 201, "a\u202eb"])
def test_findings_are_one_line(
    site: Site, capsys: pytest.CaptureFixture[str], findings: str
) -> None:
    review(capsys, 2, site, "--findings", findings)
    assert "log.review" not in [event.action for event in site.log.events()]


def test_everything_that_concerns_security_is_shown(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    actions: Any = sorted(SECURITY)
    made = {site.log.append(action, actor=site.actor).id for action in actions}
    assert made <= {event["id"] for event in review(capsys, 0, site)["shown"]}


def test_an_override_is_shown_and_a_release_without_is_not(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.log.append("model.released", actor=site.actor)
    over = site.log.append("model.released", actor=site.actor, detail={"overridden": "1f"})
    shown = [e["id"] for e in review(capsys, 0, site)["shown"] if e["action"] == "model.released"]
    assert shown == [over.id]
