"""`cohortium coordinator witnesses` and `recover-log`: who cosigned the log, and beginning anew."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cohortium.common.audit.events import timestamp
from cohortium.common.console import JsonFlag, StateDir, emit, table

if TYPE_CHECKING:
    from cohortium.common.database import Database
    from cohortium.server.consortium import Consortium
    from cohortium.server.opened import Opened


def witnesses(
    directory: StateDir,
    as_json: JsonFlag = False,
) -> None:
    """Who has cosigned how much of the log, how much nobody has, and whether some is missing here.

    Example: cohortium coordinator witnesses --dir DIR
    """
    from cohortium.server.opened import open_coordinator

    opened = open_coordinator(directory)
    document = status(opened)
    rows = [
        (site, str(said["cosigned"]), said["at"] or "", str(said["events"]))
        for site, said in document["sites"].items()
    ]
    head = (
        f"{document['log']}: {document['events']} events, the newest checkpoint over "
        f"{document['checkpoint']}; {document['unwitnessed']} not cosigned by a quorum of "
        f"{document['quorum']}"
    )
    lines = [
        head,
        *(f"ALARM: {said}" for said in alarms(opened.database)),
        table(("SITE", "COSIGNED", "AT", "OWN EVENTS HERE"), rows, "no site is enrolled yet"),
    ]
    emit(document, "\n".join(lines), as_json)


def recover_log(
    directory: StateDir,
    person: Annotated[str, typer.Option("--as", help="Who decides, by name: it is recorded.")],
    as_json: JsonFlag = False,
) -> None:
    """After a restore from an old backup: let the log begin anew, naming what is known to be lost.

    Better, where it is still there: put the newer coordinator.db back.

    Example: cohortium coordinator recover-log --as "Dr. M. Lead" --dir DIR
    """
    import time

    from cohortium.server import recovery
    from cohortium.server.opened import open_coordinator

    opened = open_coordinator(directory)
    actor, consortium = opened.acting("lead", "operator"), _consortium(opened)
    event = recovery.recover(consortium, opened.log, actor, person, int(time.time() * 1000))
    document = {
        "log": consortium.origin,
        "first": recovery.origins(opened.database)[-1].first,
        "lost_of": int(event.detail["size"]),
        "named": sorted(thing.id or "" for thing in event.obj),
        "by": person,
        "event": event.id,
    }
    text = (
        f"the log goes on as {document['log']} from event {document['first']}; sites had seen "
        f"{document['lost_of']}   (event {event.id})\n"
        "Give auditors the new policy: cohortium audit policy --out FILE"
    )
    emit(document, text, as_json)


def alarms(database: "Database") -> list[str]:
    """What nobody may overlook, for `coordinator status`."""
    from cohortium.server import recovery

    try:
        recovery.check_whole(database)
    except recovery.LogBehind as error:
        return [str(error)]
    return []


def status(opened: "Opened") -> dict[str, Any]:
    """What `witnesses` says, as a document."""
    from cohortium.server import recovery
    from cohortium.server.consortium import quorum_of

    consortium = _consortium(opened)
    sites = {name: _site(consortium, name) for name in opened.roster.enrolled()}
    quorum = quorum_of(len(sites))
    size = consortium.size()
    sizes = sorted((said["cosigned"] for said in sites.values()), reverse=True)
    witnessed = sizes[quorum - 1] if 0 < quorum <= len(sizes) else 0
    behind = recovery.behind(opened.database)
    return {
        "log": consortium.origin,
        "events": size,
        "checkpoint": next(iter(consortium.sizes()), 0),
        "quorum": quorum,
        "unwitnessed": size - witnessed,
        "sites": sites,
        "behind": {site: note.checkpoint.size for site, note in behind.items()},
        "origins": [
            {"number": origin.number, "first": origin.first, "lost_of": origin.head.checkpoint.size}
            for origin in recovery.origins(opened.database)
        ],
    }


def _consortium(opened: "Opened") -> "Consortium":
    from cohortium.common.identity import SigningKey
    from cohortium.server.consortium import Consortium

    key = SigningKey.load(opened.directory.signing_key)
    return Consortium(opened.database, key, opened.config.name)


def _site(consortium: "Consortium", site: str) -> Mapping[str, Any]:
    rows = consortium.database.execute(
        "SELECT size, at_ms FROM cosignatures WHERE site = ? ORDER BY size DESC LIMIT 1", (site,)
    )
    at = datetime.fromtimestamp(rows[0]["at_ms"] / 1000, UTC) if rows else None
    return {
        "cosigned": rows[0]["size"] if rows else 0,
        "at": timestamp(at) if at else None,
        "events": consortium.have(site),
    }
