"""The parts of a running coordinator, as the daemon and its studies share them."""

import threading
from dataclasses import dataclass, field

from cohortium.common.audit.events import Actor
from cohortium.common.audit.log import EventLog
from cohortium.common.database import Database
from cohortium.common.errors import UnreachableError
from cohortium.common.identity import SigningKey, VerifyKey
from cohortium.server.config import CoordinatorConfig, CoordinatorDir
from cohortium.server.enrolment import EnrolmentService
from cohortium.server.flower_sites import FlowerSites
from cohortium.server.outcome import Evidence
from cohortium.server.roster import Roster
from cohortium.server.store import Store
from cohortium.server.superlink import SuperLink
from cohortium.server.turns import Turns


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
    door: EnrolmentService | None = None
    certificate: bytes = b""
    node_ids: dict[str, int] = field(default_factory=dict)
    peers: dict[str, VerifyKey] = field(default_factory=dict)
    threads: dict[str, threading.Thread] = field(default_factory=dict)
    talking: dict[str, FlowerSites] = field(default_factory=dict)
    witnesses: list[FlowerSites] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    told: dict[str, object] = field(default_factory=dict)
    turns: Turns = field(init=False)

    def __post_init__(self) -> None:
        self.turns = Turns(self.config.studies_at_once, self.pause)

    @property
    def actor(self) -> Actor:
        fingerprint = self.key.public.fingerprint
        return Actor(type="coordinator", id=self.config.name, auth=f"signature:{fingerprint}")

    def online(self) -> set[str]:
        """The sites that were online when the SuperLink was last asked."""
        said = self.told.get("online", {})
        assert isinstance(said, dict)
        return {name for name, up in said.items() if up}

    def pause(self, seconds: float) -> None:
        """Wait; UnreachableError as soon as the coordinator is being stopped."""
        if self.stop.wait(seconds):
            raise UnreachableError("the coordinator is being stopped")
