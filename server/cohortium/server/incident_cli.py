"""`cohortium coordinator incident`: one command when something has gone wrong."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from cohortium.common.audit.events import Text
from cohortium.common.audit.notification import GDPR_HOURS
from cohortium.common.console import JsonFlag, StateDir, emit
from cohortium.common.document import Document, parse
from cohortium.common.errors import UsageError
from cohortium.common.incident import Incident


class _Said(Document):
    person: Text
    reason: Text


def incident(
    directory: StateDir,
    person: Annotated[str, typer.Option("--as", help="Who declares it, by name: it is kept.")],
    reason: Annotated[str, typer.Option(help="What happened, or why it is over, in one line.")],
    sites: Annotated[str, typer.Option(help="Sites to shut out, with commas between.")] = "",
    lift: Annotated[bool, typer.Option("--lift", help="End the incident.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Freeze all studies, change keys, seal the evidence and draft the 72-hour notification.

    Given again it does what is left. Nothing starts, and no model leaves, until --lift.

    Example: cohortium coordinator incident --as "Dr. E. Haddad" --reason "northgate lost a laptop"
    --sites northgate --dir DIR
    """
    from cohortium.server import incident as work
    from cohortium.server.opened import open_coordinator

    said, now = parse({"person": person, "reason": reason}, _Said, "incident"), datetime.now(UTC)
    opened = open_coordinator(directory)
    if lift and sites:
        raise UsageError("--sites goes with a declaration, not with --lift")
    if lift and Incident(directory).declared is None:
        document = {"in_force": False, "by": person, "event": None, "folder": None}
        emit(document, "no incident is in force", as_json)
        return
    if lift:
        actor = opened.acting("lead", "officer")
        event, folder = work.lift(opened, said.person, said.reason, actor, now)
        document = {"in_force": False, "by": person, "event": event, "folder": str(folder)}
        text = (
            f"the incident is over   (event {event}); its files stay in {folder}\n"
            "Next: cohortium study resume STUDY, for each that shall go on"
        )
        emit(document, text, as_json)
        return
    named = tuple(filter(None, (name.strip() for name in sites.split(","))))
    actor = opened.acting("lead", "operator", "officer")
    found = work.declare(opened, said.person, said.reason, named, actor, now)
    document = {
        **asdict(found),
        "in_force": True,
        "by": person,
        "event": found.events["declared"],
        "draft": str(found.draft),
        "sealed": str(found.sealed) if found.sealed else None,
    }
    lines = [f"INCIDENT since {found.since}   (event {found.events['declared']})"]
    if found.running:
        lines.append(f"STILL RUNNING: {', '.join(found.running)}: end `cohortium coordinator up`")
    lines += [
        f"stopped in {found.seconds:g} s: {', '.join(found.studies) or 'no study ran'}",
        f"shut out: {', '.join(found.revoked) or 'no site'}; invitations not used are void",
        f"new server certificate: {found.events.get('certificate') or 'NO: renew it by hand'}",
        *(f"not changed: {what}" for what in work.NOT_ROTATED),
        f"evidence: {found.sealed or f'NOT SEALED: cohortium audit export --dir {directory}'}",
        f"notification, to be completed by {_by(found.since)}: {found.draft}",
        "a site that was shut out comes back by: cohortium coordinator invite SITE --replace",
    ]
    emit(document, "\n".join(lines), as_json)


def _by(since: str) -> str:
    end = datetime.fromisoformat(since).astimezone(UTC) + timedelta(hours=GDPR_HOURS)
    return f"{end:%Y-%m-%d %H:%M} UTC"
