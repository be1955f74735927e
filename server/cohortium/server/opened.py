"""A coordinator's directory as the short commands use it, beside the running daemon."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cohortium.common.audit.events import Actor, os_user
from cohortium.common.audit.log import EventLog
from cohortium.common.database import Database
from cohortium.common.errors import RefusedError
from cohortium.common.identity import SigningKey
from cohortium.common.incident import Incident
from cohortium.server.config import CoordinatorConfig, CoordinatorDir, Role
from cohortium.server.database import open_coordinator_database
from cohortium.server.recovery import check_whole
from cohortium.server.roster import Roster
from cohortium.server.signed import Signatures
from cohortium.server.store import Store


@dataclass(frozen=True)
class Opened:
    """The directory's files, its database, and who is asking."""

    directory: CoordinatorDir
    config: CoordinatorConfig
    database: Database
    log: EventLog
    roster: Roster
    store: Store

    @property
    def signatures(self) -> Signatures:
        """What persons signed here; the key is read only where that is needed."""
        return Signatures(self.database, lambda: SigningKey.load(self.directory.signing_key))

    @property
    def itself(self) -> Actor:
        """The coordinator, for what a command finds rather than decides."""
        return Actor(type="coordinator", id=self.config.name, auth="local")

    @property
    def incident(self) -> Incident:
        """Whether one is in force, and what was done about it."""
        return Incident(self.directory.root)

    def acting(self, *roles: Role) -> Actor:
        """Who is asking, as the operating system knows them, if they may.

        Raises:
            RefusedError: coordinator.toml gives them none of these roles.
        """
        actor, people = os_user(), self.config.people
        if people and people.get(actor.id) not in roles:
            raise RefusedError(
                "people.role",
                f'"{actor.id}" is not {" or ".join(roles)} in {self.directory.config} [people]: '
                + (
                    ", ".join(name for name, role in people.items() if role in roles) or "nobody is"
                ),
            )
        return actor


def event_log(database: Database, name: str) -> EventLog:
    """A coordinator's own log; nothing is appended while its witnesses know more of it."""
    return EventLog(
        database,
        name,
        name,
        lambda: datetime.now(UTC),
        whole=lambda: check_whole(database),
    )


def open_coordinator(root: Path) -> Opened:
    """Open a directory that `coordinator init` made; UsageError where there is none."""
    directory = CoordinatorDir(root)
    config = directory.load_config()
    database = open_coordinator_database(directory.database)
    log = event_log(database, config.name)
    return Opened(directory, config, database, log, Roster(database, log), Store(database))
