"""The files of a site's state directory.

site.toml            who we are, whom we trust, what we allow (written by join, edited by people)
paused.json          there while a person has paused all studies
equivocation.json    there while two histories of the coordinator's log stand against it
workers/, scratch/   training processes that run now, and their temporary files
datasets/NAME.toml   one registered dataset each: path, schema, lifetime privacy cap
keys/                node.key (transport), signing.key (messages, approvals): mode 0600
keys/retired/        those of before, sealed: their public halves verify what was signed then
incident.json        there while an incident is in force; incidents/ holds what was made for it
ca.pem               the coordinator's certificate authority
site.db              studies, approvals, privacy ledger, stored replies, event log
site.mark            how much of it there was when an answer last left; see watermark.py
site.lock            held while the daemon runs
daemon.json          what the daemon last said of itself
siem.json            what its stream of events to the SIEM last said of itself
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import tomli_w
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from cohortium.common.audit.retention import Retention
from cohortium.common.audit.siem import SiemConfig
from cohortium.common.document import Document, load
from cohortium.common.errors import DocumentError, UsageError
from cohortium.common.files import write_whole as write_whole
from cohortium.common.models.options import NAMES
from cohortium.common.people import PublicKey
from cohortium.common.purpose import DUO_CODES
from cohortium.common.schema import Name, Schema, load_schema

HOURS = r"^(|([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d)$"


class CoordinatorPeer(Document):
    """The one coordinator that this site answers."""

    name: Name
    fleet_address: str
    enrolment_address: str = ""  # tells the doctor the coordinator's time
    signing_key: str
    ca_fingerprint: str


class Policy(Document):
    """What a study may do here. Every default denies; see docs/site-policy.md."""

    purposes: tuple[str, ...] = ()
    models: tuple[str, ...] = NAMES
    max_rounds: PositiveInt = 100
    max_epsilon_per_study: PositiveFloat = 4.0
    minimum_patients: PositiveInt = 20
    minimum_cell: Annotated[int, Field(ge=0)] = 10
    may_leave: tuple[Literal["update", "evaluated", "measured"], ...] = (
        "update",
        "evaluated",
        "measured",
    )
    approvals_needed: Annotated[int, Field(ge=1, le=2)] = 1
    approval_days: PositiveInt = 365
    hours: Annotated[str, Field(pattern=HOURS)] = ""
    require_secure_aggregation: bool = False
    allow_unprotected: bool = False
    allow_exact_counts: bool = False
    allow_own_model: bool = False
    allow_explanations: bool = False


class AutoApprove(Document):
    """A named rule under which studies with privacy are approved without a person."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    purposes: tuple[str, ...]
    datasets: tuple[Name, ...]
    max_epsilon: PositiveFloat
    max_rounds: PositiveInt


class Network(Document):
    """The most of the link that models may take, in 10^6 bits a second; None for what it gives."""

    upload_mbit_s: PositiveFloat | None = None
    download_mbit_s: PositiveFloat | None = None


class LocalTraining(Document):
    """In how many processes a study trains here, each with a GPU of its own where there are GPUs.

    sharded: each holds a part of the model only, for one that does not fit a single device.
    """

    processes: Annotated[int, Field(ge=1, le=64)] = 1
    sharded: bool = False

    @model_validator(mode="after")
    def _shared_by_several(self) -> Self:
        if self.sharded and self.processes == 1:
            raise ValueError("sharded needs processes of 2 or more: one holds all of a model")
        return self


class SiteConfig(Document):
    """site.toml. Where `people` names anybody, only its approvers may approve.

    auditors: public keys (base64) of those who may read and export and nothing else, by name.
    """

    name: Name
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    threads: PositiveInt = 1
    memory_gib: PositiveFloat = 8.0
    studies_at_once: PositiveInt = 2
    coordinator: CoordinatorPeer
    policy: Policy
    network: Network = Network()
    training: LocalTraining = LocalTraining()
    auto_approve: tuple[AutoApprove, ...] = ()
    people: Mapping[str, Literal["operator", "approver", "officer", "auditor"]] = {}
    auditors: Mapping[str, PublicKey] = {}
    siem: SiemConfig | None = None
    retention: Retention = Retention()


class DatasetConfig(Document):
    """datasets/NAME.toml: where a table lies and how much privacy it has to give, ever.

    `withdrawn` says by whom and when, where no study may use the table any more.
    """

    path: Path = Field(strict=False)
    schema_file: Path = Field(strict=False)
    epsilon_cap: PositiveFloat
    delta_cap: Annotated[float, Field(gt=0, le=1e-2)]
    withdrawn: str | None = None


@dataclass(frozen=True)
class Dataset:
    """A registered dataset with its schema loaded."""

    name: str
    path: Path
    data_model: Schema
    epsilon_cap: float
    delta_cap: float


