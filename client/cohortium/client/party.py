"""A site's directory as the audit commands use it."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cohortium.client.anchors import covering
from cohortium.client.config import SiteConfig
from cohortium.client.site import Site, open_site
from cohortium.common import daemon
from cohortium.common.audit import names
from cohortium.common.audit.audience import View
from cohortium.common.audit.events import Actor, os_user
from cohortium.common.audit.evidence import Audience, Entry, Evidence
from cohortium.common.audit.log import EventLog
from cohortium.common.audit.notes import (
    Checkpoint,
    Note,
    log_key,
    read_note,
    sign_checkpoint,
    witness_key,
)
from cohortium.common.audit.tree import Tree
from cohortium.common.database import Database
from cohortium.common.errors import RefusedError, UsageError
from cohortium.common.identity import SigningKey

if TYPE_CHECKING:
    from cohortium.client.gathering import Gathering

LOOK_S = 0.25  # between looks for what the running daemon hears from the coordinator


@dataclass(frozen=True)
class SiteParty:
    """Implements `common.audit.party.Party`."""

    site: Site
    role: Literal["site"] = "site"

    @property
    def name(self) -> str:
        return self.site.name

    @property
    def consortium(self) -> str:
        return self._config.coordinator.name

    @property
    def root(self) -> Path:
        return self.site.directory.root

    @property
    def database(self) -> Database:
        return self.site.database

    @property
    def log(self) -> EventLog:
        return self.site.log

    @property
    def key(self) -> SigningKey:
        return self.site.key

    @property
    def _config(self) -> SiteConfig:
        return self.site.config

    @property
    def _origin(self) -> str:
        return names.own_log(self.consortium, self.name)

    def acting(self, *roles: str, person: str = "") -> Actor:
        actor, people = os_user(), self._config.people
        if people and self.role_of(actor, person) not in roles:
            may = ", ".join(name for name, role in people.items() if role in roles)
            raise RefusedError(
                "people.role",
                f'"{person or actor.id}" is not {" or ".join(roles)} in '
                f"{self.site.directory.config} [people]: {may or 'nobody is'}",
            )
        return actor

    def role_of(self, actor: Actor, person: str) -> str:
        people = self._config.people
        return people.get(person) or people.get(actor.id) or ""

    def auditor(self, name: str) -> str | None:
        return self._config.auditors.get(name)

    def policy(self) -> str:
        """This site's logs and the consortium's, with itself as the witness that it knows.

        Whose cosignatures make a quorum, the consortium's own policy says.
        """
        own, peer = self.key.public, self.site.coordinator_key
        witness = witness_key(names.witness(self.consortium, self.name), own)
        lines = [
            f"log {log_key(self._consortium_log(), peer).text}",
            f"witness {self.name} {witness.text}",
            f"group hospitals 1 {self.name}",
            "quorum hospitals",
        ]
        return "\n".join([*lines, ""])

    def gather(
        self, audience: Audience, study: str | None, since: str, until: str, officer: str
    ) -> Evidence:
        if audience != "site":
            raise UsageError(
                f"--audience {audience} shows the consortium's log, which the coordinator has: run "
                "this there, or take --audience site here"
            )
        return self._gathering().evidence(study, since, until, officer)

    def checkpoint(self, wait_s: float) -> Note:
        """Our word over our own log: over as much as the consortium's log names, if that is enough.

        The running daemon hears of it when the log's head has gone through two exchanges with the
        coordinator; without it nothing is waited for.
        """
        tree, deadline = Tree(self.database, "events"), time.monotonic() + wait_s
        least = tree.size()
        while (anchor := covering(self.database, least)) is None:
            waiting = time.monotonic() < deadline
            if not waiting or not daemon.is_running(self.site.directory.lock):
                break
            time.sleep(LOOK_S)
        size = least if anchor is None else anchor.own_size
        return sign_checkpoint(Checkpoint(self._origin, size, tree.root(size)), self.key)

    def entries(self, evidence: Evidence, size: int) -> tuple[Entry, ...]:
        view = View("site", evidence.study, evidence.since, evidence.until)
        known = evidence.entries[:size]
        return (*known, *self._gathering().entries(view, size, len(known)))

    def log_files(self, evidence: Evidence, note: Note) -> dict[str, bytes]:
        """Where the consortium's log names our log's head; nothing while it does not."""
        size = note.checkpoint.size
        anchor = covering(self.database, size)
        if anchor is None or anchor.own_size != size:
            return {}
        return {
            "log/anchor.json": anchor.json,
            "log/consortium.checkpoint": anchor.note.encode(),
        }

    def _consortium_log(self) -> str:
        """The origin of the log that this site cosigned last: it may have been begun anew."""
        rows = self.database.execute("SELECT note FROM cosigned ORDER BY size DESC LIMIT 1")
        if not rows:
            return names.consortium_log(self.consortium)
        return read_note(rows[0]["note"], "a cosigned checkpoint").checkpoint.origin

    def _gathering(self) -> "Gathering":
        from cohortium.client.gathering import Gathering  # slow to import: the measures

        return Gathering(self._config, self.database, self.key.public)


def open_party(directory: Path) -> SiteParty:
    """Open a site's directory."""
    return SiteParty(open_site(directory))
