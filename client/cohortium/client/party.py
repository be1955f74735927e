"""A site's directory as the audit commands use it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cohortium.client.site import Site, open_site
from cohortium.common.audit.events import Actor, os_user
from cohortium.common.audit.log import EventLog
from cohortium.common.database import Database
from cohortium.common.errors import RefusedError
from cohortium.common.identity import SigningKey


@dataclass(frozen=True)
class SiteParty:
    """The part of `common.audit.party.Party` that keeping the record needs."""

    site: Site

    role: Literal["site"] = "site"

    @property
    def name(self) -> str:
        return self.site.name

    @property
    def consortium(self) -> str:
        return self.site.config.coordinator.name

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

    def acting(self, *roles: str) -> Actor:
        """At a site persons are named with `--as`: here only the user's own role can forbid it."""
        actor = os_user()
        role = self.site.config.people.get(actor.id)
        if role is not None and role not in roles:
            raise RefusedError(
                "people.role",
                f'"{actor.id}" is {role} in {self.site.directory.config} [people], not '
                f"{' or '.join(roles)}",
            )
        return actor

    def auditor(self, name: str) -> str | None:
        return self.site.config.auditors.get(name)


def open_party(directory: Path) -> SiteParty:
    """Open what `site join` made."""
    return SiteParty(open_site(directory))
