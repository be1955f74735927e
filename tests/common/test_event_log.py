"""The event log: what a crash, a second writer, a careless caller or an editor could do to it."""

import hashlib
import json
import signal
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest

from cohortium.common.audit import events
from cohortium.common.audit.events import Actor, Event, Thing, leaf_hash, timestamp, uuid7
from cohortium.common.audit.log import LOG_MIGRATION, EventLog
from cohortium.common.database import Database, open_database
from cohortium.common.errors import CohortiumError, DocumentError

NOW = datetime(2026, 11, 22, 14, 3, 42, 123_456, tzinfo=UTC)
DAEMON = Actor(type="service", id="daemon", auth="local")

APPEND_FOREVER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from cohortium.common.audit.events import Actor
from cohortium.common.audit.log import LOG_MIGRATION, EventLog
from cohortium.common.database import open_database

path, count = Path(sys.argv[1]), int(sys.argv[2])
log = EventLog(open_database(path, [LOG_MIGRATION]), "site-a", "a", lambda: datetime.now(UTC))
for number in range(count):
    log.append("round.task.received", actor=Actor(type="service", id="d", auth="local"))
    print(number, flush=True)
"""


def a_log(path: Path) -> tuple[Database, EventLog]:
    database = open_database(path, [LOG_MIGRATION])
    return database, EventLog(database, "site-a", "hospital-a", lambda: NOW, bytes)


def appender(path: Path, count: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", APPEND_FOREVER, str(path), str(count)],
        stdout=subprocess.PIPE,
        text=True,
    )


def reopened(path: Path) -> EventLog:
    return EventLog(open_database(path, [LOG_MIGRATION]), "site-a", "a", lambda: NOW)


def test_an_event_is_the_same_bytes_everywhere(tmp_path: Path) -> None:
    _, log = a_log(tmp_path / "site.db")
    event = log.append("study.approved", actor=DAEMON, study="heart", detail={"person": "Dr. Öz"})
    assert event.line == (
        '{"action":"study.approved","actor":{"auth":"local","id":"daemon","type":"service"},'
        '"detail":{"person":"Dr. Öz"},"id":"019aabe4-0c4b-7000-8000-000000000000",'
        '"outcome":"success","salt":"00000000000000000000000000000000",'
        '"src":{"node":"site-a","org":"hospital-a","seq":0},"study":"heart",'
        '"ts":"2026-11-22T14:03:42.123Z","v":1}'
    ).replace("019aabe4-0c4b", uuid7(1795356222123, bytes(10))[:13])
    assert event.leaf == hashlib.sha256(b"\x00" + event.line.encode()).digest()
    assert list(log.events()) == [event]


def test_the_empty_leaf_is_that_of_rfc_6962() -> None:
    """The leaf hash of the empty string in Certificate Transparency's own test vectors."""
    assert leaf_hash("").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"


def test_a_uuid_is_that_of_rfc_9562() -> None:
    """RFC 9562, appendix A.6: time 0x017F22E279B0, rand_a 0xCC3, rand_b 0x18C4DC0C0C07398F."""
    random = (0xCC3 << 62 | 0x18C4DC0C0C07398F).to_bytes(10, "big")
    assert uuid7(0x017F22E279B0, random) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


def test_a_time_in_another_zone_is_written_in_utc() -> None:
    assert timestamp(datetime.fromisoformat("2026-11-23T00:30:00+09:30")) == (
        "2026-11-22T15:00:00.000Z"
    )


def test_a_killed_writer_leaves_a_log_without_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "site.db"
    with appender(path, 100_000) as writer:
        assert writer.stdout is not None
        for _ in range(30):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        acknowledged = 30 + len(writer.stdout.readlines())
    log = reopened(path)
    assert log.verify().size >= acknowledged
    log.append("log.started", actor=DAEMON)
    log.verify()


def test_two_processes_that_append_at_once_share_one_sequence(tmp_path: Path) -> None:
    path = tmp_path / "site.db"
    writers = [appender(path, 40), appender(path, 40)]
    assert [len(writer.communicate()[0].split()) for writer in writers] == [40, 40]
    assert reopened(path).verify().size == 80


def spend_and_fail(database: Database, log: EventLog) -> None:
    with database.transaction():
        log.append("privacy.spent", actor=DAEMON)
        raise KeyError


def test_an_event_does_not_outlive_the_transaction_it_belongs_to(tmp_path: Path) -> None:
    database, log = a_log(tmp_path / "site.db")
    log.append("log.started", actor=DAEMON)
    with pytest.raises(KeyError):
        spend_and_fail(database, log)
    assert log.append("privacy.released", actor=DAEMON).src.seq == 1
    assert [event.action for event in log.events()] == ["log.started", "privacy.released"]


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE events SET line = 'x'",
        "DELETE FROM events",
        "REPLACE INTO events VALUES (0, 'x', zeroblob(32))",
        "INSERT INTO events VALUES (7, 'x', zeroblob(32))",
        "INSERT INTO events VALUES (1, 'x', zeroblob(31))",
    ],
)
def test_history_cannot_be_rewritten_by_mistake(tmp_path: Path, sql: str) -> None:
    database, log = a_log(tmp_path / "site.db")
    event = log.append("log.started", actor=DAEMON)
    with pytest.raises(CohortiumError, match="write refused"):
        database.execute(sql)
    assert list(log.events()) == [event]


