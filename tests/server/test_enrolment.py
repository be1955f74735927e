"""The door for strangers, over real TLS: who gets in, who does not, and what they are told."""

import base64
import hmac
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from tests.transport import make_tls

from cohortium.client import join
from cohortium.client.channel import open_channel
from cohortium.common import identity, invitation
from cohortium.common.errors import DocumentError, IdentityError, UnreachableError
from cohortium.common.identity import SigningKey, certificate_fingerprint
from cohortium.common.invitation import Invitation, JoinReply, JoinRequest
from cohortium.server.enrolment import FAILURES_ALLOWED, REFUSED, EnrolmentService, FailureLimit
from cohortium.server.superlink import TlsFiles

SIGNING = SigningKey.generate()


class Desk:
    """A coordinator that admits whoever has the one token, once."""

    def __init__(self, token: str) -> None:
        self.expected = invitation.token_hash(token)
        self.admitted: list[JoinRequest] = []

    def admit(self, request: JoinRequest) -> JoinReply:
        if self.admitted:
            raise IdentityError(f"the invitation of {request.site} was used")
        if not invitation.is_token(request.token, self.expected):
            raise IdentityError("no such token")
        self.admitted.append(request)
        return JoinReply(
            coordinator_name="North Consortium",
            fleet_address="127.0.0.1:9092",
            coordinator_signing_key=SIGNING.public.text,
        )


@pytest.fixture
def invited(tmp_path: Path) -> Invitation:
    tls = make_tls(tmp_path)
    pem = tls.ca.read_bytes()
    return Invitation(
        coordinator="North Consortium",
        site="st-mary",
        enrolment_address="127.0.0.1:1",
        fleet_address="127.0.0.1:9092",
        ca_certificate=pem.decode(),
        ca_fingerprint=certificate_fingerprint(pem),
        token=invitation.new_token(),
        expires=datetime.now(UTC) + timedelta(hours=1),
    )


@pytest.fixture
def desk(invited: Invitation) -> Desk:
    return Desk(invited.token)


@pytest.fixture
def service(tmp_path: Path, desk: Desk, invited: Invitation) -> Iterator[EnrolmentService]:
    made = EnrolmentService("127.0.0.1", 0, _tls(tmp_path), desk.admit)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def knock(service: EnrolmentService, tmp_path: Path) -> Callable[[Invitation], JoinReply]:
    """Join with fresh keys, at the service's own port."""
    node_key = identity.make_node_key(tmp_path / "node.key")

    def enrol(invited: Invitation) -> JoinReply:
        here = invited.model_copy(update={"enrolment_address": f"127.0.0.1:{service.port}"})
        return join.enrol(here, node_key, SIGNING.public, timeout_s=5)

    return enrol


Knock = Callable[[Invitation], JoinReply]


def test_a_valid_invitation_lets_the_site_in(knock: Knock, invited: Invitation, desk: Desk) -> None:
    reply = knock(invited)
    assert reply.coordinator_signing_key == SIGNING.public.text
    (request,) = desk.admitted
    assert (request.site, request.token) == ("st-mary", invited.token)
    identity.check_node_public_key(request.node_key.encode())


def test_an_invitation_is_used_once(knock: Knock, invited: Invitation, desk: Desk) -> None:
    knock(invited)
    with pytest.raises(IdentityError, match="was used or has expired; ask the coordinator"):
        knock(invited)
    assert len(desk.admitted) == 1


def test_a_guessed_token_learns_nothing(knock: Knock, invited: Invitation, desk: Desk) -> None:
    guess = invited.model_copy(update={"token": invitation.new_token()})
    with pytest.raises(IdentityError) as caught:
        knock(guess)
    assert "no such token" not in str(caught.value)
    assert desk.admitted == []


def test_tokens_cannot_be_tried_at_leisure(knock: Knock, invited: Invitation, desk: Desk) -> None:
    guess = invited.model_copy(update={"token": invitation.new_token()})
    for _ in range(FAILURES_ALLOWED):
        with pytest.raises(IdentityError):
            knock(guess)
    with pytest.raises(UnreachableError, match="wait a minute"):
        knock(invited)
    assert desk.admitted == []


def test_old_failures_are_forgiven_and_others_are_not_punished() -> None:
    now = [0.0]
    limit = FailureLimit(clock=lambda: now[0])
    for _ in range(FAILURES_ALLOWED):
        assert not limit.too_many("a")
        limit.add("a")
    assert limit.too_many("a")
    assert not limit.too_many("b")
    now[0] = 59.0
    assert limit.too_many("a")
    now[0] = 60.0
    assert not limit.too_many("a")


def test_an_expired_invitation_is_not_even_sent(
    knock: Knock, invited: Invitation, desk: Desk
) -> None:
    old = invited.model_copy(update={"expires": datetime(2026, 1, 31, tzinfo=UTC)})
    with pytest.raises(IdentityError, match="valid until 2026-01-31 00:00 UTC"):
        knock(old)
    assert desk.admitted == []


