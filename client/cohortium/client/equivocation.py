"""Two histories of one log, each signed by the coordinator: this site trains no more.

Both notes are proof that anybody can check with the coordinator's public key. They are kept in
site.db, and in a file that says no to every request until a person at the site has lifted it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from cohortium.client.config import SiteDir, write_whole
from cohortium.client.site import Site
from cohortium.common.audit.events import os_user, timestamp
from cohortium.common.audit.notes import Note
from cohortium.common.errors import CohortiumError, RefusedError, UsageError

RULE = "log.equivocation"


@dataclass(frozen=True)
class Standing:
    """An equivocation that nobody has lifted; `ours` and `theirs` are the notes' texts."""

    since: str
    ours: str
    theirs: str


class TwoHistories(CohortiumError):
    """`ours` and `theirs` cannot both be true of one log that only grows."""

    def __init__(self, ours: Note, theirs: Note) -> None:
        super().__init__("the coordinator signed two histories of one log")
        self.ours = ours
        self.theirs = theirs


def standing(directory: SiteDir) -> Standing | None:
    """What stands against the coordinator, if anything."""
    try:
        return Standing(**json.loads(directory.equivocation.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        return Standing("an unknown time", "", "")  # a file that cannot be read says no, too


def refusal(directory: SiteDir) -> RefusedError | None:
    """Why nothing may be trained or evaluated here, if so; one look at the file system."""
    if not directory.equivocation.exists():
        return None
    return RefusedError(
        RULE,
        "the coordinator showed this site two histories of its log; a person at the site decides "
        "how to go on",
    )


def keep(site: Site, found: TwoHistories) -> None:
    """Keep both notes, record it, and refuse from now on; durable when it returns."""
    now = timestamp(site.clock())
    facts = {"since": now, "ours": found.ours.text, "theirs": found.theirs.text}
    with site.database.transaction():
        set_aside(site, found.ours, found.theirs)
        site.log.append(
            "log.equivocation",
            actor=site.actor,
            outcome="failure",
            reason=RULE,
            detail={"size": str(found.theirs.checkpoint.size)},
        )
        write_whole(site.directory.equivocation, json.dumps(facts))


def set_aside(site: Site, ours: Note, theirs: Note) -> None:
    """Keep two notes for good (inside the caller's transaction)."""
    site.database.execute(
        "INSERT INTO equivocations (ours, theirs, found_ms) VALUES (?, ?, ?)",
        (ours.text, theirs.text, site.now_ms()),
    )


def lift(site: Site, person: str, reason: str) -> str:
    """A person has found out why and lets the site go on; returns the event's id.

    Both notes stay in site.db; the same two histories shown again stop the site again.

    Raises:
        UsageError: nothing stands against the coordinator.
    """
    if standing(site.directory) is None:
        raise UsageError("no equivocation stands: there is nothing to lift")
    event = site.log.append(
        "log.review",
        actor=os_user(),
        reason=f"equivocation lifted: {reason}"[:200],
        detail={"person": person, "findings": RULE},
    )
    path: Path = site.directory.equivocation
    path.unlink(missing_ok=True)
    return event.id
