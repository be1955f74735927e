"""A whole federation in one process: real sites, real codec, policy and ledger, no sockets."""

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import tomli_w

from cohortium.client import rounds
from cohortium.client.config import CoordinatorPeer, DatasetConfig, SiteDir, site_toml
from cohortium.client.site import Site, open_site
from cohortium.common.audit.events import Actor
from cohortium.common.audit.log import EventLog
from cohortium.common.document import Document
from cohortium.common.identity import SigningKey, VerifyKey
from cohortium.common.study import Study, load_study
from cohortium.server.conversation import Conversation
from cohortium.server.database import open_coordinator_database
from cohortium.server.desk import Desk
from cohortium.server.store import Store

COORDINATOR = "consortium"

SCHEMA = """
name = "ward"

[columns.age]
kind = "number"
low = 18
high = 100
unit = "years"

[columns.sex]
kind = "flag"
no_label = "female"
yes_label = "male"

[columns.marker]
kind = "number"
low = 0
high = 10

[columns.ill]
kind = "flag"
"""

PRIVATE = """
[training]
rounds = 4
batches = "poisson"
local_steps = 5
sample_rate = 0.2
learning_rate = 0.5

[privacy]
mechanism = "gaussian"
epsilon = 3.0
delta = 1e-5
clip_norm = 1.0
"""

FULL = """
[training]
rounds = 3
batches = "full"

[strategy]
learning_rate = 2.0

[privacy]
mechanism = "gaussian"
epsilon = 3.0
delta = 1e-5
clip_norm = 1.0
"""

PLAIN = """
[training]
rounds = 4
batches = "shuffle"
batch_size = 16
local_steps = 10
learning_rate = 0.2

[privacy]
mechanism = "none"
"""

STUDY = """
name = "ward-study"

[purpose]
text = "Tell ill from well patients by age, sex and marker."
duo = "HMB"
legal_basis = "test data, nobody's"

[data]
schema = "schema.toml"
dataset = "ward"
features = ["age", "sex", "marker"]

[task]
kind = "binary"
label = "ill"
positive_codes = ["1"]

[model]
name = "logistic"

[split]
test_fraction = 0.3

[fairness]
attributes = ["sex", "age"]
[fairness.bands]
age = [50]

[sites]
names = ["a", "b", "c"]
min_sites = 2
round_deadline = 60.0
approval_deadline = 5.0
"""


def clock() -> datetime:
    return datetime.now(UTC)


def write_ward(path: Path, seed: int, patients: int = 200) -> Path:
    """A table in which marker and age decide, with noise, who is ill."""
    rng = np.random.default_rng(seed)
    age = rng.integers(20, 90, patients)
    sex = rng.integers(0, 2, patients)
    marker = rng.uniform(0, 10, patients)
    score = (marker - 5) + (age - 55) / 20 + rng.normal(0, 1, patients)
    rows = zip(age, sex, marker, (score > 0).astype(int), strict=True)
    lines = [f"{a},{s},{m:.2f},{ill}" for a, s, m, ill in rows]
    path.write_text("age,sex,marker,ill\n" + "\n".join(lines) + "\n")
    return path


def write_study(
    directory: Path, *parts: str, name: str = "ward-study", round_deadline: float = 60.0
) -> Study:
    """schema.toml and study.toml made of STUDY and `parts`; returns the loaded study."""
    (directory / "schema.toml").write_text(SCHEMA)
    text = STUDY.replace("ward-study", name) + "".join(textwrap.dedent(part) for part in parts)
    text = text.replace("round_deadline = 60.0", f"round_deadline = {round_deadline}")
    (directory / "study.toml").write_text(text)
    return load_study(directory / "study.toml")


def write_toml(path: Path, document: Document) -> Path:
    """A document as a person would write it."""
    path.write_text(tomli_w.dumps(document.model_dump(mode="json", exclude_none=True)))
    return path


def make_site(
    root: Path,
    name: str,
    coordinator: VerifyKey,
    *,
    patients: int = 200,
    policy: Mapping[str, str] | None = None,
    epsilon_cap: float = 10.0,
) -> Site:
    """A site with a ward's table, and a policy that allows the test study."""
    root.mkdir(parents=True)
    table = write_ward(root / "ward.csv", seed=sum(map(ord, name)), patients=patients)
    (root / "schema.toml").write_text(SCHEMA)
    config = DatasetConfig(
        path=table,
        schema_file=root / "schema.toml",
        epsilon_cap=epsilon_cap,
        delta_cap=1e-5,
    )
    allowed = {"purposes": '["HMB"]', **(policy or {})}
    return make_any_site(root, name, coordinator, {"ward": config}, allowed)


