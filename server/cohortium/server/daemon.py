"""`coordinator up`: SuperLink, enrolment door and studies in one supervised process."""

import logging
import os
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cohortium.common import daemon
from cohortium.common.audit.events import Actor
from cohortium.common.audit.log import EventLog
from cohortium.common.database import Database
from cohortium.common.errors import CohortiumError, UnreachableError
from cohortium.common.identity import (
    SigningKey,
    VerifyKey,
    certificate_fingerprint,
    check_certificate,
)
from cohortium.common.invitation import JoinReply, JoinRequest
from cohortium.server.config import CoordinatorConfig, CoordinatorDir
from cohortium.server.conversation import Conversation, StudyStopped
from cohortium.server.coordinator import run_study
from cohortium.server.database import open_coordinator_database
from cohortium.server.desk import Desk, StudyFailed
from cohortium.server.enrolment import EnrolmentService
from cohortium.server.flower_sites import FlowerSites
from cohortium.server.outcome import Evidence, publish
from cohortium.server.roster import Roster
from cohortium.server.store import Store, StudyRow
from cohortium.server.superlink import SuperLink, TlsFiles

TICK_S = 0.2
NODES_EVERY_S = 1.0
RETRY_S = 5.0  # a study whose transport went away is taken up again after that

logger = logging.getLogger("cohortium.coordinator")


@dataclass
class Coordinator:
    """The running parts; `node_ids` holds Flower's node of each site that may be reached."""

    directory: CoordinatorDir
    config: CoordinatorConfig
    key: SigningKey
    database: Database
    log: EventLog
    roster: Roster
    store: Store
    superlink: SuperLink
    evidence: Evidence
    node_ids: dict[str, int] = field(default_factory=dict)
    threads: dict[str, threading.Thread] = field(default_factory=dict)
    talking: dict[str, FlowerSites] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    told: dict[str, object] = field(default_factory=dict)

    @property
    def actor(self) -> Actor:
        fingerprint = self.key.public.fingerprint
        return Actor(type="coordinator", id=self.config.name, auth=f"signature:{fingerprint}")


def run(root: Path, on_ready: Callable[[str], None]) -> None:
    """Serve until a signal asks to stop.

    Args:
        on_ready: told once that everything is healthy, with the TLS version that was seen.

    Raises:
        CohortiumError: another coordinator runs here, a port is in use, a file is wrong.
    """
    directory = CoordinatorDir(root)
    config = directory.load_config()
    with daemon.only_one(directory.lock, "a coordinator"):
        daemon.end_with_parent()
        stop = daemon.stop_on_signals()
        daemon.log_to(root / "coordinator.log")
        directory.status.unlink(missing_ok=True)
        tls = TlsFiles(directory.ca, directory.certificate, directory.server_key)
        check_certificate(directory.certificate.read_bytes(), datetime.now(UTC))
        # The SuperLink only carries messages: what matters is in our own database.
        shutil.rmtree(directory.superlink, ignore_errors=True)
        superlink = SuperLink(
            directory.superlink, tls, config.bind, config.fleet_port, root / "superlink.log"
        )
        superlink.start()
        try:
            _serve(directory, config, superlink, tls, stop, on_ready)
        finally:
            superlink.stop()


def _serve(
    directory: CoordinatorDir,
    config: CoordinatorConfig,
    superlink: SuperLink,
    tls: TlsFiles,
    stop: threading.Event,
    on_ready: Callable[[str], None],
) -> None:
    database = open_coordinator_database(directory.database)
    log = EventLog(database, config.name, config.name, lambda: datetime.now(UTC))
    evidence = Evidence(
        config=config,
        tls=_tls_version(tls, config.fleet_port),
        ca_fingerprint=certificate_fingerprint(directory.ca.read_bytes()),
    )
    here = Coordinator(
        directory=directory,
        config=config,
        key=SigningKey.load(directory.signing_key),
        database=database,
        log=log,
        roster=Roster(database, log),
        store=Store(database),
        superlink=superlink,
        evidence=evidence,
        stop=stop,
    )
    door = EnrolmentService(
        config.bind, config.enrolment_port, tls, lambda request: _admit(here, request)
    )
    door.start()
    try:
        log.append("log.started", actor=here.actor)
        _tell(here)
        on_ready(evidence.tls)
        _supervise(here)
    finally:
        door.stop()
        for sites in list(here.talking.values()):
            sites.hurry()
        for thread in here.threads.values():
            thread.join(5.0)
        directory.status.unlink(missing_ok=True)


def _admit(here: Coordinator, request: JoinRequest) -> JoinReply:
    """Enrol; in a moment `_follow_roster` lets the node in, and it alone, lest both do it."""
    here.roster.admit(request, datetime.now(UTC), here.actor)
    return JoinReply(
        coordinator_name=here.config.name,
        fleet_address=f"{here.config.host}:{here.config.fleet_port}",
        coordinator_signing_key=here.key.public.text,
    )


