"""The daemon's thread that has the log witnessed; it ends nothing and holds nothing up."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cohortium.common import timeouts
from cohortium.common.errors import CohortiumError, UnreachableError
from cohortium.common.identity import VerifyKey
from cohortium.server.consortium import Consortium
from cohortium.server.conversation import Conversation
from cohortium.server.flower_sites import FlowerSites
from cohortium.server.running import Coordinator
from cohortium.server.witnessing import Witnessing

logger = logging.getLogger("cohortium.coordinator")


def start_witnessing(here: Coordinator) -> threading.Thread:
    """Look twice a second whether the log has grown, until the daemon stops."""
    thread = threading.Thread(target=_run, args=(here,), daemon=True)
    thread.start()
    return thread


def _run(here: Coordinator) -> None:
    witnessing = Witnessing(
        Consortium(here.database, here.key, here.config.name),
        here.key,
        here.log,
        here.actor,
        peers=lambda: here.peers,
        online=lambda: here.online() & here.node_ids.keys(),
        busy=lambda: bool(here.talking),
        talk=lambda names: _talk(here, names),
        now_ms=lambda: int(time.time() * 1000),
        former=lambda site: [
            VerifyKey.from_text(one.signing_key) for one in here.roster.former() if one.name == site
        ],
    )
    while not here.stop.wait(timeouts.WITNESS_LOOK_S):
        try:
            witnessing.look()
        except CohortiumError as error:
            if not here.stop.is_set():
                logger.warning("the log could not be witnessed: %s", error)
            here.stop.wait(timeouts.TRANSPORT_AGAIN_S)
        except Exception:
            logger.exception("the log could not be witnessed")
            here.stop.wait(timeouts.WITNESS_AGAIN_S[0])


@contextmanager
def _talk(here: Coordinator, names: Sequence[str]) -> Iterator[Conversation]:
    """A run of the SuperLink, of no study, for as long as the block."""
    sites = FlowerSites(here.superlink, {name: here.node_ids[name] for name in names})
    here.witnesses.append(sites)
    completed = False
    try:
        yield Conversation(
            study="",
            coordinator=here.config.name,
            key=here.key,
            peers=here.peers,
            sites=sites,
            stopped=lambda: _stopped(here),
            now_ms=lambda: int(time.time() * 1000),
            sleep=here.pause,
        )
        completed = True
    finally:
        here.witnesses.remove(sites)
        sites.close(completed)


def _stopped(here: Coordinator) -> str:
    if here.stop.is_set():
        raise UnreachableError("the coordinator is being stopped")
    return ""
