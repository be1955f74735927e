"""One study through the real federation: in this process, or over daemons and TLS.

Either way a site is a state directory with a key, a policy, a signed approval and a privacy ledger,
and all that passes between it and the coordinator is a signed message.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tomli_w
from numpy.typing import NDArray
from tests.federation import Federation, approve, coordinate, make_any_site, set_policy
from tests.transport import free_port

from cohortium.client.cohort import Cohort, load_table, prepare
from cohortium.client.config import DatasetConfig
from cohortium.client.scoring import scores
from cohortium.client.site import Site
from cohortium.common.errors import CohortiumError, UnreachableError
from cohortium.common.identity import SigningKey
from cohortium.common.messages import Evaluated
from cohortium.common.metrics.tallies import SiteEvaluation
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.study import Study
from cohortium.server.coordinator import run_study
from cohortium.server.demo.processes import Daemon, command, stop_all
from cohortium.server.model_file import final_vector
from cohortium.server.opened import Opened, open_coordinator
from cohortium.server.store import RoundRecord

HOST = "127.0.0.1"
UP_S = 60.0
STUDY_S = 300.0
ROOM = 1.3  # a lifetime cap above what the study costs: the site's filter is conservative
DELTA_CAP = 1e-5

Tables = Mapping[str, Path]
Policy = Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a run left behind.

    Attributes:
        model: the final one, float32 (parameters,).
        accuracy, majority: of the model and of each site's more frequent class, on held-out
            patients; unweighted means over the sites.
        epsilon: the most that any site's ledger holds after the run; 0 without privacy.
    """

    model: NDArray[np.float32]
    accuracy: float
    majority: float
    epsilon: float


@dataclass(frozen=True, eq=False)
class Measured:
    """The last evaluation of a run, and the same patients for a comparison that pools them.

    Attributes:
        evaluations: by site, what it sent of its held-out patients.
        sent: bytes by site of that message.
        scores, labels: float64 and bool (held-out patients,) by site.
        levels: by site and fairness attribute, int16 (held-out patients,), -1 unknown.
    """

    evaluations: Mapping[str, SiteEvaluation]
    sent: Mapping[str, int]
    scores: Mapping[str, NDArray[np.float64]]
    labels: Mapping[str, NDArray[np.bool_]]
    levels: Mapping[str, Mapping[str, NDArray[np.int16]]]


def in_process(study: Study, tables: Tables, policy: Policy) -> Outcome:
    """Run a study at new sites that nobody has asked before; `tables` by site.

    Raises:
        CohortiumError: the study failed, or a site could not be measured.
    """
    with assembled(study, tables, policy) as federation:
        model = run_study(study, federation.desk(study))
        sites = federation.sites.values()
        spent = [site.ledger(study).balance().epsilon_spent for site in sites]
        return _outcome(model, federation.store.rounds(study.digest), max(spent), len(sites))


