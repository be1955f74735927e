"""A site's incident: nothing is answered, keys change, and who comes back has its whole past."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.asking import Asker
from tests.client.test_joining import listening, nobody
from tests.federation import COORDINATOR, FULL, approve, make_site, write_study
from tests.transport import make_tls

from cohortium.client import incident
from cohortium.client.budget import Ledger
from cohortium.client.config import CoordinatorPeer, SiteDir, with_peer
from cohortium.client.daemon import run as run_daemon
from cohortium.client.rejoin import rejoin
from cohortium.client.rotation import node_fingerprint, rotate, settle
from cohortium.client.site import Site, open_site
from cohortium.common import daemon
from cohortium.common.audit.events import Actor
from cohortium.common.audit.log import EventLog
from cohortium.common.cli import main
from cohortium.common.errors import DocumentError, IdentityError, UsageError
from cohortium.common.identity import (
    SigningKey,
    VerifyKey,
    certificate_fingerprint,
    load_node_key,
    make_node_key,
    node_public_pem,
)
from cohortium.common.invitation import Invitation, JoinReply, JoinRequest
from cohortium.common.messages import Update
from cohortium.common.study import Study
from cohortium.server.database import open_coordinator_database
from cohortium.server.roster import Roster

WHO = ("--as", "Dr. Weiss", "--reason", "a laptop was stolen")
LEAD = Actor(type="person", id="lead", auth="os-user")
NOW = datetime.now(UTC)


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path, FULL)


@pytest.fixture
def asker(tmp_path: Path, key: SigningKey, study: Study) -> Asker:
    """At a site that has answered a private round."""
    asker = Asker(key, make_site(tmp_path / "a", "a", key.public))
    make_node_key(asker.site.directory.node_key)
    approve(asker.site, study)
    asker.invite(study)
    assert isinstance(asker.train(study, 1).message, Update)
    return asker


def call(capsys: pytest.CaptureFixture[str], code: int, site: Site, *words: str) -> dict[str, Any]:
    with pytest.raises(SystemExit, match=f"^{code}$"):
        main(["site", *words, "--dir", str(site.directory.root), "--json"])
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def events(site: Site, *actions: str) -> list[Any]:
    return [event for event in site.log.events() if event.action in actions]


# ------------------------------------------------------------------ the freeze


def test_one_command_ends_everything_changes_the_keys_and_drafts_the_notification(
    asker: Asker, study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    site = asker.site
    old = site.key.public
    said = call(capsys, 0, site, "incident", *WHO)
    assert (said["studies"], said["in_force"]) == ([study.name], True)
    assert said["seconds"] < 5
    assert asker.train(study, 2).rule == "site.paused"
    assert site.studies.by_digest(study.digest).state == "stopped"
    (declared,) = events(site, "incident.declared")
    assert declared.detail == {"person": "Dr. Weiss", "studies": study.name}
    assert declared.reason == "a laptop was stolen"
    signing, _ = events(site, "key.rotated")
    new = SigningKey.load(site.directory.signing_key).public
    assert signing.detail == {"key_before": old.fingerprint, "key_after": new.fingerprint}
    text = Path(said["draft"]).read_text()
    assert f"| {study.name} | a | model update | 1 |" in text
    assert "| a | ward |" in text
    assert "epsilon " in text
    assert "declared by Dr. Weiss" in text


def test_nobody_resumes_or_starts_before_it_is_lifted_and_joined_again(
    asker: Asker, study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    site = asker.site
    call(capsys, 0, site, "incident", *WHO)
    assert call(capsys, 4, site, "resume", "--as", "x")["error"].startswith("incident.frozen")
    lifted = call(capsys, 0, site, "incident", "--lift", *WHO)
    assert call(capsys, 0, site, "incident", "--lift", *WHO)["event"] is None
    assert not site.directory.paused.exists()
    assert (Path(lifted["folder"]) / "notification-draft.md").exists()
    with pytest.raises(IdentityError, match="its keys were changed; ask the coordinator"):
        run_daemon(site.directory.root, lambda state: None)
    again = open_site(site.directory.root)
    assert again.approvals.of(study, "a", lambda: again.facts(study), again.clock()) == []


def test_given_again_it_changes_no_key_again(
    asker: Asker, capsys: pytest.CaptureFixture[str]
) -> None:
    first = call(capsys, 0, asker.site, "incident", *WHO)
    keys = SigningKey.load(asker.site.directory.signing_key).public
    again = call(capsys, 0, asker.site, "incident", *WHO)
    assert again["events"] == first["events"]
    assert SigningKey.load(asker.site.directory.signing_key).public == keys
    assert len(events(asker.site, "incident.declared", "key.rotated", "run.paused")) == 4


@pytest.mark.parametrize("cut", range(12))
def test_cut_off_anywhere_amid_the_change_of_keys_it_is_finished(
    tmp_path: Path, cut: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site = make_site(tmp_path / "a", "a", SigningKey.generate().public)
    make_node_key(site.directory.node_key)
    old = site.key.public, node_fingerprint(site.directory.node_key)
    steps = iter(range(100))

    def limited(real: Any) -> Any:
        def step(*arguments: Any, **named: Any) -> Any:
            if next(steps) == cut:
                raise KeyboardInterrupt
            return real(*arguments, **named)

        return step

    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", limited(os.replace))
        broken.setattr(Path, "rename", limited(Path.rename))
        broken.setattr(Path, "replace", limited(Path.replace))
        broken.setattr(shutil, "rmtree", limited(shutil.rmtree))
        try:
            incident.declare(site, "Dr. Weiss", "a test", NOW)
        except KeyboardInterrupt:
            pass
    call(capsys, 0, site, "incident", *WHO)
    retired = list((site.directory.root / "keys" / "retired").iterdir())
    assert len(retired) == 1
    sealed = SigningKey.load(retired[0] / "signing.key").public
    assert (sealed, node_fingerprint(retired[0] / "node.key")) == old
    assert (retired[0] / "signing.pub").read_text().strip() == old[0].text
    assert (retired[0] / "signing.key").stat().st_mode & 0o777 == 0o400
    now = SigningKey.load(site.directory.signing_key).public
    assert now != old[0]
    assert not (site.directory.root / "keys" / "next").exists()
    signing, node = events(open_site(site.directory.root), "key.rotated")[-2:]
    assert signing.detail == {"key_before": old[0].fingerprint, "key_after": now.fingerprint}
    assert node.detail["key_before"] == old[1]


# ------------------------------------------------------------------ coming back


@dataclass
class Door:
    """A coordinator's roster behind a real enrolment service; it knows the site already."""

    roster: Roster
    key: SigningKey
    ca: str
    address: str = ""
    fleet: str = ""

    def admit(self, request: JoinRequest) -> JoinReply:
        self.roster.admit(request, datetime.now(UTC), LEAD)
        return JoinReply(
            coordinator_name=COORDINATOR,
            fleet_address=self.fleet,
            coordinator_signing_key=self.key.public.text,
        )

    def invitation(self, folder: Path, site: str = "a", replace: bool = True) -> Path:
        hour = timedelta(hours=1)
        token, _ = self.roster.invite(site, hour, NOW, LEAD, replace=replace)
        path = folder / f"{token[:6]}.invite"
        Invitation(
            coordinator=COORDINATOR,
            site=site,
            enrolment_address=self.address,
            fleet_address=self.fleet,
            ca_certificate=self.ca,
            ca_fingerprint=certificate_fingerprint(self.ca.encode()),
            token=token,
            expires=NOW + hour,
        ).write(path)
        return path


