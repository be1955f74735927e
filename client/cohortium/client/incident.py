"""An incident at a site: nothing is answered, keys change, the evidence is put together."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cohortium.client import halt, rotation
from cohortium.client.config import SiteDir
from cohortium.client.rejoin import change_keys
from cohortium.client.site import Site, open_site
from cohortium.client.watermark import LostRecords
from cohortium.common.audit.events import os_user
from cohortium.common.audit.notification import Facts, Holding, Left, StudyTouched, draft
from cohortium.common.audit.sealing import seal_evidence
from cohortium.common.document import one_line
from cohortium.common.errors import CohortiumError
from cohortium.common.incident import DRAFT, Declared, Incident

LISTED = 200  # characters of a detail
LEFT = {
    "round.update.sent": "model update",
    "evaluation.completed": "counts of an evaluation",
    "evaluation.calibrated": "sums for calibration",
    "evaluation.validated": "losses on validation patients",
}
NOT_ROTATED = (
    "the certificate authority of the coordinator, which this site trusts by its invitation",
    "passwords and keys of this machine, its users and its databases: not Cohortium's",
)


@dataclass(frozen=True)
class Frozen:
    """What one command did: training ended after so many seconds; events by step.

    sealed: the bundle of the evidence; None where a person has to make it.
    """

    since: str
    studies: tuple[str, ...]
    processes: int
    seconds: float
    events: dict[str, str]
    draft: Path
    sealed: Path | None


def declare(site: Site, person: str, reason: str, now: datetime) -> Frozen:
    """Freeze first, durably; then everything else, each step once however often it is asked for.

    Raises:
        CohortiumError: a training process is still there after 5 s; the rest is not done yet.
    """
    incident, started = Incident(site.directory.root), time.monotonic()
    declared = incident.declare(person, reason, now)
    processes = 0
    if "paused" not in declared.done or not site.directory.paused.exists():
        halted = halt.pause(site, person)
        processes = halted.processes
        incident.once("paused", lambda: halted.event)
    names = incident.once("studies", lambda: ",".join(_stop_all(site, person)))
    seconds = round(time.monotonic() - started, 2)
    incident.once("declared", lambda: _record(site, declared, names))
    sealed = seal_evidence(incident, person)  # by the key that the consortium knows: before
    incident.once("keys", lambda: " ".join(change_keys(site, os_user())))
    done = _done(incident)
    with (renewed := open_site(site.directory.root)).database:
        path = incident.keep(DRAFT, draft(_facts(renewed, declared, done)).encode())
        with suppress(LostRecords):
            renewed.watermark.keep()  # an older database would have forgotten this
    return Frozen(
        since=declared.since,
        studies=tuple(filter(None, names.split(","))),
        processes=processes,
        seconds=seconds,
        events={step: event for step, event in done.items() if step != "studies"},
        draft=path,
        sealed=sealed,
    )


def open_frozen(root: Path) -> Site:
    """The site, also where a change of its keys was cut off."""
    rotation.finish(SiteDir(root))
    return open_site(root)


def lift(site: Site, person: str, reason: str, now: datetime) -> tuple[str, Path]:
    """End the incident and the pause; the event and the folder. Studies need new approvals."""
    incident = Incident(site.directory.root)
    cause = f"incident {_done(incident).get('declared', '')}"

    def resumed() -> str:
        site.latest.vouch(site.now_ms())
        return site.log.append(
            "run.resumed",
            actor=os_user(),
            reason=one_line(reason, LISTED),
            detail={"by": person, "cause": cause},
        ).id

    event = incident.once("lifted", resumed)
    folder = incident.lift(person, reason, now, event)
    site.directory.paused.unlink(missing_ok=True)
    return event, folder


def _stop_all(site: Site, person: str) -> Iterator[str]:
    for known in site.studies.all():
        if known.state == "approved":
            halt.stop(site, known, person, "an incident was declared")
            yield known.study.name


def _record(site: Site, declared: Declared, names: str) -> str:
    detail = {"person": declared.person, "studies": names[:LISTED]}
    return site.log.append(
        "incident.declared",
        actor=os_user(),
        reason=declared.reason,
        detail={key: value for key, value in detail.items() if value},
    ).id


def _done(incident: Incident) -> dict[str, str]:
    declared = incident.declared
    return dict(declared.done) if declared else {}


def _facts(site: Site, declared: Declared, done: dict[str, str]) -> Facts:
    known = [(k.study, k.state) for k in site.studies.all()]
    return Facts(
        role=f"site {site.name}",
        consortium=site.config.coordinator.name,
        person=declared.person,
        reason=declared.reason,
        noticed=datetime.fromisoformat(declared.since),
        event=done["declared"],
        studies=[StudyTouched(s.name, s.digest, state, s.data.dataset) for s, state in known],
        holdings=[_holding(site, name) for name in site.directory.datasets()],
        sites=[site.name],
        left=list(_left(site)),
        measures=list(_measures(done)),
        unknown=NOT_ROTATED,
    )


def _holding(site: Site, name: str) -> Holding:
    from cohortium.client.budget import Ledger  # slow to import: the accountants

    band = ""
    for event in site.log.events():
        if event.action == "dataset.registered" and event.detail.get("dataset") == name:
            band = event.detail.get("band", "")
    try:
        balance = Ledger(site.database, site.directory.load_dataset(name)).balance()
    except CohortiumError:
        return Holding(site.name, name, band)
    spent = f"epsilon {balance.epsilon_spent:.4f} of {balance.epsilon_cap:g}"
    return Holding(site.name, name, band, f"{spent} at delta {balance.delta_cap:g}")


def _left(site: Site) -> Iterator[Left]:
    """What this site sent, by study and kind."""
    names = {known.digest: known.study.name for known in site.studies.all()}
    found: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for event in site.log.events():
        if event.action in LEFT:
            size = sum(thing.bytes or 0 for thing in event.obj)
            found.setdefault((event.study or "", event.action), []).append((event.ts, size))
    for (study, action), sent in found.items():
        times, total = [ts for ts, _ in sent], sum(size for _, size in sent)
        name = names.get(study, study[:16])
        yield Left(name, site.name, LEFT[action], len(sent), min(times), max(times), total)


def _measures(done: dict[str, str]) -> Iterator[str]:
    yield f"all training ended and no request is answered (event {done['paused']})"
    yield f"studies stopped, which need new approvals: {done['studies'] or 'none ran'}"
    yield f"new signing and node keys; the old ones are sealed aside (events {done['keys']})"