def test_an_invitation_with_a_swapped_ca_is_not_used(
    knock: Knock, invited: Invitation, tmp_path: Path, desk: Desk
) -> None:
    (tmp_path / "other").mkdir()
    other = make_tls(tmp_path / "other").ca.read_text()
    with pytest.raises(IdentityError, match="another CA certificate than it says"):
        knock(invited.model_copy(update={"ca_certificate": other}))
    assert desk.admitted == []


def test_a_server_with_another_ca_never_sees_the_token(
    knock: Knock, invited: Invitation, tmp_path: Path, desk: Desk
) -> None:
    (tmp_path / "other").mkdir()
    pem = make_tls(tmp_path / "other").ca.read_bytes()
    foreign = {"ca_certificate": pem.decode(), "ca_fingerprint": certificate_fingerprint(pem)}
    with pytest.raises(IdentityError, match="not from the coordinator's CA"):
        knock(invited.model_copy(update=foreign))
    assert desk.admitted == []


def test_an_absent_coordinator_is_named_by_its_address(invited: Invitation, tmp_path: Path) -> None:
    node_key = identity.make_node_key(tmp_path / "node.key")
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1: no answer"):
        join.enrol(invited, node_key, SIGNING.public, timeout_s=5)


@pytest.mark.parametrize("body", [b"", b"{}", b"[" * 9000, b'{"token": 1}', b"\xff", b"[1]"])
def test_nonsense_is_refused_like_a_wrong_token(
    service: EnrolmentService, tmp_path: Path, body: bytes
) -> None:
    code, details = _raw(service, tmp_path, body)
    assert (code, details) == (grpc.StatusCode.PERMISSION_DENIED, REFUSED)


def test_an_oversized_body_is_not_read(
    service: EnrolmentService, tmp_path: Path, desk: Desk
) -> None:
    code, _ = _raw(service, tmp_path, b"x" * (invitation.MAX_MESSAGE_BYTES + 1))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert desk.admitted == []


def test_an_error_of_our_own_shows_no_text_to_a_stranger(tmp_path: Path) -> None:
    def broken(request: JoinRequest) -> JoinReply:
        raise ValueError(f"secret {request.token}")

    request = JoinRequest(
        token=invitation.new_token(), site="st-mary", node_key="x", signing_key="x"
    )
    service = EnrolmentService("127.0.0.1", 0, make_tls(tmp_path), broken)
    service.start()
    code, details = _raw(service, tmp_path, invitation.encode(request))
    service.stop()
    assert (code, details) == (grpc.StatusCode.PERMISSION_DENIED, REFUSED)


def test_a_port_in_use_is_named(service: EnrolmentService, tmp_path: Path, desk: Desk) -> None:
    second = EnrolmentService("127.0.0.1", service.port, _tls(tmp_path), desk.admit)
    with pytest.raises(UnreachableError, match=rf"127\.0\.0\.1:{service.port} cannot be opened"):
        second.start()


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    token = invitation.new_token()
    digest = invitation.token_hash(token)
    monkeypatch.setattr("cohortium.common.invitation.hmac.compare_digest", _watch(compared))
    assert invitation.is_token(token, digest)
    assert not invitation.is_token(invitation.new_token(), digest)
    assert len(compared) == 2
    assert {len(side) for pair in compared for side in pair} == {64}


def test_a_token_has_256_random_bits() -> None:
    tokens = {invitation.new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert {len(base64.urlsafe_b64decode(token + "=")) for token in tokens} == {32}


def test_an_invitation_is_the_same_after_a_file(invited: Invitation, tmp_path: Path) -> None:
    path = tmp_path / "st-mary.toml"
    invited.write(path)
    assert Invitation.read(path) == invited
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(IdentityError, match="exists already"):
        invited.write(path)


def test_a_misspelt_key_in_an_invitation_is_named(invited: Invitation, tmp_path: Path) -> None:
    path = tmp_path / "st-mary.toml"
    invited.write(path)
    path.write_text(path.read_text() + 'tokken = "x"\n')
    with pytest.raises(DocumentError, match="tokken"):
        Invitation.read(path)


def _watch(seen: list[tuple[bytes, bytes]]) -> Callable[[bytes, bytes], bool]:
    real = hmac.compare_digest

    def compare(a: bytes, b: bytes) -> bool:
        seen.append((a, b))
        return real(a, b)

    return compare


def _tls(folder: Path) -> TlsFiles:
    """Of the certificates that the `invited` fixture made."""
    return TlsFiles(folder / "ca.pem", folder / "server.pem", folder / "server.key")


def _raw(service: EnrolmentService, folder: Path, body: bytes) -> tuple[grpc.StatusCode, str]:
    address = f"127.0.0.1:{service.port}"
    channel = open_channel(address, (folder / "ca.pem").read_bytes())
    with channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(join.METHOD)(body, timeout=5)
    return caught.value.code(), caught.value.details()
