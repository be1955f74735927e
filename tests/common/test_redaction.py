"""What is withheld is gone from the file; everything that rests on the log stands as before."""

import json
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.asking import Asker
from tests.federation import COORDINATOR, FULL, PLAIN, approve, make_site, write_study

from cohortium.client import withdrawal
from cohortium.client.site import Site, open_site, site_log
from cohortium.common.audit.events import DETAIL_KEYS, Actor, Event, os_user
from cohortium.common.audit.log import EventLog
from cohortium.common.audit.retention import KEPT, Lives, Retention, class_of, due, retention_of
from cohortium.common.audit.tree import Tree
from cohortium.common.cli import main
from cohortium.common.database import Database
from cohortium.common.errors import DocumentError
from cohortium.common.identity import SigningKey
from cohortium.server.consortium import Consortium
from cohortium.server.opened import Opened, open_coordinator
from cohortium.server.setup import initialise

NOW = datetime.now(UTC)
LONG_AGO, LATELY = NOW - timedelta(days=8 * 366), NOW - timedelta(days=30)
NAME = "Jane-Doe-of-the-night-shift"
WHY = "erasure, GDPR Article 17(1)(d)"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path / "site", "a", SigningKey.generate().public)


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Opened]:
    initialise(tmp_path / "home", COORDINATOR, "127.0.0.1", 9092, 9093, os_user())
    with (opened := open_coordinator(tmp_path / "home")).database:
        yield opened


def at(site: Site, when: datetime) -> EventLog:
    """The site's log at another time."""
    return site_log(site.database, site.name, site.key, lambda: when)


def audit(
    capsys: pytest.CaptureFixture[str], code: int, word: str, root: Path, *words: str
) -> dict[str, Any]:
    with pytest.raises(SystemExit, match=f"^{code}$"):
        main(["audit", word, *words, "--dir", str(root), "--json"])
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def erase(
    capsys: pytest.CaptureFixture[str], code: int, root: Path, *events: Event
) -> dict[str, Any]:
    named = [word for event in events for word in ("--event", event.id)]
    return audit(capsys, code, "redact", root, *named, "--as", "Dr. E. Haddad", "--reason", WHY)


def everything(root: Path) -> bytes:
    return b"".join(path.read_bytes() for path in root.glob("*.db*"))


def shared(database: Database) -> list[Any]:
    return database.execute("SELECT seq, line FROM shared ORDER BY seq")


def delivered(site: Site) -> None:
    """As if the consortium had proven that it has all that is shared by now."""
    site.database.execute(
        "INSERT OR IGNORE INTO included SELECT seq, seq, 1 + seq, '', 0 FROM shared"
    )


# ------------------------------------------------------------------ at a site


