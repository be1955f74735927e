"""A running site: its identity, rules, records and the data it holds in memory."""

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cohortium.client.approvals import Approvals
from cohortium.client.cohort import Cohort, load_table, measure, prepare
from cohortium.client.config import Policy, SiteConfig, SiteDir
from cohortium.client.database import open_site_database
from cohortium.client.studies import Studies
from cohortium.common.audit.events import Actor
from cohortium.common.audit.log import EventLog
from cohortium.common.database import Database
from cohortium.common.errors import CohortiumError
from cohortium.common.identity import SigningKey, VerifyKey
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.study import Study
from cohortium.common.table import Table

if TYPE_CHECKING:
    from cohortium.client.budget import Ledger

logger = logging.getLogger("cohortium.site")

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
    device: str
    clock: Clock
    tables: dict[str, Table] = field(default_factory=dict)
    cohorts: dict[tuple[str, bytes], Cohort] = field(default_factory=dict)

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

    def cohort(self, study: Study, statistics: Statistics | None = None) -> Cohort:
        """The study's cohort, read once and kept until the study is closed."""
        key = (study.digest, b"" if statistics is None else statistics.model_dump_json().encode())
        if key not in self.cohorts:
            self.cohorts[key] = prepare(self._table(study), study, self.name, statistics)
        return self.cohorts[key]

    def measure(self, study: Study) -> Statistics:
        return measure(self._table(study), study, self.name)

    def forget(self, study: str) -> None:
        """Drop a study's patients from memory."""
        self.tables.pop(study, None)
        for key in [key for key in self.cohorts if key[0] == study]:
            del self.cohorts[key]

    def correlate(self, error: Exception) -> str:
        """Write why something failed to the site's own log; returns the id that finds it again.

        An unexpected error is named by its class and place only: its text may hold anything.
        """
        correlation_id = secrets.token_hex(4)
        logger.error("%s: %s", correlation_id, describe(error))
        return correlation_id

    def _table(self, study: Study) -> Table:
        if study.digest not in self.tables:
            dataset = self.directory.load_dataset(study.data.dataset)
            self.tables[study.digest] = load_table(study, dataset)
        return self.tables[study.digest]


def describe(error: Exception) -> str:
    """An error for the site's own log: our one-liners as they are, all else without text."""
    if isinstance(error, CohortiumError):
        return str(error)
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_qualname}:{place.tb_lineno}" if place else "?"
    return f"{type(error).__name__} in {where}"


def open_site(root: Path, device: str = "cpu", clock: Clock = system_clock) -> Site:
    """Open a state directory.

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
        device=device,
        clock=clock,
    )
