"""Who belongs: a token works once, in time, for one site, and a key for one site only."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cohortium.common import identity
from cohortium.common.audit.events import Actor
from cohortium.common.audit.log import EventLog
from cohortium.common.errors import IdentityError, UsageError
from cohortium.common.identity import SigningKey
from cohortium.common.invitation import JoinRequest, new_token
from cohortium.server.database import open_coordinator_database
from cohortium.server.roster import Roster

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOURS = timedelta(hours=72)
LEAD = Actor(type="person", id="lead", auth="os-user")


class Desk:
    """A roster with its log."""

    def __init__(self, root: Path) -> None:
        database = open_coordinator_database(root / "coordinator.db")
        self.root = root
        self.log = EventLog(database, "c", "c", lambda: NOW)
        self.roster = Roster(database, self.log)

    def invite(self, site: str) -> str:
        return self.roster.invite(site, HOURS, NOW, LEAD)[0]

    def admit(self, request: JoinRequest, now: datetime = NOW) -> None:
        self.roster.admit(request, now, LEAD)

    def refused(self, request: JoinRequest, now: datetime = NOW) -> str:
        with pytest.raises(IdentityError) as caught:
            self.admit(request, now)
        *_, event = self.log.events()
        assert (event.action, event.outcome) == ("auth.fail", "denied")
        return str(caught.value)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def request(root: Path, site: str, token: str) -> JoinRequest:
    """A join with fresh keys."""
    node = identity.make_node_key(root / f"{site}-{token[:6]}.key").decode()
    key = SigningKey.generate().public.text
    return JoinRequest(site=site, token=token, node_key=node, signing_key=key)


def test_an_invited_site_joins_once_and_its_token_is_used_up(desk: Desk) -> None:
    token = desk.invite("north")
    assert [(m.name, m.state) for m in desk.roster.members()] == [("north", "invited")]
    first = request(desk.root, "north", token)
    desk.admit(first)
    assert desk.roster.enrolled()["north"].signing_key == first.signing_key
    assert desk.refused(first) == "the invitation was used before"
    other = request(desk.root / "..", "north", token)
    assert desk.refused(other) == "the invitation was used before"
    assert list(desk.roster.enrolled()) == ["north"]


def test_a_wrong_token_tells_nothing_and_uses_nothing_up(desk: Desk) -> None:
    token = desk.invite("north")
    wrong = request(desk.root, "north", new_token())
    uninvited = request(desk.root, "south", new_token())
    assert desk.refused(wrong) == desk.refused(uninvited) == "no invitation with that token"
    desk.admit(request(desk.root, "north", token))


def test_the_token_of_one_site_does_not_enrol_another(desk: Desk) -> None:
    token = desk.invite("north")
    desk.invite("south")
    assert desk.refused(request(desk.root, "south", token)) == "no invitation with that token"


def test_an_invitation_ends_with_its_last_millisecond(desk: Desk) -> None:
    joining = request(desk.root, "north", desk.invite("north"))
    late = NOW + HOURS + timedelta(milliseconds=1)
    assert desk.refused(joining, late) == "the invitation has expired"
    desk.admit(joining, NOW + HOURS)


def test_a_new_invitation_replaces_the_unused_one(desk: Desk) -> None:
    old, new = desk.invite("north"), desk.invite("north")
    assert desk.refused(request(desk.root, "north", old)) == "no invitation with that token"
    desk.admit(request(desk.root, "north", new))


def test_a_name_is_given_once_and_for_all_even_after_revocation(desk: Desk) -> None:
    desk.admit(request(desk.root, "north", desk.invite("north")))
    with pytest.raises(UsageError, match="is or was enrolled"):
        desk.invite("north")
    desk.roster.revoke("north", NOW, LEAD)
    with pytest.raises(UsageError, match="is or was enrolled"):
        desk.invite("north")


@pytest.mark.parametrize("field", ["node_key", "signing_key"])
def test_a_key_cannot_be_enrolled_for_two_sites(desk: Desk, field: str) -> None:
    first = request(desk.root, "north", desk.invite("north"))
    desk.admit(first)
    token = desk.invite("south")
    twin = request(desk.root, "south", token).model_copy(update={field: getattr(first, field)})
    assert desk.refused(twin) == "that key is enrolled for a site already"
    spaced = twin.model_copy(update={"node_key": twin.node_key + "\n"})
    if field == "node_key":
        with pytest.raises(IdentityError, match="not in its one form"):
            desk.admit(spaced)
    assert list(desk.roster.enrolled()) == ["north"]
    desk.admit(request(desk.root / "..", "south", token))  # the token was not used up


def test_a_revoked_site_keeps_its_keys_out_for_good(desk: Desk) -> None:
    first = request(desk.root, "north", desk.invite("north"))
    desk.admit(first)
    desk.roster.revoke("north", NOW, LEAD)
    again = first.model_copy(update={"site": "north2", "token": desk.invite("north2")})
    assert desk.refused(again) == "that key is enrolled for a site already"


def test_revoking_twice_is_revoking_once(desk: Desk) -> None:
    desk.admit(request(desk.root, "north", desk.invite("north")))
    desk.roster.revoke("north", NOW, LEAD)
    desk.roster.revoke("north", NOW + HOURS, LEAD)
    assert desk.roster.member("north").state == "revoked"
    assert desk.roster.enrolled() == {}


def test_revoking_nobody_names_those_who_could_be(desk: Desk) -> None:
    with pytest.raises(UsageError, match='no site "south" is enrolled here; enrolled: none yet'):
        desk.roster.revoke("south", NOW, LEAD)
    desk.admit(request(desk.root, "north", desk.invite("north")))
    with pytest.raises(UsageError, match="enrolled: north"):
        desk.roster.revoke("south", NOW, LEAD)


@pytest.mark.parametrize("field", ["node_key", "signing_key"])
def test_a_key_that_is_none_uses_nothing_up(desk: Desk, field: str) -> None:
    token = desk.invite("north")
    good = request(desk.root, "north", token)
    with pytest.raises(IdentityError):
        desk.admit(good.model_copy(update={field: "nonsense"}))
    desk.admit(good)


def test_everything_that_changed_who_belongs_is_in_the_log_and_no_token_is(desk: Desk) -> None:
    token = desk.invite("north")
    desk.admit(request(desk.root, "north", token))
    desk.roster.revoke("north", NOW, LEAD)
    events = list(desk.log.events())
    assert [e.action for e in events] == ["node.invited", "node.enrolled", "node.revoked"]
    assert all(token not in event.line for event in events)
    file = (desk.root / "coordinator.db").read_bytes()
    assert token.encode() not in file
