"""A running site: its identity, rules, records and the data it holds in memory."""

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cohortium.client.approvals import Approvals
from cohortium.client.config import Policy, SiteConfig, SiteDir
from cohortium.client.database import open_site_database
from cohortium.client.studies import Studies
from cohortium.client.workshop import Inline, Workshop
from cohortium.common.audit.events import Actor
from cohortium.common.audit.log import EventLog
from cohortium.common.database import Database
from cohortium.common.document import one_line
from cohortium.common.errors import CohortiumError
from cohortium.common.identity import SigningKey, VerifyKey
from cohortium.common.study import Study

if TYPE_CHECKING:
    from cohortium.client.budget import Ledger

logger = logging.getLogger("cohortium.site")

LOG_CHARACTERS = 4000  # of one entry; a peer may have had a hand in its text

Clock = Callable[[], datetime]


def system_clock() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Site:
    """Everything that answering a request needs; made by `open_site`."""

    directory: SiteDir
    config: SiteConfig
    key: SigningKey
    coordinator_key: VerifyKey
    database: Database
    log: EventLog
    studies: Studies
    approvals: Approvals
    clock: Clock
    workshop: Workshop

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def policy(self) -> Policy:
        """As site.toml says now: an edit takes effect at the next request."""
        return self.directory.load_config().policy

    @property
    def actor(self) -> Actor:
        """The daemon, as the event log names it."""
        return Actor(type="site", id=self.name, auth=f"signature:{self.key.public.fingerprint}")

    def now_ms(self) -> int:
        return int(self.clock().timestamp() * 1000)

    def ledger(self, study: Study) -> "Ledger":
        from cohortium.client.budget import Ledger  # slow to import: the accountants

        return Ledger(self.database, self.directory.load_dataset(study.data.dataset))

    def correlate(self, error: Exception) -> str:
        """Write why something failed to the site's own log; returns the id that finds it again.

        An unexpected error is named by its class and place only: its text may hold anything.
        """
        correlation_id = secrets.token_hex(4)
        logger.error("%s: %s", correlation_id, describe(error))
        return correlation_id


def describe(error: Exception) -> str:
    """An error for the site's own log: our one-liners as they are, all else without text."""
    if isinstance(error, CohortiumError):
        return one_line(str(error), LOG_CHARACTERS)
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_qualname}:{place.tb_lineno}" if place else "?"
    return f"{type(error).__name__} in {where}"


def open_site(root: Path, clock: Clock = system_clock) -> Site:
    """Open a state directory; its work is done in this process unless `workshop` is replaced.

    Raises:
        CohortiumError: not a site's directory, or one of its files is not what it should be.
    """
    directory = SiteDir(root)
    config = directory.load_config()
    key = SigningKey.load(directory.signing_key)
    database = open_site_database(directory.database)
    return Site(
        directory=directory,
        config=config,
        key=key,
        coordinator_key=VerifyKey.from_text(config.coordinator.signing_key),
        database=database,
        log=EventLog(database, config.name, config.name, clock),
        studies=Studies(database),
        approvals=Approvals(database, key.public),
        clock=clock,
        workshop=Inline(config.name, "cpu", directory.load_dataset),
    )