def make_any_site(
    root: Path,
    name: str,
    coordinator: VerifyKey,
    datasets: Mapping[str, DatasetConfig],
    policy: Mapping[str, str],
) -> Site:
    """A site as `join`, an editor and `data add` would leave it."""
    directory = SiteDir(root)
    directory.signing_key.parent.mkdir(parents=True)
    SigningKey.generate().save(directory.signing_key)
    peer = CoordinatorPeer(
        name=COORDINATOR,
        fleet_address="127.0.0.1:1",
        signing_key=coordinator.text,
        ca_fingerprint="",
    )
    directory.config.write_text(site_toml(name, peer))
    set_policy(directory.config, policy)
    for dataset, config in datasets.items():
        directory.write_dataset(dataset, config)
    return open_site(root)


def set_policy(config: Path, policy: Mapping[str, str]) -> None:
    """Set keys of site.toml's [policy], given as TOML, like a person with an editor."""
    text = config.read_text()
    for key, value in policy.items():
        line = next(line for line in text.splitlines() if line.startswith(f"{key} ="))
        text = text.replace(line, f"{key} = {value}")
    config.write_text(text)


def approve(site: Site, study: Study, person: str = "Dr. Weiss") -> None:
    """What `site approve` does."""
    site.studies.receive(study, site.now_ms())
    site.sign(study, person)


@dataclass
class InProcessSites:
    """`Sites` by function call; `wire` keeps every byte that went either way."""

    sites: Mapping[str, Site]
    wire: list[tuple[str, bytes, bytes]] = field(default_factory=list)

    def ask(
        self, heads: Mapping[str, bytes], body: bytes, deadline_s: float
    ) -> Iterator[tuple[str, bytes]]:
        for name, head in heads.items():
            if name in self.sites:
                request = head + body
                reply = rounds.answer(request, self.sites[name])
                self.wire.append((name, request, reply))
                yield name, reply


@dataclass
class Federation:
    """A coordinator with its sites."""

    root: Path
    key: SigningKey
    sites: dict[str, Site]
    store: Store
    log: EventLog
    transport: InProcessSites

    @property
    def actor(self) -> Actor:
        return Actor(type="coordinator", id=COORDINATOR, auth="local")

    def desk(self, study: Study) -> Desk:
        """As the daemon makes it, after `study submit`."""
        self.store.submit(study, 0)
        talk = Conversation(
            study=study.digest,
            coordinator=COORDINATOR,
            key=self.key,
            peers={name: site.key.public for name, site in self.sites.items()},
            sites=self.transport,
            stopped=lambda: self.store.stop_requested(study.digest),
            now_ms=lambda: int(clock().timestamp() * 1000),
            sleep=lambda _: None,
        )
        return Desk(
            talk=talk,
            store=self.store,
            log=self.log,
            actor=self.actor,
            now_ms=talk.now_ms,
        )

    def close(self) -> None:
        """Let go of every database."""
        for site in self.sites.values():
            site.database.close()
        self.store.database.close()


def federate(
    root: Path,
    names: tuple[str, ...] = ("a", "b", "c"),
    *,
    policy: Mapping[str, str] | None = None,
    epsilon_cap: float = 10.0,
    patients: int = 200,
) -> Federation:
    """A coordinator and so many enrolled sites below `root`."""
    key = SigningKey.generate()
    sites = {
        name: make_site(
            root / name,
            name,
            key.public,
            policy=policy,
            epsilon_cap=epsilon_cap,
            patients=patients,
        )
        for name in names
    }
    return coordinate(root, key, sites)


def coordinate(root: Path, key: SigningKey, sites: dict[str, Site]) -> Federation:
    """A coordinator below `root` for sites that know its key."""
    database = open_coordinator_database(root / "coordinator.db")
    return Federation(
        root=root,
        key=key,
        sites=sites,
        store=Store(database),
        log=EventLog(database, COORDINATOR, COORDINATOR, clock),
        transport=InProcessSites(sites),
    )