@pytest.mark.parametrize(
    ("sql", "complaint"),
    [
        ("DELETE FROM events WHERE seq = 1", "event 1 is missing"),
        ("UPDATE events SET line = replace(line, 'daemon', 'nobody')", "event 0 does not match"),
        ("UPDATE events SET seq = 3 WHERE seq = 2", "event 2 is missing"),
    ],
)
def test_an_edited_log_does_not_verify(tmp_path: Path, sql: str, complaint: str) -> None:
    path = tmp_path / "site.db"
    _, log = a_log(path)
    for _ in range(3):
        log.append("log.started", actor=DAEMON)
    editor = sqlite3.connect(path)
    for trigger in ("no_gap", "never_changed", "never_deleted"):
        verb = "have" if trigger == "no_gap" else "are"
        editor.execute(f"DROP TRIGGER events_{verb}_{trigger}")
    editor.execute(sql)
    editor.commit()
    editor.close()
    with pytest.raises(CohortiumError, match=complaint):
        log.verify()


def test_another_nodes_log_does_not_verify_as_ones_own(tmp_path: Path) -> None:
    database, log = a_log(tmp_path / "site.db")
    log.append("log.started", actor=DAEMON)
    with pytest.raises(CohortiumError, match="belongs to another"):
        EventLog(database, "site-b", "hospital-b", lambda: NOW).verify()


def test_the_head_changes_with_every_event(tmp_path: Path) -> None:
    _, log = a_log(tmp_path / "site.db")
    first = log.append("log.started", actor=DAEMON)
    assert log.head() == (1, hashlib.sha256(first.leaf).hexdigest())
    second = log.append("log.started", actor=DAEMON)
    assert log.head() == (2, hashlib.sha256(first.leaf + second.leaf).hexdigest()) == log.verify()


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"action": "round.update.send"}, 'did you mean "round.update.sent"'),
        ({"detail": {"patient": "17"}}, "has no such detail"),
        ({"detail": {"size": 1.5}}, "valid string"),
        ({"round": 1.0}, "valid integer"),
        ({"reason": "first line\nsecond line"}, "one line of printable text"),
        ({"reason": "\u202etxt.exe"}, "one line of printable text"),
        ({"reason": "\ud800"}, "valid string"),
        ({"study": "x" * 201}, "200 characters"),
        ({"study": ""}, "one line of printable text"),
        ({"outcome": "denied"}, "needs a reason"),
        ({"outcome": "maybe"}, "'success', 'failure' or 'denied'"),
    ],
)
def test_what_is_outside_the_vocabulary_is_not_written(
    tmp_path: Path, wrong: dict[str, Any], complaint: str
) -> None:
    _, log = a_log(tmp_path / "site.db")
    arguments: dict[str, Any] = {"action": "log.started", "actor": DAEMON, **wrong}
    with pytest.raises(DocumentError, match=complaint):
        log.append(**arguments)
    assert list(log.events()) == []


def test_the_vocabulary_has_every_group_of_its_first_version() -> None:
    assert set(events.DETAIL_KEYS) == {
        action for group in get_args(events.Action) for action in get_args(group) or (group,)
    }
    required = """auth.ok auth.fail user.role.changed node.enrolled node.revoked key.rotated
        study.created protocol.changed study.approved study.rejected approval.withdrawn
        policy.changed dataset.registered dataset.snapshot dataset.retired cohort.queried
        run.started run.stopped run.failed round.task.received round.update.sent round.refused
        round.aggregated node.dropped privacy.reserved privacy.spent privacy.released
        privacy.cap.hit privacy.selftest evaluation.completed fairness.audit.completed flag.raised
        flag.dispositioned model.released model.downloaded model.withdrawn
        pccp.modification.executed log.started log.checkpoint log.review export.sealed
        retention.redacted clock.skew"""
    assert set(required.split()) <= set(events.DETAIL_KEYS)


def test_an_export_is_the_logged_lines_and_leaves_no_draft(tmp_path: Path) -> None:
    _, log = a_log(tmp_path / "site.db")
    update = Thing(t="update", h="sha256:" + "ab" * 32, bytes=1048712)
    written = [
        log.append("round.update.sent", actor=DAEMON, round=n, obj=(update,)) for n in (1, 2)
    ]
    target = tmp_path / "out" / "events.jsonl"
    target.parent.mkdir()
    assert log.export(target) == 2
    lines = target.read_text().splitlines()
    assert lines == [event.line for event in written]
    assert json.loads(lines[1])["obj"][0]["bytes"] == 1048712
    assert [path.name for path in target.parent.iterdir()] == ["events.jsonl"]


def test_an_export_into_nowhere_is_one_line(tmp_path: Path) -> None:
    _, log = a_log(tmp_path / "site.db")
    with pytest.raises(CohortiumError, match=r"absent/events\.jsonl: cannot be written"):
        log.export(tmp_path / "absent" / "events.jsonl")


def test_a_reader_can_go_on_where_it_stopped(tmp_path: Path) -> None:
    _, log = a_log(tmp_path / "site.db")
    written: list[Event] = [log.append("log.started", actor=DAEMON) for _ in range(5)]
    assert list(log.events(since=3)) == written[3:]
