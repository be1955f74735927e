"""`cohortium site incident`: one command when something has gone wrong."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from cohortium.common.audit.events import Text
from cohortium.common.console import JsonFlag, StateDir, emit
from cohortium.common.document import Document, parse
from cohortium.common.incident import Incident


class _Said(Document):
    person: Text
    reason: Text


def incident(
    directory: StateDir,
    person: Annotated[str, typer.Option("--as", help="Who declares it, by name: it is kept.")],
    reason: Annotated[str, typer.Option(help="What happened, or why it is over, in one line.")],
    lift: Annotated[bool, typer.Option("--lift", help="End the incident.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """End all training, answer nothing, change keys, seal the evidence, draft the notification.

    Given again it does what is left. The site comes back by a new invitation, after --lift.

    Example: cohortium site incident --as "Dr. A. Weiss" --reason "a laptop was stolen" --dir DIR
    """
    from cohortium.client import incident as work
    from cohortium.client.rotation import REJOIN

    said, now = parse({"person": person, "reason": reason}, _Said, "incident"), datetime.now(UTC)
    opened = work.open_frozen(directory)
    if lift and Incident(directory).declared is None:
        document = {"in_force": False, "by": person, "event": None, "folder": None}
        emit(document, "no incident is in force", as_json)
        return
    if lift:
        event, folder = work.lift(opened, said.person, said.reason, now)
        document = {"in_force": False, "by": person, "event": event, "folder": str(folder)}
        text = f"the incident is over   (event {event}); its files stay in {folder}\nNext: {REJOIN}"
        emit(document, text, as_json)
        return
    found = work.declare(opened, said.person, said.reason, now)
    document = {
        **asdict(found),
        "in_force": True,
        "by": person,
        "event": found.events["declared"],
        "draft": str(found.draft),
        "sealed": str(found.sealed) if found.sealed else None,
    }
    lines = [
        f"INCIDENT since {found.since}   (event {found.events['declared']})",
        f"{found.processes} training process(es) gone after {found.seconds:g} s; stopped: "
        + (", ".join(found.studies) or "no study ran"),
        f"new keys; the old ones are sealed aside   (events {found.events['keys']})",
        f"evidence: {found.sealed or f'NOT SEALED: cohortium audit export --dir {directory}'}",
        f"notification, to be completed: {found.draft}",
        f"Next: end `cohortium site up`; {REJOIN}",
    ]
    emit(document, "\n".join(lines), as_json)