def measured(study: Study, tables: Tables, policy: Policy) -> Measured:
    """The same, for what was measured in the last round."""
    with assembled(study, tables, policy) as federation:
        model = run_study(study, federation.desk(study))
        last = federation.store.rounds(study.digest)[-1]
        cohorts = {name: _cohort(site, study) for name, site in federation.sites.items()}
        return Measured(
            evaluations=last.evaluations,
            sent={site: kinds[Evaluated.kind] for site, kinds in last.received.items()},
            scores={
                name: scores(study, model, cohort.test_features) for name, cohort in cohorts.items()
            },
            labels={name: cohort.test_labels > 0.5 for name, cohort in cohorts.items()},
            levels={name: cohort.test_attributes for name, cohort in cohorts.items()},
        )


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What a trained model says of all sites' held-out patients, and what is true.

    Attributes:
        model: the final one, float32 (parameters,).
        predictions: as `predictions` gives them, (n, ...); the sites one after another.
        outcomes: float64 (n,) or (n, columns), as they were observed.
        epsilon: the most that any site's ledger holds after the run; 0 without privacy.
    """

    model: NDArray[np.float32]
    predictions: NDArray[np.float64]
    outcomes: NDArray[np.float64]
    epsilon: float


def held_out(study: Study, tables: Tables, policy: Policy) -> HeldOut:
    """Run a study at new sites, then look at their held-out patients in one place.

    Raises:
        CohortiumError: the study failed.
    """
    with assembled(study, tables, policy) as federation:
        model = run_study(study, federation.desk(study))
        statistics = federation.store.statistics(study.digest)
        sites = federation.sites.values()
        cohorts = [_cohort(site, study, statistics) for site in sites]
        return HeldOut(
            model=model,
            predictions=np.concatenate(
                [scores(study, model, cohort.test_features) for cohort in cohorts]
            ),
            outcomes=np.concatenate([cohort.test_labels for cohort in cohorts]),
            epsilon=max(site.ledger(study).balance().epsilon_spent for site in sites),
        )


@contextmanager
def assembled(study: Study, tables: Tables, policy: Policy) -> Iterator[Federation]:
    """New sites below a temporary folder, which have approved the study."""
    with TemporaryDirectory() as name:
        root = Path(name)
        write_documents(study, root)
        key = SigningKey.generate()
        sites = {
            site: make_any_site(
                root / site,
                site,
                key.public,
                {study.data.dataset: _dataset(study, path, root)},
                policy,
            )
            for site, path in tables.items()
        }
        federation = coordinate(root, key, sites)
        try:
            for site in sites.values():
                approve(site, study)
            yield federation
        finally:
            federation.close()


def _cohort(site: Site, study: Study, statistics: Statistics | None = None) -> Cohort:
    dataset = site.directory.load_dataset(study.data.dataset)
    return prepare(load_table(study, dataset, site.name), study, site.name, statistics)


@dataclass(frozen=True)
class Daemons:
    """A coordinator and sites that run as processes below `root`."""

    root: Path
    sites: tuple[str, ...]

    @property
    def coordinator(self) -> Path:
        return self.root / "coordinator"

    def site(self, name: str) -> Path:
        return self.root / "sites" / name


@contextmanager
def daemons(root: Path, sites: tuple[str, ...]) -> Iterator[Daemons]:
    """Initialise, invite, join and start everything by its commands; nothing runs afterwards."""
    here, running = Daemons(root, sites), list[Daemon]()
    try:
        ports = ("--fleet-port", str(free_port()), "--enrolment-port", str(free_port()))
        command(
            "coordinator", "init", str(here.coordinator), "--name", "bench", "--host", HOST, *ports
        )
        running.append(_up("coordinator", here.coordinator, root))
        running[0].wait_until("up", UP_S)
        for site in sites:
            _join(here, site)
            running.append(_up("site", here.site(site), root))
        for daemon in running[1:]:
            daemon.wait_until("online", UP_S)
        yield here
    finally:
        stop_all(running)


def over_tls(here: Daemons, study: Study, tables: Tables, policy: Policy) -> Outcome:
    """Run a study at running daemons: data, policy, approval and budget by their commands.

    Raises:
        CohortiumError: a command or the study failed, or a site could not be measured.
    """
    folder = here.root / study.name
    folder.mkdir()
    path = write_documents(study, folder)
    for site, table in tables.items():
        set_policy(here.site(site) / "site.toml", policy)
        _register(here, site, study, table, folder)
    command("study", "submit", str(path), "--dir", str(here.coordinator))
    opened = open_coordinator(here.coordinator)
    try:
        _wait(lambda: len(opened.store.consents(study.digest)) == len(tables), UP_S)
        for site in tables:
            where = ("--dir", str(here.site(site)))
            command("site", "approve", study.name, "--as", "Dr. B. Mark", *where)
        return _result(here, study, opened)
    finally:
        opened.database.close()


def write_documents(study: Study, folder: Path) -> Path:
    """Write schema.toml and study.toml of a study; returns the path of study.toml."""
    values = study.model_dump(mode="json", exclude_none=True)
    (folder / "schema.toml").write_text(tomli_w.dumps(values.pop("data_model")))
    values["data"]["schema"] = "schema.toml"
    path = folder / "study.toml"
    path.write_text(tomli_w.dumps(values))
    return path


def _dataset(study: Study, table: Path, folder: Path) -> DatasetConfig:
    return DatasetConfig(
        path=table.resolve(),
        schema_file=folder / "schema.toml",
        epsilon_cap=_cap(study),
        delta_cap=DELTA_CAP,
    )


def _cap(study: Study) -> float:
    return ROOM * (study.privacy.epsilon or 1.0)


def _up(role: str, directory: Path, logs: Path) -> Daemon:
    return Daemon(role, "up", "--dir", str(directory), log=logs / f"{directory.name}.stderr")


def _join(here: Daemons, site: str) -> None:
    invitation = str(here.root / f"{site}.invite")
    command("coordinator", "invite", site, "--out", invitation, "--dir", str(here.coordinator))
    command("site", "join", invitation, "--dir", str(here.site(site)))


def _register(here: Daemons, site: str, study: Study, table: Path, folder: Path) -> None:
    caps = ("--epsilon-cap", f"{_cap(study):g}", "--delta-cap", f"{DELTA_CAP:g}")
    files = ("--path", str(table), "--schema", str(folder / "schema.toml"))
    where = ("--dir", str(here.site(site)))
    command("site", "data", "add", study.data.dataset, *files, *caps, *where)


def _result(here: Daemons, study: Study, opened: Opened) -> Outcome:
    _wait(lambda: opened.store.study(study.name).ended, STUDY_S)
    row = opened.store.study(study.name)
    if row.state != "completed":
        raise CohortiumError(f"{study.name} {row.state}: {row.cause}")
    spent = [_spent(here.site(site), study) for site in here.sites]
    rounds = opened.store.rounds(row.digest)
    return _outcome(final_vector(row, opened.store), rounds, max(spent), len(here.sites))


def _spent(directory: Path, study: Study) -> float:
    found = command("site", "budget", "--dir", str(directory))["datasets"]
    accounts = {account["dataset"]: account["epsilon_spent"] for account in found}
    return float(accounts[study.data.dataset])


def _outcome(
    model: NDArray[np.float32], rounds: list[RoundRecord], epsilon: float, sites: int
) -> Outcome:
    summary = rounds[-1].summary
    if summary is None or summary.accuracy.sites < sites:
        raise CohortiumError("a site could not be measured")
    accuracy, majority = summary.accuracy.unweighted, summary.majority.unweighted
    if accuracy is None or majority is None:
        raise CohortiumError("no site shows its accuracy; set minimum_cell = 0 for public data")
    return Outcome(model, accuracy, majority, epsilon)


def _wait(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise UnreachableError(f"nothing happened for {timeout_s:g} s")
        time.sleep(0.1)
