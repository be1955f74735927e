"""`coordinator up`: SuperLink, enrolment door and studies in one supervised process."""

import logging
import os
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cohortium.common import daemon, timeouts
from cohortium.common.audit.log import EventLog
from cohortium.common.audit.noticing import Noticing
from cohortium.common.audit.stream import streaming
from cohortium.common.database import Database
from cohortium.common.errors import CohortiumError, DocumentError, UnreachableError, UsageError
from cohortium.common.identity import (
    SigningKey,
    VerifyKey,
    certificate_fingerprint,
)
from cohortium.common.invitation import JoinReply, JoinRequest
from cohortium.server import certificates
from cohortium.server.config import CoordinatorConfig, CoordinatorDir
from cohortium.server.consortium import Consortium
from cohortium.server.database import open_coordinator_database
from cohortium.server.enrolment import EnrolmentService
from cohortium.server.opened import event_log
from cohortium.server.outcome import Evidence
from cohortium.server.roster import Roster
from cohortium.server.running import Coordinator
from cohortium.server.siem_line import open_line
from cohortium.server.store import Store
from cohortium.server.studies import (
    hurry_stopped,
    settle_debts,
    start_studies,
)
from cohortium.server.superlink import SuperLink, TlsFiles
from cohortium.server.witness_thread import start_witnessing

logger = logging.getLogger("cohortium.coordinator")


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
        with open_coordinator_database(directory.database) as database:
            log = event_log(database, config.name)
            here = _made(directory, config, database, log, stop)
            Consortium(database, here.key, config.name).require_whole()
            if certificates.due(directory, datetime.now(UTC)):
                certificates.renew(directory, config, log, here.actor, datetime.now(UTC))
            # The SuperLink only carries messages: what matters is in our own database.
            shutil.rmtree(directory.superlink, ignore_errors=True)
            here.superlink.start()
            try:
                with streaming(config.siem, log, database, open_line, root):
                    _serve(here, on_ready)
            finally:
                here.superlink.stop()


def _made(
    directory: CoordinatorDir,
    config: CoordinatorConfig,
    database: Database,
    log: EventLog,
    stop: threading.Event,
) -> Coordinator:
    return Coordinator(
        directory=directory,
        config=config,
        key=SigningKey.load(directory.signing_key),
        database=database,
        log=log,
        roster=Roster(database, log),
        store=Store(database),
        superlink=SuperLink(
            directory.superlink,
            _tls(directory),
            config.bind,
            config.fleet_port,
            directory.root / "superlink.log",
        ),
        evidence=Evidence(
            config=config,
            tls="",
            ca_fingerprint=certificate_fingerprint(directory.ca.read_bytes()),
        ),
        stop=stop,
    )


def _tls(directory: CoordinatorDir) -> TlsFiles:
    return TlsFiles(directory.ca, directory.certificate, directory.server_key)


def _serve(here: Coordinator, on_ready: Callable[[str], None]) -> None:
    tls = _tls_version(_tls(here.directory), here.config.fleet_port)
    here.evidence = replace(here.evidence, tls=tls)
    _open_door(here)
    try:
        here.log.append("log.started", actor=here.actor)
        here.threads[""] = start_witnessing(here)
        _notice(here, starting=True)
        _tell(here)
        on_ready(tls)
        _supervise(here)
    finally:
        _close_door(here)
        for sites in [*here.talking.values(), *here.witnesses]:
            sites.hurry()
        for thread in list(here.threads.values()):
            thread.join(5.0)
        here.directory.status.unlink(missing_ok=True)


def _open_door(here: Coordinator) -> None:
    """Let sites join, under the certificate that lies there now."""
    here.certificate = here.directory.certificate.read_bytes()
    here.door = EnrolmentService(
        here.config.bind,
        here.config.enrolment_port,
        _tls(here.directory),
        lambda request: _admit(here, request),
    )
    here.door.start()


def _close_door(here: Coordinator) -> None:
    if here.door is not None:
        here.door.stop()
        here.door = None


