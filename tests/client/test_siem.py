"""The stream to a SIEM: nothing is lost, nothing waits for it, and nobody else gets it."""

import json
import socket
import ssl
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.asking import Asker
from tests.common.test_syslog import read_message
from tests.federation import PLAIN, clock, make_site, write_study
from tests.siem_receiver import HOST, Receiver, Trust, receiving, until

from cohortium.client import siem_line
from cohortium.client.examine_siem import examine_siem
from cohortium.common import timeouts
from cohortium.common.audit import stream, tables
from cohortium.common.audit.events import Actor
from cohortium.common.audit.log import LOG_MIGRATION, EventLog
from cohortium.common.audit.siem import STATE_FILE, Cursor, SiemConfig, Standing, standing
from cohortium.common.audit.stream import Line, streaming
from cohortium.common.database import Database, open_database
from cohortium.common.document import parse
from cohortium.common.errors import DocumentError, IdentityError, UnreachableError
from cohortium.common.identity import SigningKey
from cohortium.server import siem_line as coordinators_line

ACTOR = Actor(type="site", id="a", auth="local")
ROOT = Path(__file__).parent.parent.parent

Dial = Callable[[SiemConfig, Path], Line]
ROLES: dict[str, Dial] = {
    "site": siem_line.open_line,
    "coordinator": coordinators_line.open_line,
}


@dataclass
class Party:
    """A log in a state directory, with a stream to a receiver while `streaming` lasts."""

    root: Path
    database: Database
    log: EventLog
    trust: Trust

    def append(self, count: int) -> None:
        with self.database.transaction():
            for _ in range(count):
                self.log.append("round.task.received", actor=ACTOR, detail={"message": "m" * 40})

    def config(self, port: int, **values: Any) -> SiemConfig:
        return SiemConfig(host=HOST, port=port, ca=Path("siem-ca.pem"), **values)

    @contextmanager
    def streaming(
        self, port: int, dial: Dial = siem_line.open_line, **values: Any
    ) -> Iterator[None]:
        config = self.config(port, **values)
        with streaming(config, self.log, self.database, dial, self.root):
            yield

    def standing(self, port: int, running: bool = True) -> Standing:
        return standing(self.config(port), self.database, self.root / STATE_FILE, running)

    def confirmed(self, port: int) -> int:
        return Cursor(self.database, f"{HOST}:{port}").next()


@pytest.fixture
def party(tmp_path: Path) -> Iterator[Party]:
    migrations = [LOG_MIGRATION, tables.REDACTION, tables.STREAMS]
    with open_database(tmp_path / "site.db", migrations) as database:
        log = EventLog(database, "a", "a", clock)
        yield Party(tmp_path, database, log, Trust(tmp_path))


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits as in service, but shorter."""
    monkeypatch.setattr(timeouts, "SIEM_POLL_S", 0.02)
    monkeypatch.setattr(timeouts, "SIEM_AGAIN_S", (0.02, 0.1))
    monkeypatch.setattr(timeouts, "SIEM_CONFIRM_S", 0.3)
    monkeypatch.setattr(timeouts, "SIEM_CLOSE_S", 0.5)


def sequence(receiver: Receiver) -> list[int]:
    """The events' numbers in their log, in the order in which they were read."""
    bodies = [read_message(raw)[2] for raw in list(receiver.messages)]
    return [json.loads(body)["event"]["sequence"] for body in bodies]


def first_seen(numbers: list[int]) -> list[int]:
    """Without what came again: what is left when a receiver drops what it has."""
    return list(dict.fromkeys(numbers))


# ------------------------------------------------------------------ nothing is lost


@pytest.mark.parametrize("role", ROLES)
def test_lines_arrive_complete_and_in_order(party: Party, role: str) -> None:
    party.append(250)
    with receiving(party.trust.context((HOST,))) as receiver:
        with party.streaming(receiver.port, ROLES[role]):
            until(lambda: len(receiver.messages) == 250)
            party.append(3)
            until(lambda: len(receiver.messages) == 253)
            until(lambda: party.confirmed(receiver.port) == 253)
        assert sequence(receiver) == list(range(253))
        headers = [read_message(raw)[0] for raw in receiver.messages]
        events = list(party.log.events())
        assert [h["msgid"] for h in headers] == [event.action for event in events]
        assert [h["time"] for h in headers] == [event.ts for event in events]


def test_cef_lines_arrive_too(party: Party) -> None:
    party.append(2)
    with receiving(party.trust.context((HOST,))) as receiver:
        with party.streaming(receiver.port, format="cef"):
            until(lambda: len(receiver.messages) == 2)
        assert all(b" CEF:0|Cohortium|" in raw for raw in receiver.messages)


