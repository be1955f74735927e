"""`cohortium coordinator`: the commands of a consortium's lead."""

import os
import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from cohortium.common import daemon
from cohortium.common.audit.events import os_user
from cohortium.common.audit.siem import STATE_FILE, standing
from cohortium.common.console import JsonFlag, StateDir, emit, note, table
from cohortium.common.document import parse
from cohortium.common.errors import UsageError
from cohortium.server.incident_cli import incident
from cohortium.server.witness_cli import alarms, recover_log, witnesses

coordinator = typer.Typer(
    help="The coordinator: set up, invite sites, run the server.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

coordinator.command()(witnesses)
coordinator.command("recover-log")(recover_log)

UNITS_H = {"h": 1, "d": 24, "w": 168}


@coordinator.command()
def init(
    directory: Annotated[Path, typer.Argument(help="A new directory for the coordinator's state.")],
    name: Annotated[str, typer.Option(help="What sites call the consortium.")],
    host: Annotated[str, typer.Option(help="The host name or address that sites dial.")],
    fleet_port: Annotated[int, typer.Option(help="Port for rounds.")] = 9092,
    enrolment_port: Annotated[int, typer.Option(help="Port for joining.")] = 9093,
    as_json: JsonFlag = False,
) -> None:
    """Make a coordinator: certificate authority, server certificate, keys, database.

    Example: cohortium coordinator init /srv/consortium --name heart-net --host fl.example.org
    """
    from cohortium.server.opened import open_coordinator
    from cohortium.server.setup import again, initialise

    fingerprint = again(directory, name, host)
    if fingerprint is None:
        fingerprint = initialise(directory, name, host, fleet_port, enrolment_port, os_user())
    config = open_coordinator(directory).config
    document = {"coordinator": name, "directory": str(directory), "ca_fingerprint": fingerprint}
    text = (
        f"{name} is set up in {directory}\n"
        f"CA fingerprint (sites compare it):\n  {fingerprint}\n"
        f"Sites dial {host} on ports {config.fleet_port} (rounds) and {config.enrolment_port} "
        f"(joining).\nNext: cohortium coordinator up --dir {directory}"
    )
    emit(document, text, as_json)


@coordinator.command()
def invite(
    site: Annotated[str, typer.Argument(help="The name that the site will have.")],
    out: Annotated[Path, typer.Option(help="The file to give to the site's operator.")],
    directory: StateDir,
    expires: Annotated[str, typer.Option(help="How long it is valid: 72h, 7d, 2w.")] = "72h",
    replace: Annotated[
        bool, typer.Option("--replace", help="For a site that was enrolled and has new keys.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write a one-time invitation for a site: address, CA certificate, token.

    Example: cohortium coordinator invite northgate --out northgate.invite --dir DIR
    """
    from cohortium.common.identity import certificate_fingerprint
    from cohortium.common.invitation import Invitation
    from cohortium.server.opened import open_coordinator

    lasts, now = _duration(expires), datetime.now(UTC)
    opened = open_coordinator(directory)
    if out.exists():
        raise UsageError(f"{out} exists already and is not overwritten: give another --out")
    if not os.access(out.parent, os.W_OK):  # found out now, not when a token has been made
        raise UsageError(f"{out}: cannot be written: give another --out")
    pem = opened.directory.ca.read_text()
    host = opened.config.host
    values = {
        "coordinator": opened.config.name,
        "site": site,
        "enrolment_address": f"{host}:{opened.config.enrolment_port}",
        "fleet_address": f"{host}:{opened.config.fleet_port}",
        "ca_certificate": pem,
        "ca_fingerprint": certificate_fingerprint(pem.encode()),
        "token": "A" * 43,
        "expires": now + lasts,
    }
    parse(values, Invitation, "invitation")
    actor = opened.acting("lead", "operator")
    token, event = opened.roster.invite(site, lasts, now, actor, replace=replace)
    invitation = parse({**values, "token": token}, Invitation, "invitation")
    invitation.write(out)
    until = f"{invitation.expires:%Y-%m-%d %H:%M} UTC"
    document = {"site": site, "file": str(out), "expires": until, "event": event}
    text = (
        f"invitation for {site} in {out}, valid once until {until}   (event {event})\n"
        f"Give it to the site's operator by a way that you trust. They run:\n"
        f"  cohortium site join {out.name} {'--rejoin ' * replace}--dir DIR"
    )
    emit(document, text, as_json)


@coordinator.command()
def up(directory: StateDir, as_json: JsonFlag = False) -> None:
    """Run the coordinator in the foreground, until Ctrl-C.

    Example: cohortium coordinator up --dir DIR
    """
    from cohortium.server.daemon import run

    def ready(tls: str) -> None:
        if as_json:
            emit({"state": "up", "tls": tls}, "", as_json)
        else:
            note(f"coordinator is up ({tls})")

    run(directory, ready)


@coordinator.command()
def status(directory: StateDir, as_json: JsonFlag = False) -> None:
    """Whether the coordinator runs, which sites are online, which studies go on.

    Example: cohortium coordinator status --dir DIR
    """
    from cohortium.server.opened import open_coordinator

    opened = open_coordinator(directory)
    running = daemon.is_running(opened.directory.lock)
    said = daemon.said(opened.directory.status) if running else {}
    state = said.get("state", "starting") if running else "not running"
    online = [name for name, up in said.get("online", {}).items() if up]
    active = [
        {"name": row.study.name, "state": row.state, "progress": row.progress}
        for row in opened.store.studies()
        if not row.ended
    ]
    config = opened.config.siem
    stream = standing(config, opened.database, directory / STATE_FILE, running) if config else None
    loud = alarms(opened.database)
    document = {
        "coordinator": opened.config.name,
        "state": state,
        "tls": said.get("tls"),
        "sites_online": online,
        "studies": active,
        "siem": asdict(stream) if stream else None,
        "alarms": loud,
    }
    lines = [f"{opened.config.name}: {state}; online: {', '.join(online) or 'no site'}"]
    lines += [f"{item['name']}: {item['progress']}" for item in active]
    lines += [f"ALARM: {said}" for said in loud]
    lines += [stream.text] if stream else []
    emit(document, "\n".join(lines), as_json)


@coordinator.command()
def sites(directory: StateDir, as_json: JsonFlag = False) -> None:
    """All sites: invited, enrolled, online, offline (since), revoked.

    Example: cohortium coordinator sites --dir DIR
    """
    from cohortium.common.identity import VerifyKey
    from cohortium.server.opened import open_coordinator

    opened = open_coordinator(directory)
    running = daemon.is_running(opened.directory.lock)
    said = daemon.said(opened.directory.status) if running else {}
    rows, documents = [], []
    for member in opened.roster.members():
        state, since = member.state, ""
        if state == "enrolled" and member.name in said.get("online", {}):
            state = "online" if said["online"][member.name] else "offline"
            since = _time(said["since"][member.name])
        fingerprint = (
            VerifyKey.from_text(member.signing_key).fingerprint if member.signing_key else ""
        )
        rows.append((member.name, state, since, fingerprint))
        documents.append(
            {"name": member.name, "state": state, "since": since, "fingerprint": fingerprint}
        )
    text = table(("SITE", "STATE", "SINCE", "SIGNING KEY"), rows, "no site is invited yet")
    emit({"sites": documents}, text, as_json)


@coordinator.command()
def renew(directory: StateDir, as_json: JsonFlag = False) -> None:
    """Issue a new server certificate now; a running coordinator does so by itself in time.

    Example: cohortium coordinator renew --dir DIR
    """
    from cohortium.common.identity import certificate_expiry
    from cohortium.server import certificates
    from cohortium.server.opened import open_coordinator

    opened = open_coordinator(directory)
    event = certificates.renew(
        opened.directory,
        opened.config,
        opened.log,
        opened.acting("lead", "operator"),
        datetime.now(UTC),
    )
    until = f"{certificate_expiry(opened.directory.certificate.read_bytes()):%Y-%m-%d}"
    emit({"until": until, "event": event}, f"renewed until {until}   (event {event})", as_json)


@coordinator.command()
def revoke(
    site: Annotated[str, typer.Argument(help="The site to shut out.")],
    directory: StateDir,
    as_json: JsonFlag = False,
) -> None:
    """Shut a site out for good; it gets no further request.

    Example: cohortium coordinator revoke northgate --dir DIR
    """
    from cohortium.server.opened import open_coordinator

    opened = open_coordinator(directory)
    event = opened.roster.revoke(site, datetime.now(UTC), opened.acting("lead", "operator"))
    emit({"site": site, "event": event}, f"{site} is revoked   (event {event})", as_json)


coordinator.command()(incident)


def _duration(text: str) -> timedelta:
    match = re.fullmatch(r"([1-9]\d{0,4})([hdw])", text)
    if match is None:
        raise UsageError(f'--expires "{text}": say a number with h, d or w, such as 72h')
    return timedelta(hours=int(match[1]) * UNITS_H[match[2]])


def _time(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
