"""Events of this site that the coordinator has not shown to be in the consortium's log in time.

A cosignature says that the log only grew, not that all of our events are in it: that each site sees
to for itself.
"""

import logging
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta

from cohortium.client.cosigned import Cosigned
from cohortium.client.site import Site
from cohortium.common import timeouts
from cohortium.common.audit.events import timestamp
from cohortium.common.database import Database
from cohortium.common.errors import CohortiumError

LOOK_S = 60.0

logger = logging.getLogger("cohortium.site")


@dataclass(frozen=True)
class Withheld:
    """Events `first` to `last` of the shared log; the first was recorded at `since`."""

    first: int
    last: int
    since: str

    @property
    def words(self) -> str:
        return (
            f"events {self.first} to {self.last} of this site are not shown to be in the "
            f"consortium's log; the first is of {self.since}"
        )


def withheld(database: Database, now: datetime) -> Withheld | None:
    """What has been missing for more than an hour; None where nothing is."""
    due = timestamp(now - timedelta(seconds=timeouts.PROVEN_WITHIN_S))
    (row,) = database.execute(
        "SELECT min(seq) AS first, max(seq) AS last, min(line ->> '$.ts') AS since FROM shared "
        "WHERE seq >= ? AND line ->> '$.ts' <= ?",
        (Cosigned(database).proven(), due),
    )
    return Withheld(**row) if row["first"] is not None else None


def watch(site: Site, stop: threading.Event) -> None:
    """Record it once for each first event that is missing; ends nothing, whatever happens."""
    recorded = -1
    while not stop.wait(LOOK_S):
        try:
            recorded = record(site, recorded)
        except CohortiumError as error:
            logger.error("%s", error)


def record(site: Site, recorded: int) -> int:
    """Write an event where one is missing after `recorded`; the first that is missing, or that."""
    missing = withheld(site.database, site.clock())
    if missing is None or missing.first <= recorded:
        return recorded
    logger.error("%s", missing.words)
    site.log.append(
        "log.behind",
        actor=site.actor,
        outcome="failure",
        reason="witness.withheld: the coordinator has not shown our events to be in its log",
        detail={"first": str(missing.first), "last": str(missing.last)},
    )
    return missing.first
