"""An incident at the coordinator: everything stops, keys change, the evidence is put together.

What cannot be changed without every site joining again is said, not hidden: the certificate
authority and the signing key, which sites know from their invitation.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from cohortium.common import daemon, timeouts
from cohortium.common.audit.events import Actor
from cohortium.common.audit.log import EventLog
from cohortium.common.audit.notification import Facts, Holding, Left, StudyTouched, draft
from cohortium.common.audit.sealing import seal_evidence
from cohortium.common.document import one_line
from cohortium.common.incident import DRAFT, Declared, Incident
from cohortium.server import certificates
from cohortium.server.ending import resume_it
from cohortium.server.opened import Opened
from cohortium.server.store import Store, StudyRow

LISTED = 200  # characters of a detail
NOT_ROTATED = (
    "the certificate authority: a new one means a new coordinator, which every site has to join",
    "the coordinator's signing key and its log's, which is the same: sites know it from joining",
    "the keys of sites that were not named: each changes its own (site incident)",
)


@dataclass(frozen=True)
class Frozen:
    """What one command did: `studies` were stopped, within so many seconds, unless `running`.

    events: by step. sealed: the bundle of the evidence; None where a person has to make it.
    """

    since: str
    studies: tuple[str, ...]
    running: tuple[str, ...]
    seconds: float
    revoked: tuple[str, ...]
    events: dict[str, str]
    draft: Path
    sealed: Path | None


def of(root: Path) -> Incident:
    return Incident(root)


def declare(
    opened: Opened, person: str, reason: str, sites: Sequence[str], actor: Actor, now: datetime
) -> Frozen:
    """Freeze first, durably; then everything else, each step once however often it is asked for.

    Raises:
        UsageError: no such site; nothing was done.
    """
    for site in sites:
        opened.roster.member(site)
    incident, started = opened.incident, time.monotonic()
    declared = incident.declare(person, reason, now)
    names = incident.once("studies", lambda: ",".join(_ask_to_stop(opened, person)))
    running = _await_stops(opened, actor, started)
    seconds = round(time.monotonic() - started, 2)
    incident.once("declared", lambda: _record(opened, declared, names, sites, actor))
    for site in sites:
        incident.once(f"revoked {site}", partial(opened.roster.revoke, site, now, actor))
    for member in opened.roster.members():
        if member.state == "invited":
            opened.roster.revoke(member.name, now, actor)
    incident.once("certificate", lambda: _renew(opened, actor, now))
    done = _done(incident)
    text = draft(_facts(opened, incident, done))
    path = incident.keep(DRAFT, text.encode())
    sealed = seal_evidence(incident, person)
    return Frozen(
        since=declared.since,
        studies=tuple(filter(None, names.split(","))),
        running=running,
        seconds=seconds,
        revoked=tuple(step.split()[1] for step in done if step.startswith("revoked ")),
        events={step: event for step, event in done.items() if step != "studies"},
        draft=path,
        sealed=sealed,
    )


def lift(opened: Opened, person: str, reason: str, actor: Actor, now: datetime) -> tuple[str, Path]:
    """End the incident: studies may be resumed and submitted; the event and the folder."""
    incident = opened.incident
    event = incident.once(
        "lifted",
        lambda: (
            opened.log.append(
                "run.resumed",
                actor=actor,
                reason=one_line(reason, LISTED),
                detail={"by": person, "cause": f"incident {_done(incident).get('declared', '')}"},
            ).id
        ),
    )
    return event, incident.lift(person, reason, now, event)


def stop_study(row: StudyRow, store: Store, log: EventLog, actor: Actor, now_ms: int) -> None:
    """End a study that nobody runs; its sites are told as other ended studies' are."""
    by = store.stop_requested(row.digest) or "an incident"
    cause = f"stopped by {by}: an incident"
    advice = f"when the incident is over, {resume_it(row.study)}"
    with store.database.transaction():
        store.end(row.digest, "stopped", cause, advice, now_ms)
        log.append("run.stopped", actor=actor, study=row.digest, reason=one_line(cause, LISTED))


