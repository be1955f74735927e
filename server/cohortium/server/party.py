"""A coordinator's directory as the audit commands use it."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cohortium.common import daemon
from cohortium.common.audit.events import Actor
from cohortium.common.audit.evidence import Audience, Entry, Evidence
from cohortium.common.audit.log import EventLog
from cohortium.common.audit.notes import Note, read_note
from cohortium.common.audit.quorum import Quorum
from cohortium.common.database import Database
from cohortium.common.errors import UsageError
from cohortium.common.identity import SigningKey, VerifyKey
from cohortium.server.config import Role
from cohortium.server.consortium import Consortium
from cohortium.server.opened import Opened, open_coordinator

if TYPE_CHECKING:
    from cohortium.server.gathering import Gathering

LOOK_S = 0.25  # between looks for cosignatures that the running daemon collects


@dataclass(frozen=True)
class CoordinatorParty:
    """Implements `common.audit.party.Party`."""

    opened: Opened
    role: Literal["coordinator"] = "coordinator"

    @property
    def name(self) -> str:
        return self.opened.config.name

    @property
    def consortium(self) -> str:
        return self.opened.config.name

    @property
    def root(self) -> Path:
        return self.opened.directory.root

    @property
    def database(self) -> Database:
        return self.opened.database

    @property
    def log(self) -> EventLog:
        return self.opened.log

    @property
    def key(self) -> SigningKey:
        return SigningKey.load(self.opened.directory.signing_key)

    def acting(self, *roles: str, person: str = "") -> Actor:
        known: dict[str, Role] = {
            "lead": "lead",
            "operator": "operator",
            "officer": "officer",
            "auditor": "auditor",
        }
        return self.opened.acting(*(known[role] for role in roles if role in known))

    def role_of(self, actor: Actor, person: str) -> str:
        return self.opened.config.people.get(actor.id, "")

    def auditor(self, name: str) -> str | None:
        return self.opened.config.auditors.get(name)

    def policy(self) -> str:
        roster = self.opened.roster
        gone = [one for one in roster.members() if one.state == "revoked"]
        former = [
            (one.name, VerifyKey.from_text(one.signing_key)) for one in (*gone, *roster.former())
        ]
        return self._consortium().policy(self._keys(), former)

    def gather(
        self, audience: Audience, study: str | None, since: str, until: str, officer: str
    ) -> Evidence:
        if audience == "site":
            raise UsageError(
                "--audience site shows a site's own log, which never leaves it: run this in the "
                "site's directory, or take --audience consortium or regulator here"
            )
        return self._gathering().evidence(audience, study, since, until, officer)

    def checkpoint(self, wait_s: float) -> Note:
        """The smallest checkpoint over all that is logged now that a quorum has cosigned in time.

        The running daemon asks the sites, maybe for a later one; without it nobody is waited for.
        """
        consortium, quorum = self._consortium(), Quorum.parse(self.policy())
        with self.database.transaction():
            note = consortium.checkpoint(int(time.time() * 1000))
        least, deadline = note.checkpoint.size, time.monotonic() + wait_s
        while True:
            for size in sorted(size for size in consortium.sizes() if size >= least):
                found = consortium.note(size)
                if found is not None and quorum.met(found):
                    return found
            waiting = time.monotonic() < deadline
            if not waiting or not daemon.is_running(self.opened.directory.lock):
                return consortium.note(least) or note
            time.sleep(LOOK_S)

    def entries(self, evidence: Evidence, size: int) -> tuple[Entry, ...]:
        gathering = self._gathering()
        view = gathering.view(evidence.audience, evidence.study, evidence.since, evidence.until)
        known = evidence.entries[:size]
        return (*known, *gathering.entries(view, size, len(known)))

    def log_files(self, evidence: Evidence, note: Note) -> dict[str, bytes]:
        """What each site signed over its events, with their leaves, as far as `note` reaches."""
        files = dict[str, bytes]()
        for site, head in sorted(self._consortium().site_heads().items()):
            size = read_note(head, f"what {site} signed").checkpoint.size
            rows = self.database.execute(
                "SELECT leaf FROM consortium WHERE node = ? AND node_seq < ? ORDER BY node_seq",
                (site, size),
            )
            if len(rows) == size:
                files[f"log/sites/{site}.checkpoint"] = head.encode()
                files[f"log/sites/{site}.leaves"] = b"".join(row["leaf"] for row in rows)
        return files

    def _consortium(self) -> Consortium:
        return Consortium(self.database, self.key, self.name)

    def _keys(self) -> dict[str, VerifyKey]:
        members = self.opened.roster.enrolled().values()
        return {one.name: VerifyKey.from_text(one.signing_key) for one in members}

    def _gathering(self) -> "Gathering":
        from cohortium.server.gathering import Gathering  # slow to import: torch

        return Gathering(self.opened, self._consortium(), self._keys())


def open_party(directory: Path) -> CoordinatorParty:
    """Open a coordinator's directory."""
    return CoordinatorParty(open_coordinator(directory))