@dataclass(frozen=True)
class SiteDir:
    """Names of the files in a state directory; nothing is read here."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "site.toml"

    @property
    def node_key(self) -> Path:
        return self.root / "keys" / "node.key"

    @property
    def signing_key(self) -> Path:
        return self.root / "keys" / "signing.key"

    @property
    def unenrolled(self) -> Path:
        """There while the keys are new ones that the coordinator does not know yet."""
        return self.root / "keys" / "unenrolled"

    @property
    def ca(self) -> Path:
        return self.root / "ca.pem"

    @property
    def database(self) -> Path:
        return self.root / "site.db"

    @property
    def mark(self) -> Path:
        return self.root / "site.mark"

    @property
    def lock(self) -> Path:
        return self.root / "site.lock"

    @property
    def paused(self) -> Path:
        return self.root / "paused.json"

    @property
    def equivocation(self) -> Path:
        return self.root / "equivocation.json"

    @property
    def status(self) -> Path:
        return self.root / "daemon.json"

    def dataset(self, name: str) -> Path:
        return self.root / "datasets" / f"{name}.toml"

    def load_config(self) -> SiteConfig:
        """Read site.toml; says how to make one where there is none."""
        if not self.config.exists():
            raise UsageError(
                f"{self.root} is no site's directory (no site.toml): run "
                "`cohortium site join INVITE --dir DIR` first, or give the right --dir"
            )
        config = load(self.config, SiteConfig)
        unknown = set(config.policy.purposes) - set(DUO_CODES)
        if unknown:
            raise DocumentError(
                f"{self.config}: policy.purposes: {sorted(unknown)} are no Data Use Ontology "
                f"codes; known: {', '.join(DUO_CODES)}"
            )
        return config

    def datasets(self) -> tuple[str, ...]:
        """Names of the registered datasets."""
        return tuple(sorted(path.stem for path in (self.root / "datasets").glob("*.toml")))

    def load_dataset(self, name: str) -> Dataset:
        """Read datasets/NAME.toml and its schema; DocumentError names what is wrong."""
        config = self.load_dataset_config(name)
        return Dataset(
            name=name,
            path=config.path,
            data_model=load_schema(config.schema_file),
            epsilon_cap=config.epsilon_cap,
            delta_cap=config.delta_cap,
        )

    def load_dataset_config(self, name: str) -> DatasetConfig:
        """Read datasets/NAME.toml alone; DocumentError names what is wrong."""
        path = self.dataset(name)
        if not path.exists():
            known = ", ".join(self.datasets()) or "none"
            raise DocumentError(
                f'no dataset "{name}" is registered here (known: {known}): the site operator runs '
                f"`cohortium site data add {name} --path TABLE --schema SCHEMA`"
            )
        return load(path, DatasetConfig)

    def is_withdrawn(self, name: str) -> bool:
        """Whether a dataset is registered, and no study may use it any more."""
        return self.dataset(name).exists() and bool(self.load_dataset_config(name).withdrawn)

    def write_dataset(self, name: str, config: DatasetConfig) -> None:
        """Register a dataset; the file is whole or absent."""
        values = config.model_dump(mode="json", exclude_none=True)
        write_whole(self.dataset(name), tomli_w.dumps(values))


POLICY_TEXT = f"""\
# What a study may do at this hospital. Default deny: with no purpose allowed, no study can run.
# A refusal names the key below that refused. A change takes effect at once.
[policy]
purposes = []                  # Data Use Ontology codes that you allow, such as "HMB", "DS", "GRU"
models = {json.dumps(NAMES)}
max_rounds = 100
max_epsilon_per_study = 4.0    # privacy that one study may spend of a dataset's lifetime cap
minimum_patients = 20          # smaller cohorts take part in nothing
minimum_cell = 10              # results about fewer patients never leave (0 switches that off)
may_leave = ["update", "evaluated", "measured"]  # kinds of message with results of patients
approvals_needed = 1           # 2 asks for two persons
approval_days = 365            # how long an approval holds
hours = ""                     # "20:00-06:00" trains only then, in local time
require_secure_aggregation = false  # true refuses until updates are masked from the coordinator
allow_unprotected = false      # true lets studies without differential privacy run
allow_exact_counts = false     # true lets exact numbers of patients leave
allow_own_model = false        # true lets counts leave that depend on models trained without noise
allow_explanations = false     # true lets means of what a model goes by leave, over enough patients
"""


def with_peer(text: str, peer: CoordinatorPeer) -> str:
    """A site.toml that people have edited, with another [coordinator] and else as it is."""
    lines = text.splitlines()
    begin = lines.index("[coordinator]") + 1
    size = next((k for k, line in enumerate(lines[begin:]) if line.startswith("[")), None)
    end = len(lines) if size is None else begin + size
    values = tomli_w.dumps(peer.model_dump()).splitlines()
    keys = {line.split(" = ")[0] for line in values}
    kept = [line for line in lines[begin:end] if line.split("=")[0].strip() not in keys]
    changed = "\n".join([*lines[:begin], *values, *kept, *lines[end:], ""])
    before, after = tomllib.loads(text), tomllib.loads(changed)
    if after != {**before, "coordinator": peer.model_dump()}:
        raise DocumentError("site.toml: [coordinator] is not written as `join` wrote it")
    return changed


def site_toml(name: str, peer: CoordinatorPeer) -> str:
    """The first site.toml: identity from enrolment, policy that allows nothing yet."""
    head = tomli_w.dumps(
        {
            "name": name,
            "device": "auto",
            "threads": 1,
            "memory_gib": 8.0,
            "studies_at_once": 2,
            "coordinator": peer.model_dump(),
        }
    )
    text = f"# Written once by `cohortium site join`; yours to edit.\n{head}\n{POLICY_TEXT}"
    tomllib.loads(text)
    return text
