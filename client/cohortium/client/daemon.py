"""The site daemon: connects out to the coordinator, answers it, and nothing else."""

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cohortium.client import halt, rotation, rounds
from cohortium.client.config import SiteDir
from cohortium.client.line import FleetConnection
from cohortium.client.node import serve
from cohortium.client.processes import Limits, Processes
from cohortium.client.siem_line import open_line
from cohortium.client.site import Site, open_site
from cohortium.client.whole import require_whole_records
from cohortium.client.withheld import watch
from cohortium.common import daemon
from cohortium.common.audit.stream import streaming
from cohortium.common.code import code_digest
from cohortium.common.errors import RefusedError

SPARE = 2  # requests answered beside those that train: an invitation or a farewell waits for none

logger = logging.getLogger("cohortium.site")


def run(root: Path, on_state: Callable[[str], None]) -> None:
    """Serve until a signal asks to stop.

    Args:
        on_state: told "online" and "offline", with the device at the first "online".

    Raises:
        CohortiumError: another daemon runs here, a file is wrong, or the coordinator refuses us.
    """
    directory = SiteDir(root)
    directory.load_config()
    rotation.require_enrolled(directory)
    with daemon.only_one(directory.lock, "a site daemon"):
        daemon.end_with_parent()
        site = open_site(root)
        with site.database:
            require_whole_records(site.database)
            site.watermark.keep()
            daemon.log_to(root / "site.log")
            _serve(site, daemon.stop_on_signals(), on_state)


def _serve(site: Site, stop: threading.Event, on_state: Callable[[str], None]) -> None:
    directory, config = site.directory, site.config
    memory_bytes = int(config.memory_gib * 2**30)
    workshop = Processes(
        config.name,
        Limits(
            config.device,
            config.threads,
            memory_bytes,
            config.studies_at_once,
            config.training.processes,
            config.training.sharded,
        ),
        directory.root,
        directory.load_dataset,
        halted=lambda study: _stopping(stop) or halt.refusal(site, study),
        on_start=lambda study, words: _record_worker(site, study, words),
    )
    busy = replace(site, workshop=workshop)
    site.log.append("log.started", actor=site.actor)
    site.notice(starting=True)
    connection = FleetConnection(
        address=config.coordinator.fleet_address,
        ca_certificate=directory.ca.read_bytes(),
        node_key=directory.node_key,
        name=config.name,
        upload_mbit_s=config.network.upload_mbit_s,
        download_mbit_s=config.network.download_mbit_s,
    )

    def tell(state: str) -> None:
        if state == "online":
            _record_coordinator(site)
        _say(site, state)
        on_state(state)

    def answer(request: bytes) -> bytes:
        handed_over = [request]
        del request  # only `rounds.answer` has it now, and lets it go before it makes its reply
        return rounds.answer(handed_over.pop(), busy)

    threading.Thread(target=watch, args=(site, stop), daemon=True).start()
    tell("connecting")
    with streaming(config.siem, site.log, site.database, open_line, directory.root):
        try:
            at_once = config.studies_at_once + SPARE
            serve(connection, answer, stop, tell, at_once)
        finally:
            workshop.close_all()


def _say(site: Site, state: str) -> None:
    """For `site status`; a full disk may silence it, and the daemon goes on."""
    facts = {"pid": os.getpid(), "state": state, "code": code_digest(), "since_ms": site.now_ms()}
    try:
        daemon.say(site.directory.status, **facts)
    except OSError as error:
        logger.error("%s: cannot be written (%s)", site.directory.status, error.strerror)


def _stopping(stop: threading.Event) -> RefusedError | None:
    """A daemon that is asked to end does not wait for its training; the round is asked again."""
    return RefusedError("site.stopping", "the site is being shut down") if stop.is_set() else None


def _record_coordinator(site: Site) -> None:
    """Who answered is who holds the certificate that the coordinator's authority issued."""
    peer = site.config.coordinator
    site.log.append(
        "auth.ok",
        actor=site.actor,
        detail={"address": peer.fleet_address, "issuer": peer.ca_fingerprint},
    )


def _record_worker(site: Site, study: str, isolation: str) -> None:
    """Where and how confined a study trains is part of the record."""
    site.log.append(
        "run.started", actor=site.actor, study=study, detail={"device": isolation[:200]}
    )
