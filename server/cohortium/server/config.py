"""The files of a coordinator's state directory.

coordinator.toml     name, host and ports
keys/                ca.key, server.key, signing.key: mode 0600
ca.pem server.pem    certificate authority and the server's certificate
coordinator.db       sites, invitations, studies, rounds, checkpoints, event log
coordinator.lock     held while `coordinator up` runs
daemon.json          what it last said of itself
siem.json            what its stream of events to the SIEM last said of itself
superlink/           Flower's state, replaceable at any time
studies/NAME/        final model, report
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cohortium.common.audit.retention import Retention
from cohortium.common.audit.siem import SiemConfig
from cohortium.common.document import Document, load
from cohortium.common.errors import UsageError
from cohortium.common.people import PublicKey
from cohortium.common.schema import Name

Role = Literal["lead", "operator", "officer", "auditor"]
Port = Annotated[int, Field(ge=1, le=65_535)]


class CoordinatorConfig(Document):
    """coordinator.toml.

    host: the name or address that sites dial; bind: where we listen. studies_at_once: how many
    studies may train at the same time; the others wait in the order in which they were approved.
    people: where it names anybody, only they may act, each by role: a `lead` everything but to
    release a model, which an `officer` does (nobody releases their own study), an `operator` all
    but studies, an `auditor` nothing but reading. The names are those of the operating system's
    users. auditors: public keys (base64) of those who may read and export and nothing else.
    """

    name: Name
    host: Annotated[str, Field(min_length=1, max_length=253)]
    bind: str = "0.0.0.0"
    fleet_port: Port = 9092
    enrolment_port: Port = 9093
    studies_at_once: Annotated[int, Field(ge=1, le=100)] = 4
    people: Mapping[str, Role] = {}
    auditors: Mapping[str, PublicKey] = {}
    siem: SiemConfig | None = None
    retention: Retention = Retention()


@dataclass(frozen=True)
class CoordinatorDir:
    """Names of the files in a state directory; nothing is read here but coordinator.toml."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "coordinator.toml"

    @property
    def signing_key(self) -> Path:
        return self.root / "keys" / "signing.key"

    @property
    def ca_key(self) -> Path:
        return self.root / "keys" / "ca.key"

    @property
    def server_key(self) -> Path:
        return self.root / "keys" / "server.key"

    @property
    def ca(self) -> Path:
        return self.root / "ca.pem"

    @property
    def certificate(self) -> Path:
        return self.root / "server.pem"

    @property
    def database(self) -> Path:
        return self.root / "coordinator.db"

    @property
    def lock(self) -> Path:
        return self.root / "coordinator.lock"

    @property
    def status(self) -> Path:
        return self.root / "daemon.json"

    @property
    def superlink(self) -> Path:
        return self.root / "superlink"

    def study(self, name: str, digest: str) -> Path:
        return self.root / "studies" / f"{name}-{digest[:8]}"

    def report(self, name: str, digest: str) -> Path:
        return self.study(name, digest) / "report.html"

    def load_config(self) -> CoordinatorConfig:
        """Read coordinator.toml; says how to make one where there is none."""
        if not self.config.exists():
            raise UsageError(
                f"{self.root} is no coordinator's directory (no coordinator.toml): run "
                "`cohortium coordinator init DIR --name NAME --host HOST` first, or give the "
                "right --dir"
            )
        return load(self.config, CoordinatorConfig)
