"""The kill switch: a study's training ends within seconds, whatever it does and whoever runs it.

It does not ask the training process or the daemon. The study's state and a file say no to every
request from then on; the process group is killed from here, and the daemon finds it dead.
"""

import contextlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

from cohortium.client import equivocation
from cohortium.client.config import SiteDir, write_whole
from cohortium.client.processes import end_group, marker
from cohortium.client.site import Site
from cohortium.client.studies import KnownStudy
from cohortium.client.watermark import LostRecords
from cohortium.common import timeouts
from cohortium.common.audit.events import os_user
from cohortium.common.errors import CohortiumError, RefusedError, UsageError
from cohortium.common.incident import Incident

LOOK_S = 0.02


@dataclass(frozen=True)
class Halted:
    """What was ended, how long it took, and the event that says so."""

    processes: int
    seconds: float
    event: str


def stop(site: Site, known: KnownStudy, person: str, why: str = "the kill switch") -> Halted:
    """End a study at this site until a person approves it again; twice is once.

    Raises:
        UsageError: the study is over.
        CohortiumError: its process is still there after 5 s.
    """
    if known.over:
        raise UsageError(f'study "{known.study.name}" is over ({known.note}): nothing runs')
    started = time.monotonic()
    try:
        event = _record_stop(site, known, person, why)
    finally:
        ended = _end(site.directory, [known.digest])  # where nothing can be written, too
    with contextlib.suppress(LostRecords):
        site.watermark.keep()  # an older database would have forgotten this
    return Halted(ended, round(time.monotonic() - started, 2), event)


def _record_stop(site: Site, known: KnownStudy, person: str, why: str) -> str:
    with site.database.transaction():
        site.withdraw_approvals(known.digest, os_user())
        site.studies.mark(known.digest, "stopped", f"stopped by {person}")
        site.release(known.digest)
        return site.log.append(
            "run.stopped",
            actor=os_user(),
            study=known.digest,
            reason=why,
            detail={"by": person},
        ).id


def pause(site: Site, person: str) -> Halted:
    """Answer nothing and train nothing, in any study, until `resume`."""
    started = time.monotonic()
    facts = {"by": person, "since_ms": site.now_ms()}
    write_whole(site.directory.paused, json.dumps(facts))
    event = site.log.append("run.paused", actor=os_user(), detail={"by": person})
    running = [path.stem for path in marker(site.directory.root, "*").parent.glob("*.json")]
    ended = _end(site.directory, running)
    return Halted(ended, round(time.monotonic() - started, 2), event.id)


def resume(site: Site, person: str) -> str:
    """Answer again; a round that was interrupted is trained anew when it is asked for again.

    Who resumes stands by the site's clock.

    Raises:
        RefusedError: an incident is in force.
    """
    Incident(site.directory.root).check()
    site.latest.vouch(site.now_ms())
    site.directory.paused.unlink(missing_ok=True)
    return site.log.append("run.resumed", actor=os_user(), detail={"by": person}).id


def refusal(site: Site, study: str) -> RefusedError | None:
    """Why a study may not go on at this moment, if so; cheap enough to ask ten times a second."""
    if (standing := equivocation.refusal(site.directory)) is not None:
        return standing
    if site.directory.paused.exists():
        return RefusedError("site.paused", "the site has paused all studies; it will come back")
    known = site.studies.by_digest(study)
    if site.directory.is_withdrawn(known.study.data.dataset):
        return withdrawn(known.study.data.dataset)
    if known.state in ("rejected", "stopped", "ended"):
        return RefusedError(f"study.{known.state}", known.note)
    return None


def withdrawn(dataset: str) -> RefusedError:
    return RefusedError("data.withdrawn", f'dataset "{dataset}" was withdrawn by this site')


def _end(directory: SiteDir, studies: list[str]) -> int:
    """Kill the processes of some studies and wait until they are gone; returns how many."""
    pids = [pid for study in studies if (pid := running(marker(directory.root, study))) is not None]
    for pid in pids:
        end_group(pid)
    deadline = time.monotonic() + timeouts.GONE_S
    while any(_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            raise CohortiumError(
                "a training process is still there after 5 s; end the site daemon as well"
            )
        time.sleep(LOOK_S)
    for study in studies:
        marker(directory.root, study).unlink(missing_ok=True)
    return len(pids)


def running(path: Path) -> int | None:
    """The training process that a marker names, if it is still there and one of ours."""
    try:
        pid = int(json.loads(path.read_text(encoding="utf-8"))["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pid if _alive(pid) else None


def _alive(pid: int) -> bool:
    """Whether a training process of that number runs; a zombie, or another program, does not."""
    status, command = Path(f"/proc/{pid}/stat"), Path(f"/proc/{pid}/cmdline")
    try:
        state = status.read_text().rpartition(")")[2].split()[0]
        return state not in "ZX" and b"cohortium.client.worker" in command.read_bytes()
    except OSError:
        return False