def test_a_siem_killed_in_the_middle_and_started_again_has_every_line(
    party: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "WINDOW", 200)
    party.append(700)
    context = party.trust.context((HOST,))
    numbers: list[int] = []
    with receiving(context, dies_after=333) as first, party.streaming(first.port):
        until(lambda: len(first.messages) == 333)
        first.kill()
        numbers += sequence(first)
        party.append(50)
        with receiving(context, port=first.port, dies_after=250) as second:
            until(lambda: len(second.messages) == 250)
            second.kill()
            numbers += sequence(second)
        with receiving(context, port=first.port) as third:
            until(lambda: party.confirmed(first.port) == 750)
            numbers += sequence(third)
    assert first_seen(numbers) == list(range(750))
    assert len(numbers) <= 750 + 2 * 200, "no more than a window comes again for each break"


def test_lines_that_a_dying_receivers_machine_had_taken_are_sent_again(party: Party) -> None:
    """It never reads: all lies in its machine's buffers, and is lost with it."""
    party.append(20)
    context = party.trust.context((HOST,))
    with receiving(context, manner="never reads") as hung, party.streaming(hung.port):
        until(lambda: party.standing(hung.port).trouble != "")
        hung.kill()
        with receiving(context, port=hung.port) as receiver:
            until(lambda: party.confirmed(hung.port) == 20)
            assert sequence(receiver) == list(range(20))


@pytest.mark.parametrize(
    ("manner", "confirmed"), [("answers", 5), ("closes", 5), ("resets", 0), ("never ends", 0)]
)
def test_only_a_connection_that_ended_in_order_moves_the_cursor(
    party: Party, manner: Any, confirmed: int
) -> None:
    party.append(5)
    with receiving(party.trust.context((HOST,)), manner=manner) as receiver:
        with party.streaming(receiver.port):
            until(lambda: len(receiver.messages) >= (5 if confirmed else 10))
            until(lambda: party.confirmed(receiver.port) == confirmed)
            until(lambda: bool(party.standing(receiver.port).trouble) == (confirmed == 0))
        if not confirmed:
            assert "RFC 5425" in party.standing(receiver.port).trouble
            assert set(sequence(receiver)) == set(range(5))


def test_what_was_confirmed_is_not_sent_again_after_a_restart(party: Party) -> None:
    party.append(4)
    with receiving(party.trust.context((HOST,))) as receiver:
        with party.streaming(receiver.port):
            until(lambda: party.confirmed(receiver.port) == 4)
        party.append(2)
        with party.streaming(receiver.port):
            until(lambda: party.confirmed(receiver.port) == 6)
        assert sequence(receiver) == list(range(6))


def test_another_siem_gets_the_whole_log(party: Party) -> None:
    party.append(3)
    context = party.trust.context((HOST,))
    for _ in range(2):
        with receiving(context) as receiver, party.streaming(receiver.port):
            until(lambda: party.confirmed(receiver.port) == 3)
            assert sequence(receiver) == [0, 1, 2]


def test_erased_events_are_passed_over(party: Party) -> None:
    party.append(6)
    for seq in (0, 2, 3, 5):
        party.database.execute("UPDATE events SET line = '' WHERE seq = ?", (seq,))
    with receiving(party.trust.context((HOST,))) as receiver:
        with party.streaming(receiver.port):
            until(lambda: party.confirmed(receiver.port) == 5)
            assert party.standing(receiver.port).behind == 0
            party.append(1)
            until(lambda: len(receiver.messages) == 3)
        assert sequence(receiver) == [1, 4, 6]


# ------------------------------------------------------------------ nothing waits for it