@pytest.fixture
def door(tmp_path: Path, key: SigningKey, asker: Asker) -> Iterator[Door]:
    (tmp_path / "tls").mkdir()
    tls = make_tls(tmp_path / "tls", days=90)
    database = open_coordinator_database(tmp_path / "coordinator.db")
    roster = Roster(database, EventLog(database, COORDINATOR, COORDINATOR, lambda: NOW))
    made = Door(roster, key, tls.ca.read_text())
    token, _ = roster.invite("a", timedelta(hours=1), NOW, LEAD)
    pem = node_public_pem(load_node_key(asker.site.directory.node_key)).decode()
    known = asker.site.key.public.text
    roster.admit(JoinRequest(token=token, site="a", node_key=pem, signing_key=known), NOW, LEAD)
    with (
        database,
        listening(tls, made.admit) as made.address,
        listening(tls, nobody) as made.fleet,
    ):
        yield made


def test_a_site_comes_back_with_new_keys_and_its_budget_its_log_and_its_settings(
    asker: Asker, door: Door, study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site, root = asker.site, asker.site.directory.root
    spent = Ledger(site.database, site.directory.load_dataset("ward")).entries()
    head, config = site.log.head(), site.config
    call(capsys, 0, site, "incident", *WHO)
    call(capsys, 0, site, "incident", "--lift", *WHO)
    path = door.invitation(tmp_path)
    joined = call(capsys, 0, site, "join", str(path), "--rejoin")
    again = open_site(root)
    assert joined["fingerprint"] == again.key.public.fingerprint
    assert VerifyKey.from_text(door.roster.member("a").signing_key) == again.key.public
    assert Ledger(again.database, again.directory.load_dataset("ward")).entries() == spent
    assert again.log.verify().size > head.size
    peer = again.config.coordinator
    assert (peer.fleet_address, peer.enrolment_address) == (door.fleet, door.address)
    assert again.config.model_copy(update={"coordinator": config.coordinator}) == config
    assert not again.directory.unenrolled.exists()
    back = Asker(door.key, again)
    assert back.invite(study).rule == "study.stopped"
    call(capsys, 0, site, "approve", study.name, "--as", "Dr. Weiss")
    assert isinstance(back.train(study, 2).message, Update)
    assert len(Ledger(again.database, again.directory.load_dataset("ward")).entries()) == 2


def test_without_an_incident_keys_are_changed_on_the_way_and_approvals_are_asked_anew(
    asker: Asker, door: Door, study: Study, tmp_path: Path
) -> None:
    old = asker.site.key.public
    joined = rejoin(door.invitation(tmp_path), asker.site.directory.root)
    again = open_site(asker.site.directory.root)
    assert again.key.public.fingerprint == joined.fingerprint != old.fingerprint
    assert [m.signing_key for m in door.roster.former()] == [old.text]
    assert again.studies.by_digest(study.digest).state == "waiting"
    assert Asker(door.key, again).invite(study).message.decision == "waiting"


def test_an_invitation_that_is_refused_leaves_the_new_keys_for_the_next(
    asker: Asker, door: Door, tmp_path: Path
) -> None:
    root = asker.site.directory.root
    used = door.invitation(tmp_path)
    door.invitation(tmp_path)  # takes the place of the first
    with pytest.raises(IdentityError, match="refused a"):
        rejoin(used, root)
    pending = SigningKey.load(SiteDir(root).signing_key).public
    assert rejoin(door.invitation(tmp_path), root).fingerprint == pending.fingerprint
    assert len(list((root / "keys" / "retired").iterdir())) == 1


def test_another_sites_invitation_or_a_running_daemon_changes_nothing(
    asker: Asker, door: Door, tmp_path: Path
) -> None:
    root = asker.site.directory.root
    with pytest.raises(UsageError, match="the invitation is for b of consortium"):
        rejoin(door.invitation(tmp_path, "b", replace=False), root)
    with (
        daemon.only_one(SiteDir(root).lock, "a test"),
        pytest.raises(UsageError, match="the daemon runs with the old keys"),
    ):
        rejoin(door.invitation(tmp_path), root)
    assert SigningKey.load(SiteDir(root).signing_key).public == asker.site.key.public


def test_an_edited_site_toml_keeps_every_other_line() -> None:
    text = (
        '# mine\nname = "a"\n\n[coordinator]\nname = "c"  # ours\nfleet_address = "x:1"\n# kept\n'
    )
    text += 'signing_key = "k"\nca_fingerprint = "f"\n\n[policy]\nhours = "20:00-06:00"  # night\n'
    peer = CoordinatorPeer(name="c", fleet_address="y:2", signing_key="n", ca_fingerprint="g")
    changed = with_peer(text, peer)
    assert '\nfleet_address = "y:2"\n' in changed
    assert "x:1" not in changed
    for line in ("# mine", "# kept", 'hours = "20:00-06:00"  # night'):
        assert line in changed
    with pytest.raises(DocumentError, match="not written as"):
        with_peer(text.replace('name = "c"', 'extra = 1\nname = "c"'), peer)


def test_a_rotation_that_was_settled_is_followed_by_another(tmp_path: Path) -> None:
    site = make_site(tmp_path / "a", "a", SigningKey.generate().public)
    make_node_key(site.directory.node_key)
    first = rotate(site.directory)
    assert rotate(site.directory) == first  # not recorded yet: the same change
    settle(site.directory)
    second = rotate(site.directory)
    assert second.signing[0] == first.signing[1] != second.signing[1]
