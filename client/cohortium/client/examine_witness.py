"""What the doctor says of the consortium's log as this site has seen it."""

from collections.abc import Iterator
from datetime import datetime

from cohortium.client import equivocation
from cohortium.client.config import SiteDir
from cohortium.client.cosigned import Cosigned
from cohortium.client.finding import Finding
from cohortium.client.withheld import withheld
from cohortium.common.database import Database, attach_database
from cohortium.common.errors import CohortiumError

ACCEPT = "put the newer one back, or run `cohortium site accept-loss --as PERSON`"


def examine_witness(directory: SiteDir, now: datetime) -> Iterator[Finding]:
    """One finding: two histories, events that are missing, or that all is well."""
    standing = equivocation.standing(directory)
    if standing is not None:
        yield Finding(
            "log.equivocation",
            "fail",
            f"since {standing.since} two histories of the coordinator's log stand against it: "
            "nothing is trained or evaluated here",
            "see `cohortium site witness`; talk to the other sites before you lift it",
        )
        return
    try:
        with attach_database(directory.database) as database:
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'included'"):
                return  # written by an older version; the next start brings it up to date
            missing, last = withheld(database, now), Cosigned(database).last()
            lost = _lost(database)
    except CohortiumError as error:
        yield Finding("witness", "warning", str(error), "see the other findings")
        return
    if lost:
        said = f"{lost} events that this site had signed are missing: site.db is an old backup"
        yield Finding("witness", "warning", said, ACCEPT)
    elif missing is not None:
        advice = "see that the daemon is online; else ask the coordinator why"
        yield Finding("witness", "warning", missing.words, advice)
    elif last is None:
        yield Finding("witness", "ok", "the consortium's log was not cosigned here yet")
    else:
        size = last.checkpoint.size
        yield Finding("witness", "ok", f"{size} events of the consortium's log are cosigned")


def _lost(database: Database) -> int:
    """How many the consortium has shown us, until they are put back."""
    if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'returned'"):
        return 0
    return int(database.execute("SELECT count(*) FROM returned")[0][0])
