"""`cohortium site witness`: what this site has cosigned, and what stands against the log."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from cohortium.client.config import SiteDir
from cohortium.common.audit.events import timestamp
from cohortium.common.console import JsonFlag, StateDir, emit
from cohortium.common.errors import UsageError


def alarms(directory: SiteDir) -> list[str]:
    """What nobody may overlook, for `site status`; reads two files at most."""
    from cohortium.client.examine_witness import examine_witness

    found = examine_witness(directory, datetime.now(UTC))
    return [finding.said for finding in found if finding.verdict != "ok"]


def witness(
    directory: StateDir,
    lift: Annotated[
        bool, typer.Option("--lift-equivocation", help="Train and evaluate again, with --reason.")
    ] = False,
    person: Annotated[str, typer.Option("--as", help="Who decides, by name: it is recorded.")] = "",
    reason: Annotated[str, typer.Option(help="Why it may go on: it is recorded.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """What this site has cosigned of the consortium's log, and what stands against it.

    Example: cohortium site witness --dir DIR
    """
    if lift:
        _lift(directory, person, reason, as_json)
        return
    from cohortium.client import equivocation
    from cohortium.client.cosigned import Cosigned
    from cohortium.client.database import open_site_database
    from cohortium.common.audit.tree import Tree

    here = SiteDir(directory)
    config = here.load_config()
    with open_site_database(here.database) as database:
        cosigned = Cosigned(database)
        last, at_ms, proven = cosigned.last(), cosigned.cosigned_ms(), cosigned.proven()
        shared = Tree(database, "shared").size()
        kept = database.execute("SELECT ours, theirs, found_ms FROM equivocations ORDER BY id")
    standing, loud = equivocation.standing(here), alarms(here)
    document = {
        "site": config.name,
        "log": last.checkpoint.origin if last else None,
        "cosigned": last.checkpoint.size if last else 0,
        "cosigned_at": _time(at_ms) if at_ms is not None else None,
        "note": last.text if last else None,
        "shared": shared,
        "proven": proven,
        "equivocation": standing is not None,
        "evidence": [dict(row) for row in kept],
        "alarms": loud,
    }
    seen = f"{last.checkpoint.size} events of {last.checkpoint.origin}" if last else "nothing yet"
    lines = [
        f"cosigned   {seen}" + (f", {document['cosigned_at']}" if last else ""),
        f"our own    {proven} of {shared} shared events shown to be in it",
        f"evidence   {len(kept)} pair(s) of notes set aside",
        *(f"ALARM: {said}" for said in loud),
    ]
    emit(document, "\n".join(lines), as_json)


def _lift(directory: StateDir, person: str, reason: str, as_json: bool) -> None:
    from cohortium.client import equivocation
    from cohortium.client.site import open_site

    if not person or not reason:
        raise UsageError("say who lifts it and why: --as PERSON --reason TEXT")
    opened = open_site(directory)
    with opened.database:
        opened.check_approver(person)
        event = equivocation.lift(opened, person, reason)
    text = f"lifted by {person}; studies are answered again   (event {event})"
    emit({"by": person, "reason": reason, "event": event}, text, as_json)


def _time(ms: int) -> str:
    return timestamp(datetime.fromtimestamp(ms / 1000, UTC))