def _ask_to_stop(opened: Opened, person: str) -> list[str]:
    rows = [row for row in opened.store.studies() if not row.ended]
    for row in rows:
        opened.store.ask_to_stop(row.digest, person)
    return [row.study.name for row in rows]


def _await_stops(opened: Opened, actor: Actor, started: float) -> tuple[str, ...]:
    """Wait until the daemon has stopped them, or stop them here where there is none."""
    while True:
        up = daemon.is_running(opened.directory.lock)
        left = [row for row in opened.store.studies() if not row.ended]
        if not left:
            return ()
        if not up:
            for row in left:
                now_ms = int(time.time() * 1000)
                stop_study(row, opened.store, opened.log, actor, now_ms)
        elif time.monotonic() - started > timeouts.FREEZE_S:
            return tuple(row.study.name for row in left)
        time.sleep(timeouts.TICK_S)


def _record(
    opened: Opened, declared: Declared, names: str, sites: Sequence[str], actor: Actor
) -> str:
    detail = {"person": declared.person, "studies": names[:LISTED], "sites": ", ".join(sites)[:200]}
    return opened.log.append(
        "incident.declared",
        actor=actor,
        reason=declared.reason,
        detail={key: value for key, value in detail.items() if value},
    ).id


def _renew(opened: Opened, actor: Actor, now: datetime) -> str:
    """A new key and certificate; nothing where the authority's key is kept elsewhere."""
    if not opened.directory.ca_key.exists():
        return ""
    return certificates.renew(opened.directory, opened.config, opened.log, actor, now)


def _done(incident: Incident) -> dict[str, str]:
    declared = incident.declared
    return dict(declared.done) if declared else {}


def _facts(opened: Opened, incident: Incident, done: dict[str, str]) -> Facts:
    declared = incident.declared
    assert declared is not None
    rows = opened.store.studies()
    return Facts(
        role=f"coordinator {opened.config.name}",
        consortium=opened.config.name,
        person=declared.person,
        reason=declared.reason,
        noticed=datetime.fromisoformat(declared.since),
        event=done.get("declared", ""),
        studies=[StudyTouched(r.study.name, r.digest, r.state, r.study.data.dataset) for r in rows],
        holdings=list(dict.fromkeys(h for row in rows for h in _holdings(row, opened.store))),
        sites=[f"{m.name} ({m.state})" for m in opened.roster.members()],
        left=[item for row in rows for item in _came(row, opened.store)] + _went(opened.log, rows),
        measures=list(_measures(done)),
        unknown=NOT_ROTATED,
    )


def _holdings(row: StudyRow, store: Store) -> Iterator[Holding]:
    for site, consent in store.consents(row.digest).items():
        yield Holding(site, row.study.data.dataset, consent.patients)


def _came(row: StudyRow, store: Store) -> Iterator[Left]:
    """What sites sent here, by site and kind of message."""
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for record in store.rounds(row.digest):
        for site, kinds in record.received.items():
            for kind, size in kinds.items():
                found.setdefault((site, kind), []).append((record.round, size))
    for (site, kind), sizes in found.items():
        rounds = [number for number, _ in sizes]
        total = sum(size for _, size in sizes)
        first, last = f"round {min(rounds)}", f"round {max(rounds)}"
        yield Left(row.study.name, site, f"{kind}, to here", len(sizes), first, last, total)


def _went(log: EventLog, rows: Sequence[StudyRow]) -> list[Left]:
    """Which models left from here."""
    return [
        Left(
            row.study.name,
            "",
            f"model, to {event.detail.get('recipient', 'somebody')}",
            1,
            event.ts,
            event.ts,
            sum(thing.bytes or 0 for thing in event.obj),
        )
        for row in rows
        for event in log.about(row.digest, "model.downloaded")
    ]


def _measures(done: dict[str, str]) -> Iterator[str]:
    yield f"all studies stopped, none starts until the incident is lifted: {done['studies'] or '-'}"
    for step, event in done.items():
        if step.startswith("revoked "):
            yield f"{step.split()[1]} is shut out (event {event or 'before'})"
    yield "invitations that were not used are void"
    if event := done.get("certificate", ""):
        yield f"the server has a new key and certificate (event {event})"
    yield "no model is released or exported until the incident is lifted"
