"""The studies that a coordinator runs: a thread for each, and what is still owed to the ended."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cohortium.common import timeouts
from cohortium.common.errors import CohortiumError, StorageError, UnreachableError
from cohortium.server import incident
from cohortium.server.conversation import Conversation, StudyStopped
from cohortium.server.coordinator import run_study
from cohortium.server.desk import Desk, StudyFailed
from cohortium.server.ending import Ending, resume_it, say_farewell
from cohortium.server.flower_sites import FlowerSites
from cohortium.server.outcome import publish
from cohortium.server.recovery import LogBehind, check_whole
from cohortium.server.release import examine, raise_flags
from cohortium.server.release_report import release_report
from cohortium.server.running import Coordinator
from cohortium.server.signed import Signatures
from cohortium.server.store import StudyRow

logger = logging.getLogger("cohortium.coordinator")


def start_studies(here: Coordinator) -> None:
    for digest in [d for d, thread in here.threads.items() if not thread.is_alive()]:
        del here.threads[digest]
    frozen = incident.of(here.directory.root).path.exists()
    for row in here.store.studies():
        if row.ended or row.digest in here.threads:
            continue
        if frozen:
            incident.stop_study(row, here.store, here.log, here.actor, int(time.time() * 1000))
        else:
            _start(here, row, _run)


def _start(here: Coordinator, row: StudyRow, work: Callable[[Coordinator, StudyRow], None]) -> None:
    thread = threading.Thread(target=work, args=(here, row), daemon=True)
    here.threads[row.digest] = thread
    thread.start()


def settle_debts(here: Coordinator) -> None:
    """What is still owed to ended studies: a report, and the word to sites that were away.

    A coordinator that was killed right after a study's end left neither.
    """
    online = here.online()
    for row in here.store.studies():
        if not row.ended or row.digest in here.threads:
            continue
        if not here.directory.report(row.study.name, row.digest).exists():
            _start(here, row, _publish)
        elif online & {*here.store.untold(row.digest)}:
            _start(here, row, _farewell)


def _farewell(here: Coordinator, row: StudyRow) -> None:
    try:
        with _desk(here, row) as desk:
            say_farewell(row.study, desk, _ending(row))
    except CohortiumError as error:
        logger.warning("study %s: its sites could not be told: %s", row.study.name, error)


def _ending(row: StudyRow) -> Ending:
    assert row.state in ("completed", "failed", "stopped")
    return row.state


def hurry_stopped(here: Coordinator) -> None:
    """A study that somebody stopped does not wait for its round."""
    for digest, sites in list(here.talking.items()):
        if here.store.stop_requested(digest):
            sites.hurry()
            del here.talking[digest]


def _run(here: Coordinator, row: StudyRow) -> None:
    """One study in its thread; however it ends, the store says how and the report is written."""
    name = f"study {row.study.name} ({row.digest[:8]})"
    try:
        check_whole(here.database)
        with _desk(here, row) as desk:
            run_study(row.study, desk)
    except (StudyFailed, StudyStopped) as error:
        logger.warning("%s: %s", name, error)
    except (UnreachableError, StorageError) as error:
        logger.error("%s waits: %s", name, error)
        if isinstance(error, LogBehind):
            here.store.say(row.digest, f"waits: {error}")
        here.stop.wait(timeouts.TRANSPORT_AGAIN_S)
        return
    except Exception as error:
        if here.stop.is_set():
            return
        logger.exception("%s", name)
        try:
            _give_up(here, row, error)
        except CohortiumError as worse:
            logger.error("%s: its end cannot be recorded: %s", name, worse)
            here.stop.wait(timeouts.TRANSPORT_AGAIN_S)
            return
    _publish(here, here.store.study(row.digest))


def _give_up(here: Coordinator, row: StudyRow, error: Exception) -> None:
    """The unforeseen ends a study too, with a cause; its sites are told as soon as possible."""
    cause = str(error) if isinstance(error, CohortiumError) else type(error).__name__
    advice = f"look for {row.digest[:8]} in {here.directory.root / 'coordinator.log'}, "
    with here.database.transaction():
        here.store.end(
            row.digest,
            "failed",
            f"unexpected: {cause}",
            advice + resume_it(row.study),
            int(time.time() * 1000),
        )
        here.log.append(
            "run.failed",
            actor=here.actor,
            outcome="failure",
            study=row.digest,
            reason=f"unexpected: {type(error).__name__}",
        )


@contextmanager
def _desk(here: Coordinator, row: StudyRow) -> Iterator[Desk]:
    """What a study is run from: a run of the SuperLink for as long as the block."""
    names = [name for name in row.study.sites.names if name in here.node_ids]
    sites = FlowerSites(here.superlink, {name: here.node_ids[name] for name in names})
    if not row.ended:
        here.talking[row.digest] = sites
    completed = False
    try:
        talk = Conversation(
            study=row.digest,
            coordinator=here.config.name,
            key=here.key,
            peers=here.peers,
            sites=sites,
            stopped=lambda: _stopped(here, row.digest),
            now_ms=lambda: int(time.time() * 1000),
            sleep=lambda seconds: _sleep(here, row.digest, seconds),
            suspect=lambda site: _suspect(here, row.digest, site),
        )
        yield Desk(
            talk=talk,
            store=here.store,
            log=here.log,
            actor=here.actor,
            now_ms=talk.now_ms,
            scratch=here.directory.root,
            turn=lambda say: here.turns.take(row.study.name, say),
        )
        completed = True
    finally:
        here.talking.pop(row.digest, None)
        sites.close(completed)


def _suspect(here: Coordinator, study: str, site: str) -> None:
    """A reply in a site's name that its key did not sign is worth more than a refusal."""
    logger.warning("a reply in the name of %s is not signed by its key", site)
    here.log.append(
        "auth.fail",
        actor=here.actor,
        outcome="denied",
        study=study,
        reason="a reply is not signed by the key of its sender",
        detail={"site": site},
    )


def _sleep(here: Coordinator, digest: str, seconds: float) -> None:
    """Wait, but no longer than until somebody stops the study."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not here.store.stop_requested(digest):
        here.pause(min(left, timeouts.STOP_LOOK_S))


def _stopped(here: Coordinator, digest: str) -> str:
    if here.stop.is_set():
        raise UnreachableError("the coordinator is being stopped")
    check_whole(here.database)
    return here.store.stop_requested(digest)


def _publish(here: Coordinator, row: StudyRow) -> None:
    """Write the report, then raise the flags that keep the model from leaving."""
    out = here.directory.study(row.study.name, row.digest)
    try:
        signatures = Signatures(here.database, lambda: here.key)
        release = release_report(row, here.store, here.log, signatures)
        publish(row, here.store, here.log, here.evidence, out, release=release)
        if row.state == "completed":
            raise_flags(examine(row, here.store, here.log), here.store, here.log, here.actor)
    except (CohortiumError, OSError) as error:
        logger.error("study %s: its report could not be written: %s", row.study.name, error)