@pytest.mark.parametrize("manner", ["never reads", "never shakes hands"])
def test_a_daemon_ends_in_time_while_its_siem_hangs(
    party: Party, manner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert timeouts.SIEM_STOP_S + timeouts.SIEM_ABORT_S <= 2.0
    monkeypatch.setattr(timeouts, "SIEM_STOP_S", 0.4)
    monkeypatch.setattr(timeouts, "SIEM_CLOSE_S", 60.0)
    monkeypatch.setattr(timeouts, "SIEM_CONNECT_S", 60.0)
    party.append(10)
    with receiving(party.trust.context((HOST,)), manner=manner) as receiver:
        with party.streaming(receiver.port):
            until(lambda: receiver.connections > 0)
            time.sleep(0.1)
            started = time.monotonic()
        assert time.monotonic() - started < timeouts.SIEM_STOP_S + timeouts.SIEM_ABORT_S + 1.0
        assert party.confirmed(receiver.port) == 0


def test_a_daemon_ends_in_time_while_its_siem_takes_no_more_bytes(
    party: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both machines' buffers are full, and the thread hangs in `send`."""
    monkeypatch.setattr(timeouts, "SIEM_SEND_S", 60.0)
    with receiving(party.trust.context((HOST,)), manner="never reads") as receiver:
        line = siem_line.open_line(party.config(receiver.port), party.root)
        stuck = threading.Thread(target=_send_until_it_breaks, args=(line,))
        stuck.start()
        stuck.join(0.5)
        assert stuck.is_alive()
        line.abort()
        stuck.join(1.0)
        assert not stuck.is_alive()
        line.close()


def _send_until_it_breaks(line: Line) -> None:
    try:
        while True:
            line.send(bytes(2**20))
    except UnreachableError:
        return


def test_a_refusal_takes_as_long_as_ever_while_the_siem_is_down(tmp_path: Path) -> None:
    key = SigningKey.generate()
    study = write_study(tmp_path, PLAIN)
    hindered, free = (make_site(tmp_path / name, name, key.public) for name in ("a", "b"))
    took: dict[str, list[float]] = {"a": [], "b": []}
    config = SiemConfig(host=HOST, port=1)
    log, database = hindered.log, hindered.database
    with streaming(config, log, database, siem_line.open_line, hindered.directory.root):
        askers = [Asker(key, site) for site in (hindered, free)]
        for number in range(25):
            for asker in askers if number % 2 else reversed(askers):
                started = time.perf_counter()
                assert asker.train(study, 1).rule
                took[asker.site.name].append(time.perf_counter() - started)
        state = hindered.directory.root / STATE_FILE
        until(lambda: "does not answer" in standing(config, database, state, True).trouble)
        found = standing(config, database, state, True)
    assert statistics.median(took["a"]) < 3 * statistics.median(took["b"])
    assert found.behind == log.head().size >= 25
    assert database.execute("SELECT count(*) FROM streams")[0][0] == 0
    hindered.database.close()
    free.database.close()


def test_an_unexpected_error_in_the_stream_is_tried_again(party: Party) -> None:
    party.append(3)
    calls = iter(range(10))

    def dial(config: SiemConfig, root: Path) -> Line:
        if next(calls) < 2:
            raise RuntimeError("a name that must not be shown")
        return siem_line.open_line(config, root)

    with receiving(party.trust.context((HOST,))) as receiver:
        with party.streaming(receiver.port, dial):
            until(lambda: party.confirmed(receiver.port) == 3)
        assert sequence(receiver) == [0, 1, 2]


# ------------------------------------------------------------------ nobody else gets it


def trouble_of(party: Party, receiver: Receiver, **values: Any) -> str:
    """What the stream and a direct attempt both say of a receiver that gets nothing."""
    party.append(2)
    with party.streaming(receiver.port, **values):
        until(lambda: party.standing(receiver.port).trouble != "")
        trouble = party.standing(receiver.port).trouble
    assert receiver.messages == []
    assert "\n" not in trouble
    return trouble


@pytest.mark.parametrize(
    ("hosts", "age_days", "said"),
    [
        (("siem.example.org",), 31, "has expired"),
        (("siem.example.org",), -2, "is not valid yet"),
    ],
)
def test_a_certificate_of_another_time_is_refused(
    party: Party, hosts: tuple[str, ...], age_days: int, said: str
) -> None:
    with receiving(party.trust.context(hosts, age_days)) as receiver:
        assert f"the receiver's certificate {said}" in trouble_of(party, receiver)


def test_a_certificate_from_another_authority_is_refused(party: Party, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with receiving(Trust(tmp_path / "other").context((HOST,))) as receiver:
        trouble = trouble_of(party, receiver)
    assert "not from an authority that [siem] ca trusts" in trouble


def test_a_certificate_for_another_name_is_refused(party: Party) -> None:
    """The certificate names siem.example.org, localhost and 127.0.0.1."""
    other = "127.0.0.2"
    with receiving(party.trust.context(), host=other) as receiver:
        config = party.config(receiver.port).model_copy(update={"host": other})
        with pytest.raises(IdentityError, match="is for another address"):
            siem_line.open_line(config, party.root)
        assert receiver.messages == []


@pytest.mark.parametrize("role", ROLES)
def test_a_receiver_that_wants_our_certificate_gets_it(party: Party, role: str) -> None:
    context = party.trust.context((HOST,))
    context.load_verify_locations(party.root / "siem-ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    party.trust.issue_client("site a").save(party.root / "our.key", party.root / "our.pem")
    own = {"certificate": Path("our.pem"), "key": Path("our.key")}
    with receiving(context) as receiver:
        assert "certificate" in trouble_of(party, receiver)
        with party.streaming(receiver.port, ROLES[role], **own):
            until(lambda: party.confirmed(receiver.port) == 2)


def test_a_receiver_that_refuses_us_after_we_sent_has_confirmed_nothing(party: Party) -> None:
    """A fatal alert looks like the answer to our end, if one is not careful."""
    context = party.trust.context((HOST,))
    context.load_verify_locations(party.root / "siem-ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with receiving(context, manner="refuses late") as receiver:
        line = siem_line.open_line(party.config(receiver.port), party.root)
        line.send(b"5 hello")
        with pytest.raises(IdentityError, match="asks for a certificate of ours"):
            line.finish()
        line.close()


def _greet(listener: socket.socket) -> None:
    with listener.accept()[0] as connection:
        connection.sendall(b"220 hello\r\n")


def test_a_plain_tcp_receiver_is_refused(party: Party) -> None:
    with socket.create_server((HOST, 0)) as listener:
        answering = threading.Thread(target=_greet, args=(listener,))
        answering.start()
        with pytest.raises(UnreachableError, match="no TLS"):
            siem_line.open_line(party.config(listener.getsockname()[1]), party.root)
        answering.join()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"host": "siem.invalid"}, '"siem.invalid" has no address'),
        ({"ca": Path("absent.pem")}, "absent or not in PEM form"),
        ({"port": 1}, "does not answer"),
    ],
)
def test_what_is_wrong_with_the_configuration_is_one_line(
    party: Party, values: dict[str, Any], said: str
) -> None:
    config = SiemConfig(**{"host": HOST, "port": 1, "ca": Path("siem-ca.pem"), **values})
    with pytest.raises((UnreachableError, IdentityError), match=said):
        siem_line.open_line(config, party.root)


def test_a_certificate_without_its_key_is_refused() -> None:
    with pytest.raises(DocumentError, match="certificate and key belong together"):
        parse({"host": "siem", "certificate": "our.pem"}, SiemConfig, "site.toml")


def test_both_roles_open_the_same_line() -> None:
    """Neither role may import the other, nor may common do network I/O: so there are two copies."""
    site, coordinator = (
        (ROOT / path).read_text().partition("\n")[2]
        for path in (
            "client/cohortium/client/siem_line.py",
            "server/cohortium/server/siem_line.py",
        )
    )
    assert site == coordinator


# ------------------------------------------------------------------ people can see how it is


def test_the_status_says_since_when_it_is_behind_and_why(party: Party) -> None:
    party.append(2)
    first = next(party.log.events())
    with party.streaming(1):
        until(lambda: party.standing(1).trouble != "")
        found = party.standing(1)
    assert (found.behind, found.since) == (2, first.ts)
    assert found.text == (
        f"SIEM {HOST}:1: 2 events behind since {first.ts}: does not answer (Connection refused); "
        "ask who runs it"
    )
    stopped = party.standing(1, running=False)
    assert stopped.text.endswith(": the daemon does not run")


def test_a_siem_that_was_configured_under_a_running_daemon_is_said(party: Party) -> None:
    party.append(1)
    assert "restart the daemon" in party.standing(7).text


def test_the_doctor_looks_at_the_siem_and_sends_nothing(tmp_path: Path) -> None:
    site = make_site(tmp_path / "a", "a", SigningKey.generate().public)
    site.log.append("log.started", actor=site.actor)
    trust = Trust(site.directory.root)
    siem = SiemConfig(host=HOST, port=1, ca=Path("siem-ca.pem"))
    with receiving(trust.context((HOST,))) as receiver:
        well = site.config.model_copy(
            update={"siem": siem.model_copy(update={"port": receiver.port})}
        )
        verdicts = {f.check: f.verdict for f in examine_siem(site.directory, well)}
        assert receiver.messages == []
    assert verdicts == {"SIEM": "ok", "SIEM stream": "warning"}
    with receiving(trust.context((HOST,)), manner="never ends") as receiver:
        silent = site.config.model_copy(
            update={"siem": siem.model_copy(update={"port": receiver.port})}
        )
        finding = next(iter(examine_siem(site.directory, silent)))
        assert (finding.verdict, "RFC 5425" in finding.said) == ("fail", True)
    gone = next(iter(examine_siem(site.directory, site.config.model_copy(update={"siem": siem}))))
    assert (gone.verdict, gone.check) == ("fail", "SIEM")
    assert "does not answer" in gone.said
    assert list(examine_siem(site.directory, site.config)) == []
    site.database.close()
