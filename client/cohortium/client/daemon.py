"""The site daemon: connects out to the coordinator, answers it, and nothing else."""

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cohortium.client import halt, rounds
from cohortium.client.config import SiteDir
from cohortium.client.node import FleetConnection, serve
from cohortium.client.processes import Limits, Processes
from cohortium.client.site import Site, open_site
from cohortium.common import daemon
from cohortium.common.code import code_digest
from cohortium.common.errors import RefusedError


def run(root: Path, on_state: Callable[[str], None]) -> None:
    """Serve until a signal asks to stop.

    Args:
        on_state: told "online" and "offline", with the device at the first "online".

    Raises:
        CohortiumError: another daemon runs here, a file is wrong, or the coordinator refuses us.
    """
    directory = SiteDir(root)
    config = directory.load_config()
    with daemon.only_one(directory.lock, "a site daemon"):
        daemon.end_with_parent()
        stop = daemon.stop_on_signals()
        daemon.log_to(root / "site.log")
        opened = open_site(root)
        limits = Limits(config.device, config.threads, int(config.memory_gib * 2**30))
        workshop = Processes(
            config.name,
            limits,
            root,
            directory.load_dataset,
            halted=lambda study: _stopping(stop) or halt.refusal(opened, study),
            on_start=lambda study, words: _record_worker(opened, study, words),
        )
        site = replace(opened, workshop=workshop)
        site.log.append("log.started", actor=site.actor)
        connection = FleetConnection(
            address=config.coordinator.fleet_address,
            ca_certificate=directory.ca.read_bytes(),
            node_key=directory.node_key,
            name=config.name,
        )

        def tell(state: str) -> None:
            daemon.say(
                directory.status,
                pid=os.getpid(),
                state=state,
                code=code_digest(),
                since_ms=site.now_ms(),
            )
            on_state(state)

        tell("connecting")
        try:
            serve(connection, lambda request: rounds.answer(request, site), stop, tell)
        finally:
            workshop.close_all()
            site.database.close()


def _stopping(stop: threading.Event) -> RefusedError | None:
    """A daemon that is asked to end does not wait for its training; the round is asked again."""
    return RefusedError("site.stopping", "the site is being shut down") if stop.is_set() else None


def _record_worker(site: Site, study: str, isolation: str) -> None:
    """Where and how confined a study trains is part of the record."""
    site.log.append(
        "run.started", actor=site.actor, study=study, detail={"device": isolation[:200]}
    )