def test_an_erased_event_is_gone_from_the_file_and_its_leaf_is_not(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    event = site.log.append("run.paused", actor=os_user(), detail={"by": NAME})
    head, root = site.log.head(), Tree(site.database, "events").root(1)
    assert NAME.encode() in everything(site.directory.root)
    done = erase(capsys, 0, site.directory.root, event)
    assert (done["withheld"], done["by"]) == (1, "Dr. E. Haddad")
    left = everything(site.directory.root)
    assert NAME.encode() not in left
    assert json.loads(event.line)["salt"].encode() not in left
    assert Tree(site.database, "events").root(1) == root
    (record,) = site.log.events()
    assert record.id == done["events"][0]
    assert (record.action, record.reason) == ("retention.redacted", WHY)
    assert [(t.id, t.h) for t in record.obj] == [(event.id, f"sha256:{event.leaf.hex()}")]
    assert record.detail == {"person": "Dr. E. Haddad", "class": "erasure", "events": "1"}
    assert site.log.verify().size == head.size + 1


def test_of_hundreds_of_events_no_salt_and_no_name_stays_in_the_file(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    with site.database.transaction():
        for number in range(300):
            detail = {"by": f"{NAME}-{number}" + number % 7 * "x"}
            at(site, LONG_AGO).append("run.paused", actor=os_user(), detail=detail)
    salts = [event.salt.encode() for event in site.log.events()]
    delivered(site)
    who = ("--as", "Dr. E. Haddad", "--reason", "six years are over")
    words = ("--before", f"{LATELY - timedelta(days=6 * 366):%Y-%m-%d}", "--class", "log", *who)
    assert audit(capsys, 0, "redact", site.directory.root, *words)["withheld"] == 300
    left = everything(site.directory.root)
    assert NAME.encode() not in left
    assert [salt for salt in salts if salt in left] == []


def test_what_the_consortium_got_of_it_goes_too_and_what_it_has_not_got_yet_is_delivered(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    first = site.log.append("run.paused", actor=os_user(), detail={"by": NAME})
    delivered(site)
    second = site.log.append("run.resumed", actor=os_user(), detail={"by": NAME})
    erase(capsys, 0, site.directory.root, first, second)
    lines = [row["line"] for row in shared(site.database)]
    assert lines[0] == ""
    assert json.loads(lines[1])["id"] == second.id
    told = json.loads(lines[2])
    assert [thing["id"] for thing in told["obj"]] == [first.id]  # of the other it knows nothing
    assert "reason" not in told
    assert "Haddad" not in lines[2]


def test_an_event_of_which_the_consortium_knows_nothing_is_not_named_to_it(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    event = site.log.append("log.started", actor=site.actor)
    erase(capsys, 0, site.directory.root, event)
    (row,) = shared(site.database)
    assert event.id not in row["line"]
    assert json.loads(row["line"])["detail"] == {"class": "erasure", "events": "1"}


def test_erased_twice_is_once_and_what_was_never_there_is_said(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    event = site.log.append("run.paused", actor=os_user(), detail={"by": NAME})
    erase(capsys, 0, site.directory.root, event)
    again = erase(capsys, 0, site.directory.root, event)
    assert (again["withheld"], again["events"]) == (0, [])
    other = event.model_copy(update={"id": event.id[:-4] + "0000"})
    assert "no event" in erase(capsys, 2, site.directory.root, other)["error"]


@pytest.mark.parametrize("action", sorted(KEPT))
def test_what_the_record_rests_on_is_not_erased(
    site: Site, capsys: pytest.CaptureFixture[str], action: Any
) -> None:
    event = at(site, LONG_AGO).append(action, actor=site.actor, study="1" * 64)
    refused = erase(capsys, 4, site.directory.root, event)
    assert refused["error"].startswith(f"retention.kept: {event.id} is not withheld: ")
    assert event in site.log.events()


def test_what_a_living_dataset_was_used_for_is_not_erased_and_later_is(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    log, dataset = at(site, LONG_AGO), {"dataset": "ward"}
    spent = log.append("privacy.spent", actor=site.actor, study="1" * 64, detail=dataset)
    assert "kept while it lives" in erase(capsys, 4, site.directory.root, spent)["error"]
    at(site, LATELY).append("dataset.retired", actor=site.actor, detail=dataset)
    assert "and years after, until 2" in erase(capsys, 4, site.directory.root, spent)["error"]
    log.append("dataset.retired", actor=site.actor, detail=dataset)
    assert erase(capsys, 0, site.directory.root, spent)["withheld"] == 1


def test_by_class_only_what_is_old_enough_goes(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    old = at(site, LONG_AGO)
    gone = old.append("run.paused", actor=os_user(), detail={"by": NAME})
    other = old.append("study.rejected", actor=os_user(), detail={"person": NAME})
    kept = old.append("dataset.registered", actor=os_user(), detail={"dataset": "ward"})
    new = at(site, LATELY).append("run.resumed", actor=os_user(), detail={"by": "somebody"})
    day = f"{LONG_AGO + timedelta(days=1):%Y-%m-%d}"
    who = ("--as", "Dr. E. Haddad", "--reason", "six years are over")
    done = audit(capsys, 0, "redact", site.directory.root, "--before", day, "--class", "log", *who)
    assert (done["withheld"], done["kept"]) == (1, 0)
    assert [e.id for e in site.log.events()][:-1] == [other.id, kept.id, new.id]
    ledger = audit(
        capsys, 0, "redact", site.directory.root, "--before", day, "--class", "ledger", *who
    )
    assert (ledger["withheld"], ledger["kept"]) == (0, 1)
    today = f"{NOW:%Y-%m-%d}"
    young = audit(
        capsys, 4, "redact", site.directory.root, "--before", today, "--class", "log", *who
    )
    assert young["error"].startswith("retention.young: class log is kept for 6 years")
    assert gone not in site.log.events()
    assert new in site.log.events()


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--event", "x", "--before", "2020-01-01", "--class", "log"),
        ("--before", "2020-01-01"),
        ("--before", "yesterday", "--class", "log"),
        ("--class", "log"),
    ],
)
def test_a_call_that_says_not_which_is_usage(
    site: Site, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    who = ("--as", "Dr. E. Haddad", "--reason", WHY)
    audit(capsys, 2, "redact", site.directory.root, *words, *who)
    assert list(site.log.events()) == []


def test_the_list_says_what_there_is_and_what_may_go(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    old = at(site, LONG_AGO).append("run.paused", actor=os_user(), detail={"by": NAME})
    at(site, LATELY).append("run.resumed", actor=os_user(), detail={"by": NAME})
    at(site, LONG_AGO).append("privacy.spent", actor=site.actor, detail={"dataset": "ward"})
    said = audit(capsys, 0, "retention", site.directory.root)
    log, ledger, evidence = said["classes"]
    assert (log["class"], log["years"], log["events"], log["due"]) == ("log", 6.0, 2, 1)
    assert (log["first"], log["due_bytes"]) == (old.ts, len(old.line.encode()))
    assert (ledger["events"], ledger["due"]) == (1, 0)
    assert (evidence["events"], evidence["due"], evidence["first"]) == (0, 0, None)


def test_a_site_whose_events_are_withheld_answers_and_knows_its_withdrawals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = SigningKey.generate()
    site = make_site(tmp_path / "a", "a", key.public, policy={"allow_unprotected": "true"})
    asker, study = Asker(key, site), write_study(tmp_path, PLAIN)
    approve(site, study)
    asker.invite(study)
    asker.train(study, 1)
    before = list(withdrawal.usage(site, "ward"))
    outcomes: dict[str, Any] = {}
    for event in list(site.log.events()):
        words = ("--event", event.id, "--as", "x", "--reason", WHY, "--dir", str(tmp_path / "a"))
        with pytest.raises(SystemExit) as ended:
            main(["audit", "redact", *words])
        outcomes[event.action] = ended.value.code
    capsys.readouterr()
    assert outcomes == dict.fromkeys(
        ("dataset.snapshot", "round.task.received", "round.update.sent"), 4
    )
    assert list(withdrawal.usage(site, "ward")) == before
    again = open_site(site.directory.root)
    again.watermark.check()
    assert Asker(key, again).train(study, 2).rule == ""
    assert withdrawal.withdraw(again, "ward", "x").used_by[0].trained == (1, 2)
    assert withdrawal.withdraw(again, "ward", "y").by == "x"


def test_privacy_that_was_spent_stays_spent_whatever_is_withheld(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = SigningKey.generate()
    site = make_site(tmp_path / "a", "a", key.public)
    asker, study = Asker(key, site), write_study(tmp_path, FULL)
    approve(site, study)
    asker.invite(study)
    asker.train(study, 1)
    rows = [tuple(row) for row in site.database.execute("SELECT * FROM ledger")]
    assert rows
    spent = next(e for e in site.log.events() if e.action == "privacy.spent")
    erase(capsys, 4, site.directory.root, spent)
    assert [tuple(row) for row in site.database.execute("SELECT * FROM ledger")] == rows


# ------------------------------------------------------------------ at the coordinator


def test_a_sites_withheld_event_is_listed_here_until_a_person_withholds_the_copy(
    site: Site, coordinator: Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not by itself: a site would make its own refusals vanish from the consortium's log."""
    event = site.log.append("run.paused", actor=os_user(), detail={"by": NAME})
    delivered(site)
    consortium = Consortium(coordinator.database, SigningKey.generate(), COORDINATOR)
    copies = consortium.take("a", [row["line"] for row in shared(site.database)])
    size, root = consortium.size(), consortium.tree.root(consortium.size())
    erase(capsys, 0, site.directory.root, event)
    lines = [row["line"] for row in shared(site.database)]
    consortium.take("a", lines[1:])
    home = coordinator.directory.root
    assert audit(capsys, 0, "retention", home)["withheld_by_sites"] == [event.id]
    assert erase(capsys, 0, home, copies[0])["withheld"] == 1
    assert audit(capsys, 0, "retention", home)["withheld_by_sites"] == []
    assert copies[0].salt.encode() not in everything(home)
    assert consortium.tree.root(size) == root
    there = next(one for one in consortium.logged() if one.node == "a")
    assert (there.line, there.leaf) == ("", copies[0].leaf)


def test_a_coordinators_own_event_goes_and_the_consortiums_log_keeps_its_leaf(
    coordinator: Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    actor = Actor(type="person", id=NAME, auth="os-user")
    event = coordinator.log.append("node.revoked", actor=actor, detail={"site": "a"})
    home = coordinator.directory.root
    consortium = Consortium(coordinator.database, SigningKey.generate(), COORDINATOR)
    size = consortium.size()
    root = consortium.tree.root(size)
    erase(capsys, 0, home, event)
    assert NAME.encode() not in everything(home)
    assert consortium.tree.root(size) == root
    coordinator.log.verify()


def test_a_forged_reply_that_keeps_a_gate_open_is_not_erased(
    coordinator: Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    denied = {"actor": os_user(), "outcome": "denied", "reason": "x", "detail": {"site": "a"}}
    event = coordinator.log.append("auth.fail", study="1" * 64, **denied)  # type: ignore[arg-type]
    free = coordinator.log.append("auth.fail", **denied)  # type: ignore[arg-type]
    home = coordinator.directory.root
    assert "keeps a release gate open" in erase(capsys, 4, home, event)["error"]
    assert erase(capsys, 0, home, free)["withheld"] == 1


# ------------------------------------------------------------------ rules


@pytest.mark.parametrize("years", ["0.4", "0", "-1", "101"])
@pytest.mark.parametrize("kind", ["log", "ledger", "evidence"])
def test_nobody_keeps_the_record_for_less_than_six_months(
    site: Site, kind: str, years: str
) -> None:
    file = site.directory.config
    file.write_text(f"{file.read_text()}\n[retention]\n{kind} = {years}\n")
    with pytest.raises(DocumentError, match=rf"retention\.{kind}: at least 0\.5 years"):
        site.directory.load_config()
    with pytest.raises(DocumentError, match=rf"retention: {kind}: at least"):
        retention_of(site.directory.root)


def test_ten_years_are_an_option(site: Site) -> None:
    file = site.directory.config
    file.write_text(f"{file.read_text()}\n[retention]\nlog = 10\n")
    assert retention_of(site.directory.root) == Retention(log=10.0)
    until = Retention(log=10.0).until("log", datetime(2026, 11, 26, tzinfo=UTC))
    assert f"{until:%Y-%m-%d}" == "2036-11-25"  # ten years of 365.25 days


def test_every_action_has_a_class() -> None:
    assert {class_of(action) for action in DETAIL_KEYS} == {"log", "ledger", "evidence"}
    assert class_of("round.refused") == "log"
    assert class_of("round.update.sent") == "ledger"
    assert class_of("study.approved") == "evidence"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    action=st.sampled_from(sorted(DETAIL_KEYS)),
    days=st.integers(0, 12 * 365),
    years=st.sampled_from([0.5, 6.0, 10.0]),
    retired=st.booleans(),
)
def test_nothing_is_due_before_its_class_allows(
    tmp_path: Path, action: Any, days: int, years: float, retired: bool
) -> None:
    when = NOW - timedelta(days=days)
    made = _event(action, when)
    retention = Retention(log=years, ledger=years, evidence=years)
    ended = [_event("dataset.retired", when)] if retired else []
    day = due(made, retention, Lives([made, *ended], {"1" * 64: "ward"}))
    if day is not None:
        assert day - when >= timedelta(days=years * 365)
        assert action not in KEPT
    if class_of(action) == "ledger" and not retired:
        assert day is None or action == "dataset.retired"


def _event(action: str, when: datetime) -> Event:
    keys = {"dataset": "ward"} if "dataset" in DETAIL_KEYS[action] else {}
    log = EventLog(_nowhere(), "a", "a", lambda: when, secrets.token_bytes)
    return log.append(action, actor=os_user(), study="1" * 64, detail=keys)  # type: ignore[arg-type]


def _nowhere() -> Database:
    import sqlite3

    from cohortium.common.audit.log import LOG_MIGRATION

    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.executescript(LOG_MIGRATION)
    return Database(Path(":memory:"), connection)
