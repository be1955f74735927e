"""A running site: its identity, rules, records and the data it holds in memory."""

import logging
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cohortium.client.approvals import Approval, Approvals, Facts, approval_of
from cohortium.client.config import Policy, SiteConfig, SiteDir
from cohortium.client.database import open_site_database
from cohortium.client.egress import Gate
from cohortium.client.fingerprint import Fingerprints
from cohortium.client.latest import Latest
from cohortium.client.studies import Studies
from cohortium.client.turns import Turns
from cohortium.client.watermark import Watermark
from cohortium.client.workshop import Inline, Workshop
from cohortium.common.audit.documents import Documents
from cohortium.common.audit.events import Actor, timestamp
from cohortium.common.audit.log import EventLog
from cohortium.common.audit.noticing import Noticing
from cohortium.common.code import code_digest
from cohortium.common.database import Database
from cohortium.common.document import one_line
from cohortium.common.errors import CohortiumError, RefusedError
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
    watermark: Watermark
    latest: Latest
    turns: Turns = field(default_factory=lambda: Turns(1))  # one request of a study at a time
    till: threading.Lock = field(default_factory=threading.Lock)  # one answer is paid at a time
    fingerprints: Fingerprints = field(default_factory=Fingerprints)
    gate: Gate = field(default_factory=Gate)

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def policy(self) -> Policy:
        """As site.toml says now: an edit takes effect at the next request."""
        return self.directory.load_config().policy

    def facts(self, study: Study) -> Facts:
        """What an approval of a study relies on here, at this moment."""
        dataset = self.directory.load_dataset(study.data.dataset)
        return Facts(code=code_digest(), data=self.fingerprints.of_dataset(dataset))

    def approved(self, study: Study) -> list[Approval]:
        """The approvals that let a study run; RefusedError where there are too few."""
        needed = self.policy.approvals_needed
        return self.approvals.require(
            study, self.name, lambda: self.facts(study), self.clock(), needed
        )

    def check_approver(self, person: str) -> None:
        """Raise RefusedError where `[people]` gives a person another role, or none."""
        people = self.directory.load_config().people
        if people and people.get(person) != "approver":
            approvers = ", ".join(name for name, role in people.items() if role == "approver")
            raise RefusedError(
                "people.approver",
                f'"{person}" is no approver of this site (site.toml [people]); '
                f"approvers: {approvers or 'none'}",
            )

    def approve(self, study: Study, person: str) -> int:
        """Sign that a person approves a study on today's data and code, by the right time.

        Returns:
            How many persons' approvals hold now.

        Raises:
            RefusedError: the person may not approve.
        """
        self.check_approver(person)
        self.latest.vouch(self.now_ms())
        self.sign(study, person)
        facts = self.facts(study)
        return len(self.approvals.of(study, self.name, lambda: facts, self.clock()))

    def withdraw_approvals(self, study: str, actor: Actor) -> None:
        """Let no approval of a study hold any more, inside the caller's transaction."""
        for person in self.approvals.withdraw(study):
            detail = {"person": person}
            self.log.append("approval.withdrawn", actor=actor, study=study, detail=detail)

    def notice(self, *, starting: bool = False) -> None:
        """Record that somebody edited site.toml since it was last looked at, if so."""
        config, name = self.directory.load_config(), self.directory.config.name
        noticing = Noticing(self.database, self.log)
        noticing.settings(name, config, self.actor, starting=starting)

    def sign(self, study: Study, person: str) -> Approval:
        """Sign an approval in the name of a person, or of a rule that the operator wrote."""
        now = self.clock()
        expires = now + timedelta(days=self.policy.approval_days)
        approval = approval_of(
            study, self.name, person, timestamp(now), timestamp(expires), self.facts(study)
        )
        self.approvals.add(approval, self.key)
        return approval

    @property
    def actor(self) -> Actor:
        """The daemon, as the event log names it."""
        return site_actor(self.name, self.key)

    @property
    def documents(self) -> Documents:
        """What events point to by hash."""
        return Documents(self.database)

    def now_ms(self) -> int:
        return int(self.clock().timestamp() * 1000)

    def ledger(self, study: Study) -> "Ledger":
        from cohortium.client.budget import Ledger  # slow to import: the accountants

        return Ledger(self.database, self.directory.load_dataset(study.data.dataset))

    def release(self, study: str) -> None:
        """Give back the privacy that a study set aside and did not spend, and record the steps.

        Needs nothing but the database: the kill switch must work on a broken site too.
        """
        with self.database.transaction():
            rows = self.database.execute(
                "UPDATE reservations SET released_ms = ? WHERE study = ? AND released_ms IS NULL "
                "RETURNING dataset, purpose, mechanism ->> '$.sampler' AS sampler, "
                "mechanism ->> '$.steps' - (SELECT coalesce(sum(ledger.mechanism ->> '$.steps'), 0)"
                " FROM ledger WHERE ledger.study = reservations.study "
                "AND ledger.purpose = reservations.purpose) AS steps",
                (self.now_ms(), study),
            )
            for row in sorted(rows, key=lambda row: str(row["purpose"]), reverse=True):
                detail = {
                    "dataset": row["dataset"],
                    "kind": row["purpose"],
                    "sampler": row["sampler"],
                    "steps": str(max(row["steps"], 0)),
                }
                self.log.append("privacy.released", actor=self.actor, study=study, detail=detail)

    def correlate(self, error: Exception, study: str = "") -> str:
        """Write why something failed to the site's own log; returns the id that finds it again.

        With a study's digest the line has its first digits, as the coordinator's lines have.

        An unexpected error is named by its class and place only: its text may hold anything.
        """
        correlation_id = secrets.token_hex(4)
        about = f"study {study[:8]} " if study else ""
        logger.error("%s%s: %s", about, correlation_id, describe(error))
        return correlation_id


def site_actor(name: str, key: SigningKey) -> Actor:
    """A site as event logs name it."""
    return Actor(type="site", id=name, auth=f"signature:{key.public.fingerprint}")


def site_log(database: Database, name: str, key: SigningKey, clock: Clock) -> EventLog:
    """A site's own log; what the consortium may know of an event is put beside it."""
    return EventLog(database, name, name, clock, shares_as=site_actor(name, key))


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
        log=site_log(database, config.name, key, clock),
        studies=Studies(database),
        approvals=Approvals(database, key.public),
        clock=clock,
        workshop=Inline(config.name, "cpu", directory.load_dataset),
        watermark=Watermark(directory.mark, database),
        latest=Latest(database),
    )
