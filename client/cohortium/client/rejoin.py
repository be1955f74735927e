"""Coming back under the same name with new keys: database, ledger and log go on.

Approvals do not: the old key signed them. What a dataset has spent stays spent.
"""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cohortium.client import rotation
from cohortium.client.config import SiteDir, with_peer, write_whole
from cohortium.client.doctor import system_clock
from cohortium.client.enrol import Joined, examine, peer_of, site_join
from cohortium.client.join import enrol
from cohortium.client.site import Site, open_site
from cohortium.common import daemon, timeouts
from cohortium.common.audit.events import Actor
from cohortium.common.errors import UsageError
from cohortium.common.identity import load_node_key, node_public_pem
from cohortium.common.invitation import Invitation


def rejoin(
    invitation_path: Path,
    root: Path,
    warn: Callable[[str], None] = lambda line: None,
    now: Callable[[], datetime] = system_clock,
) -> Joined:
    """Join again with an invitation that replaces this site's keys.

    Keys that were not changed yet are changed first. An invitation that is refused leaves the new
    ones here, for the next.

    Raises:
        UsageError: another site's or coordinator's invitation, or the daemon runs.
        CohortiumError, IdentityError, UnreachableError: as `enrol.join`.
    """
    invitation, directory = Invitation.read(invitation_path), SiteDir(root)
    config = directory.load_config()
    if (config.name, config.coordinator.name) != (invitation.site, invitation.coordinator):
        raise UsageError(
            f"{root} is site {config.name} of {config.coordinator.name}; the invitation is for "
            f"{invitation.site} of {invitation.coordinator}"
        )
    if daemon.is_running(directory.lock):
        raise UsageError(f"{root}: the daemon runs with the old keys; end `cohortium site up`")
    examine(invitation, root, warn, now)
    if rotation.finish(directory) or not directory.unenrolled.exists():
        with (before := open_site(root)).database:
            change_keys(before, site_join())
    with (site := open_site(root)).database:
        return _join(invitation, site)


def change_keys(site: Site, actor: Actor) -> list[str]:
    """New keys, recorded; studies that were approved wait for persons to approve them again."""
    rotated = rotation.rotate(site.directory)
    with site.database.transaction():
        events = rotation.record(rotated, site.log, actor)
        for known in site.studies.all():
            site.withdraw_approvals(known.digest, actor)
            if known.state == "approved":
                note = "the site's keys were changed; it needs a new approval"
                site.studies.mark(known.digest, "waiting", note)
    rotation.settle(site.directory)
    return events


def _join(invitation: Invitation, site: Site) -> Joined:
    directory = site.directory
    node_key = node_public_pem(load_node_key(directory.node_key))
    reply = enrol(invitation, node_key, site.key.public, timeouts.JOIN_S)
    peer = peer_of(invitation, reply)
    write_whole(directory.ca, invitation.ca_certificate)
    if peer != site.config.coordinator:
        write_whole(directory.config, with_peer(directory.config.read_text(), peer))
    fingerprint = site.key.public.fingerprint
    event = site.log.append(
        "node.enrolled",
        actor=site_join(),
        detail={"site": site.name, "address": reply.fleet_address, "fingerprint": fingerprint},
    )
    directory.unenrolled.unlink()
    return Joined(site.name, peer.name, fingerprint, event.id, already=False)
