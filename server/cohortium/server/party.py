"""A coordinator's directory as the audit commands use it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

from cohortium.common.audit.events import Actor
from cohortium.common.audit.log import EventLog
from cohortium.common.database import Database
from cohortium.common.identity import SigningKey
from cohortium.server.config import Role
from cohortium.server.opened import Opened, open_coordinator


@dataclass(frozen=True)
class CoordinatorParty:
    """The part of `common.audit.party.Party` that keeping the record needs."""

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

    @cached_property
    def key(self) -> SigningKey:
        return SigningKey.load(self.opened.directory.signing_key)

    def acting(self, *roles: str) -> Actor:
        return self.opened.acting(*cast(tuple[Role, ...], roles))

    def auditor(self, name: str) -> str | None:
        return self.opened.config.auditors.get(name)


def open_party(directory: Path) -> CoordinatorParty:
    """Open what `coordinator init` made."""
    return CoordinatorParty(open_coordinator(directory))