def _supervise(here: Coordinator) -> None:
    """Until the end: nodes follow the roster, studies get their threads, the SuperLink lives."""
    nodes_due = 0.0
    while not here.stop.is_set():
        try:
            if not here.superlink.alive():
                logger.error("the SuperLink ended; starting it again")
                here.superlink.start()
            if time.monotonic() >= nodes_due:
                _follow_roster(here)
                _tell(here)
                nodes_due = time.monotonic() + NODES_EVERY_S
            _start_studies(here)
            _hurry_stopped(here)
        except UnreachableError as error:
            logger.error("%s", error)
            here.stop.wait(RETRY_S)
        here.stop.wait(TICK_S)


def _follow_roster(here: Coordinator) -> None:
    """Register who is enrolled, shut out who was revoked."""
    enrolled = here.roster.enrolled()
    for name in [name for name in here.node_ids if name not in enrolled]:
        here.superlink.unregister_node(here.node_ids.pop(name))
    for name, member in enrolled.items():
        if name not in here.node_ids:
            here.node_ids[name] = here.superlink.register_node(member.node_key)


def _tell(here: Coordinator) -> None:
    """Say how the sites are, when it changed, for `status` and `sites` in other processes."""
    states = here.superlink.nodes()
    online = {name: states.get(node) == "online" for name, node in here.node_ids.items()}
    if online == here.told.get("online") and here.told:
        return
    now_ms, before = int(time.time() * 1000), here.told.get("since", {})
    was = here.told.get("online", {})
    assert isinstance(before, dict)
    assert isinstance(was, dict)
    since = {
        n: before[n] if was.get(n) == up and n in before else now_ms for n, up in online.items()
    }
    here.told = {"online": online, "since": since}
    daemon.say(
        here.directory.status, pid=os.getpid(), state="up", tls=here.evidence.tls, **here.told
    )


def _start_studies(here: Coordinator) -> None:
    for digest in [d for d, thread in here.threads.items() if not thread.is_alive()]:
        del here.threads[digest]
    for row in here.store.studies():
        if not row.ended and row.digest not in here.threads:
            thread = threading.Thread(target=_run, args=(here, row), daemon=True)
            here.threads[row.digest] = thread
            thread.start()


def _hurry_stopped(here: Coordinator) -> None:
    """A study that somebody stopped does not wait for its round."""
    for digest, sites in list(here.talking.items()):
        if here.store.stop_requested(digest):
            sites.hurry()
            del here.talking[digest]


def _run(here: Coordinator, row: StudyRow) -> None:
    """One study in its thread; however it ends, the store says how and the report is written."""
    try:
        _converse(here, row)
    except (StudyFailed, StudyStopped) as error:
        logger.warning("study %s: %s", row.study.name, error)
    except UnreachableError as error:
        logger.error("study %s waits for its transport: %s", row.study.name, error)
        here.stop.wait(RETRY_S)
        return
    except Exception as error:
        if here.stop.is_set():
            return
        logger.exception("study %s", row.study.name)
        cause = str(error) if isinstance(error, CohortiumError) else type(error).__name__
        here.store.end(row.digest, "failed", f"unexpected: {cause}", int(time.time() * 1000))
    _publish(here, here.store.study(row.digest))


def _converse(here: Coordinator, row: StudyRow) -> None:
    names = [name for name in row.study.sites.names if name in here.node_ids]
    members = here.roster.enrolled()
    sites = FlowerSites(here.superlink, {name: here.node_ids[name] for name in names})
    here.talking[row.digest] = sites
    completed = False
    try:
        talk = Conversation(
            study=row.digest,
            coordinator=here.config.name,
            key=here.key,
            peers={name: VerifyKey.from_text(members[name].signing_key) for name in names},
            sites=sites,
            stopped=lambda: _stopped(here, row.digest),
            now_ms=lambda: int(time.time() * 1000),
            sleep=lambda seconds: _pause(here, seconds),
            suspect=lambda site: _suspect(here, row.digest, site),
        )
        desk = Desk(
            talk=talk,
            store=here.store,
            log=here.log,
            actor=here.actor,
            now_ms=talk.now_ms,
        )
        run_study(row.study, desk)
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


def _stopped(here: Coordinator, digest: str) -> str:
    if here.stop.is_set():
        raise UnreachableError("the coordinator is being stopped")
    return here.store.stop_requested(digest)


def _pause(here: Coordinator, seconds: float) -> None:
    if here.stop.wait(seconds):
        raise UnreachableError("the coordinator is being stopped")


def _publish(here: Coordinator, row: StudyRow) -> None:
    out = here.directory.study(row.study.name, row.digest)
    try:
        publish(row, here.store, here.log, here.evidence, out)
    except (CohortiumError, OSError) as error:
        logger.error("study %s: its report could not be written: %s", row.study.name, error)


def _tls_version(tls: TlsFiles, port: int) -> str:
    """Shake hands with our own Fleet port as a site does, and see which TLS version it speaks."""
    context = ssl.create_default_context(cafile=str(tls.ca))
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5.0) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        return secured.version() or "unknown"
