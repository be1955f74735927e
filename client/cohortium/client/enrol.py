"""Making a site's directory: keys are born here, and only their public halves ever leave."""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cohortium.client.config import CoordinatorPeer, SiteDir, site_toml, write_whole
from cohortium.client.database import open_site_database
from cohortium.client.examine_network import examine_path
from cohortium.client.join import enrol
from cohortium.common.audit.events import Actor
from cohortium.common.audit.log import EventLog
from cohortium.common.errors import UnreachableError, UsageError
from cohortium.common.identity import SigningKey, make_node_key
from cohortium.common.invitation import Invitation

JOIN_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Joined:
    """What join did: `already` when the directory had joined before."""

    site: str
    coordinator: str
    fingerprint: str
    event: str
    already: bool


def join(invitation_path: Path, root: Path) -> Joined:
    """Join the consortium of an invitation; a directory that has joined already stays as it is.

    A refused or failed join leaves the directory as it was.

    Raises:
        UsageError: the directory belongs to another site or holds something else.
        IdentityError, UnreachableError: see `client.join.enrol`.
    """
    invitation = Invitation.read(invitation_path)
    directory = SiteDir(root)
    if directory.config.exists():
        return _again(directory, invitation)
    if root.exists() and any(root.iterdir()):
        raise UsageError(f"{root} is not empty: give a new directory with --dir")
    root.mkdir(parents=True, exist_ok=True)
    try:
        return _join(invitation, directory)
    except BaseException:
        for leftover in root.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        raise


def _join(invitation: Invitation, directory: SiteDir) -> Joined:
    directory.node_key.parent.mkdir(mode=0o700)
    node_key = make_node_key(directory.node_key)
    signing_key = SigningKey.generate()
    signing_key.save(directory.signing_key)
    try:
        reply = enrol(invitation, node_key, signing_key.public, JOIN_TIMEOUT_S)
    except UnreachableError as error:
        raise _where_it_ends(invitation.enrolment_address) or error from None
    directory.ca.write_text(invitation.ca_certificate)
    peer = CoordinatorPeer(
        name=reply.coordinator_name,
        fleet_address=reply.fleet_address,
        enrolment_address=invitation.enrolment_address,
        signing_key=reply.coordinator_signing_key,
        ca_fingerprint=invitation.ca_fingerprint,
    )
    with open_site_database(directory.database) as database:
        log = EventLog(database, invitation.site, invitation.site, lambda: datetime.now(UTC))
        event = log.append(
            "node.enrolled",
            actor=Actor(type="service", id="site join", auth="invitation"),
            detail={
                "site": invitation.site,
                "address": reply.fleet_address,
                "fingerprint": signing_key.public.fingerprint,
            },
        )
    write_whole(directory.config, site_toml(invitation.site, peer))
    return Joined(
        invitation.site, peer.name, signing_key.public.fingerprint, event.id, already=False
    )


def _where_it_ends(address: str) -> UnreachableError | None:
    """Whether it is the name or the port that cannot be reached; None where both can."""
    for finding in examine_path(address):
        if finding.verdict == "fail":
            return UnreachableError(f"{finding.check}: {finding.said}; {finding.advice}")
    return None


def _again(directory: SiteDir, invitation: Invitation) -> Joined:
    config = directory.load_config()
    if config.name != invitation.site:
        raise UsageError(f"{directory.root} is site {config.name}'s, not {invitation.site}'s")
    key = SigningKey.load(directory.signing_key)
    return Joined(config.name, config.coordinator.name, key.public.fingerprint, "", already=True)
