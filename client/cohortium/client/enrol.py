"""Making a site's directory: keys are born here, and only their public halves ever leave."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cohortium.client.config import CoordinatorPeer, SiteDir, site_toml, write_whole
from cohortium.client.database import open_site_database
from cohortium.client.doctor import examine_before_joining, require_well, system_clock
from cohortium.client.examine_network import examine_path
from cohortium.client.join import enrol
from cohortium.client.site import site_log
from cohortium.client.site import system_clock as now_utc
from cohortium.common import timeouts
from cohortium.common.audit.events import Actor
from cohortium.common.errors import UnreachableError, UsageError
from cohortium.common.identity import SigningKey, make_node_key
from cohortium.common.invitation import Invitation, JoinReply


@dataclass(frozen=True)
class Joined:
    """What join did: `already` when the directory had joined before."""

    site: str
    coordinator: str
    fingerprint: str
    event: str
    already: bool


def join(
    invitation_path: Path,
    root: Path,
    warn: Callable[[str], None] = lambda line: None,
    now: Callable[[], datetime] = system_clock,
) -> Joined:
    """Join the consortium of an invitation; a directory that has joined already stays as it is.

    The machine and the way to the coordinator are examined first: the invitation is not used up
    where the daemon could not work. A refused or failed join leaves the directory as it was.

    Args:
        warn: told what works, but perhaps not as meant.
        now: the site's clock, in UTC.

    Raises:
        UsageError: the directory belongs to another site or holds something else.
        CohortiumError: a check fails.
        IdentityError, UnreachableError: a check fails, or see `client.join.enrol`.
    """
    invitation = Invitation.read(invitation_path)
    directory = SiteDir(root)
    if directory.config.exists():
        return _again(directory, invitation)
    if root.exists() and any(root.iterdir()):
        raise UsageError(f"{root} is not empty: give a new directory with --dir")
    root.mkdir(parents=True, exist_ok=True)
    try:
        examine(invitation, root, warn, now)
        return _join(invitation, directory)
    except BaseException:
        for leftover in root.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        raise


def examine(
    invitation: Invitation,
    root: Path,
    warn: Callable[[str], None],
    now: Callable[[], datetime],
) -> None:
    """The machine and the way to the coordinator, before an invitation is used up."""
    invitation.check(now())
    for finding in examine_before_joining(invitation, root, now, os.environ):
        require_well(finding)
        if finding.verdict == "warning":
            warn(f"warning: {finding.check}: {finding.said}; {finding.advice}")


def peer_of(invitation: Invitation, reply: JoinReply) -> CoordinatorPeer:
    """The coordinator as site.toml has it."""
    return CoordinatorPeer(
        name=reply.coordinator_name,
        fleet_address=reply.fleet_address,
        enrolment_address=invitation.enrolment_address,
        signing_key=reply.coordinator_signing_key,
        ca_fingerprint=invitation.ca_fingerprint,
    )


def site_join() -> Actor:
    return Actor(type="service", id="site join", auth="invitation")


def _join(invitation: Invitation, directory: SiteDir) -> Joined:
    directory.node_key.parent.mkdir(mode=0o700)
    node_key = make_node_key(directory.node_key)
    signing_key = SigningKey.generate()
    signing_key.save(directory.signing_key)
    try:
        reply = enrol(invitation, node_key, signing_key.public, timeouts.JOIN_S)
    except UnreachableError:
        for finding in examine_path(invitation.enrolment_address):
            require_well(finding)  # whether it is the name or the port
        raise
    directory.ca.write_text(invitation.ca_certificate)
    peer = peer_of(invitation, reply)
    with open_site_database(directory.database) as database:
        log = site_log(database, invitation.site, signing_key, now_utc)
        event = log.append(
            "node.enrolled",
            actor=site_join(),
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


def _again(directory: SiteDir, invitation: Invitation) -> Joined:
    config = directory.load_config()
    if config.name != invitation.site:
        raise UsageError(f"{directory.root} is site {config.name}'s, not {invitation.site}'s")
    key = SigningKey.load(directory.signing_key)
    return Joined(config.name, config.coordinator.name, key.public.fingerprint, "", already=True)