def _follow_certificate(here: Coordinator) -> None:
    """Renew the certificate in time; serve under a new one, whoever renewed it."""
    now = datetime.now(UTC)
    if certificates.due(here.directory, now):
        certificates.renew(here.directory, here.config, here.log, here.actor, now)
    if here.directory.certificate.read_bytes() == here.certificate:
        return
    logger.info("serving under a new certificate")
    _close_door(here)
    here.superlink.stop()
    here.superlink.start()
    _open_door(here)


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
    nodes_due = debts_due = 0.0
    silent = 0
    while not here.stop.is_set():
        try:
            if not here.superlink.alive() or silent >= timeouts.SUPERLINK_SILENT_TIMES:
                logger.error("the SuperLink ended or answers nothing; starting it again")
                here.superlink.stop()
                here.superlink.start()
            if time.monotonic() >= nodes_due:
                _follow_roster(here)
                _notice(here)
                _tell(here)
                nodes_due = time.monotonic() + timeouts.NODES_EVERY_S
                silent = 0
            start_studies(here)
            hurry_stopped(here)
            if time.monotonic() >= debts_due:
                settle_debts(here)
                _follow_certificate(here)
                debts_due = time.monotonic() + timeouts.DEBTS_EVERY_S
        except (CohortiumError, OSError) as error:
            logger.error("%s", error)
            silent += isinstance(error, UnreachableError)
            _tell_that_nobody_is_reached(here)
            here.stop.wait(timeouts.TRANSPORT_AGAIN_S)
        here.stop.wait(timeouts.TICK_S)


def _follow_roster(here: Coordinator) -> None:
    """Register who is enrolled, shut out who was revoked."""
    enrolled = here.roster.enrolled()
    keys = {name: VerifyKey.from_text(member.signing_key) for name, member in enrolled.items()}
    for name in [name for name in here.node_ids if keys.get(name) != here.peers.get(name)]:
        here.peers.pop(name, None)
        here.superlink.unregister_node(here.node_ids.pop(name))
        for sites in list(here.talking.values()):
            sites.hurry()  # nobody waits for its answer
    for name, member in enrolled.items():
        if name not in here.node_ids:
            here.node_ids[name] = here.superlink.register_node(member.node_key)
            here.peers[name] = keys[name]


def _notice(here: Coordinator, *, starting: bool = False) -> None:
    """Record that somebody edited coordinator.toml, once it is right again."""
    with suppress(DocumentError, UsageError):
        config, name = here.directory.load_config(), here.directory.config.name
        Noticing(here.database, here.log).settings(name, config, here.actor, starting=starting)


def _record_online(here: Coordinator, names: Iterable[str]) -> None:
    """A site that is online has shown, to the SuperLink, that it has its node key."""
    for name in names:
        detail = {"site": name, "fingerprint": here.peers[name].fingerprint}
        here.log.append("auth.ok", actor=here.actor, detail=detail)


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
    _record_online(here, [name for name, up in online.items() if up and not was.get(name)])
    since = {
        n: before[n] if was.get(n) == up and n in before else now_ms for n, up in online.items()
    }
    here.told = {"online": online, "since": since}
    daemon.say(
        here.directory.status, pid=os.getpid(), state="up", tls=here.evidence.tls, **here.told
    )


def _tell_that_nobody_is_reached(here: Coordinator) -> None:
    """While the transport is away no site is online, whatever was said before."""
    here.told = {}
    try:
        daemon.say(
            here.directory.status,
            pid=os.getpid(),
            state="without transport",
            tls=here.evidence.tls,
            online={},
        )
    except OSError as error:
        logger.error("%s", error.strerror)


def _tls_version(tls: TlsFiles, port: int) -> str:
    """Shake hands with our own Fleet port as a site does, and see which TLS version it speaks."""
    context = ssl.create_default_context(cafile=str(tls.ca))
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5.0) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        return secured.version() or "unknown"
