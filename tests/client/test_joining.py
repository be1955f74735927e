"""A join that could not work later stops before the invitation is used up, and says why."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.transport import free_port, make_tls

from cohortium.client import enrol
from cohortium.client.config import SiteDir
from cohortium.common.cli import main
from cohortium.common.errors import CohortiumError, IdentityError, UnreachableError
from cohortium.common.identity import SigningKey, certificate_fingerprint
from cohortium.common.invitation import Invitation, JoinReply, JoinRequest, new_token
from cohortium.server.enrolment import EnrolmentService
from cohortium.server.superlink import TlsFiles


@dataclass
class Consortium:
    """An enrolment door, and a second one that stands for the fleet port."""

    tls: TlsFiles
    door: str
    fleet: str
    joined: list[JoinRequest] = field(default_factory=list)

    def invitation(self, folder: Path, fleet: str = "") -> Path:
        pem = self.tls.ca.read_text()
        path = folder / "a.invite"
        Invitation(
            coordinator="consortium",
            site="a",
            enrolment_address=self.door,
            fleet_address=fleet or self.fleet,
            ca_certificate=pem,
            ca_fingerprint=certificate_fingerprint(pem.encode()),
            token=new_token(),
            expires=datetime.now(UTC) + timedelta(hours=1),
        ).write(path)
        return path

    def admit(self, request: JoinRequest) -> JoinReply:
        self.joined.append(request)
        key = SigningKey.generate().public.text
        return JoinReply(
            coordinator_name="consortium", fleet_address=self.fleet, coordinator_signing_key=key
        )


@contextmanager
def listening(tls: TlsFiles, answer: Callable[[JoinRequest], JoinReply]) -> Iterator[str]:
    service = EnrolmentService("127.0.0.1", 0, tls, answer)
    service.start()
    try:
        yield f"127.0.0.1:{service.port}"
    finally:
        service.stop()


def nobody(request: JoinRequest) -> JoinReply:
    raise IdentityError("no such door")


@pytest.fixture
def consortium(tmp_path: Path) -> Iterator[Consortium]:
    (tmp_path / "tls").mkdir()
    made = Consortium(make_tls(tmp_path / "tls", days=90), "", "")
    with listening(made.tls, made.admit) as made.door, listening(made.tls, nobody) as made.fleet:
        yield made


def test_all_is_well_and_the_site_joins_without_a_word(
    consortium: Consortium, tmp_path: Path
) -> None:
    said: list[str] = []
    joined = enrol.join(consortium.invitation(tmp_path), tmp_path / "a", said.append)
    assert not joined.already
    assert len(consortium.joined) == 1
    assert said == []
    assert SiteDir(tmp_path / "a").load_config().name == "a"


def test_a_firewall_before_the_fleet_port_stops_it_and_the_invitation_stays_good(
    consortium: Consortium, tmp_path: Path
) -> None:
    closed = f"127.0.0.1:{free_port()}"
    path = consortium.invitation(tmp_path, fleet=closed)
    with pytest.raises(UnreachableError, match=f"TCP: {closed} does not answer.*firewall"):
        enrol.join(path, tmp_path / "a")
    assert consortium.joined == []
    assert list((tmp_path / "a").iterdir()) == []


def test_somebody_else_behind_the_fleet_port_stops_it(
    consortium: Consortium, tmp_path: Path
) -> None:
    (tmp_path / "stranger").mkdir()
    with listening(make_tls(tmp_path / "stranger"), nobody) as impostor:
        path = consortium.invitation(tmp_path, fleet=impostor)
        with pytest.raises(IdentityError, match="TLS: the server's certificate is not from the CA"):
            enrol.join(path, tmp_path / "a")
    assert consortium.joined == []


@pytest.mark.parametrize(("minutes", "joins"), [(0, True), (10, True), (90, False)])
def test_a_clock_that_is_wrong_by_minutes_is_told_and_by_hours_stops_it(
    consortium: Consortium, tmp_path: Path, minutes: int, joins: bool
) -> None:
    said: list[str] = []
    path, late = consortium.invitation(tmp_path), timedelta(minutes=minutes)

    def join() -> None:
        enrol.join(path, tmp_path / "a", said.append, lambda: datetime.now(UTC) - late)

    if not joins:
        with pytest.raises(CohortiumError, match=r"clock: differs .* time server") as caught:
            join()
        assert caught.value.exit_code == 1
    else:
        join()
        assert len([line for line in said if "clock: differs" in line]) == bool(minutes)
    assert len(consortium.joined) == joins


def test_the_command_ends_with_five_where_nobody_answers(
    consortium: Consortium, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = consortium.invitation(tmp_path, fleet=f"127.0.0.1:{free_port()}")
    with pytest.raises(SystemExit, match=r"^5$"):
        main(["site", "join", str(path), "--dir", str(tmp_path / "a")])
    captured = capsys.readouterr()
    assert captured.err.startswith("error: TCP: ")
    assert captured.err.count("\n") == 1
