"""The demonstration itself: the commands that people type, in the order in which they would."""

import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from cohortium.common import newton
from cohortium.common.errors import UnreachableError
from cohortium.common.messages import Consent
from cohortium.common.study import Study, load_study
from cohortium.server.config import CoordinatorDir
from cohortium.server.demo.data import DemoData
from cohortium.server.demo.processes import Daemon, command, stop_all
from cohortium.server.demo.releasing import release, site_model
from cohortium.server.demo.sealing import seal
from cohortium.server.opened import Opened, open_coordinator
from cohortium.server.progress import line
from cohortium.server.store import RoundRecord, StudyRow

NAME = "demo-consortium"
HOST = "127.0.0.1"
UP_S = 60.0
MAX_ROUNDS, MAX_EPSILON = 100, 4.0  # that a new site allows
ROOM = 1.3  # a lifetime cap a little above what the study costs: the filter is conservative
APPROVERS = ("Dr. A. Weiss", "Dr. B. Okafor", "Dr. C. Lindqvist", "Dr. D. Moreau")

Say = Callable[[str], None]


@dataclass
class Demo:
    """One run below `workdir`; everything that it starts, `close` ends."""

    workdir: Path
    data: DemoData
    say: Say
    daemons: list[Daemon] = field(default_factory=list)

    @property
    def coordinator_dir(self) -> Path:
        return self.workdir / "coordinator"

    def site_dir(self, site: str) -> Path:
        return self.workdir / "sites" / site

    def close(self) -> None:
        """End every process."""
        daemons, self.daemons = self.daemons, []
        stop_all(daemons)


def run(demo: Demo) -> dict[str, Any]:
    """From nothing to a released model; returns what `cohortium demo --json` prints."""
    started = time.monotonic()
    study = load_study(demo.data.study)
    tls = _start_coordinator(demo)
    _start_sites(demo, study)
    opened = open_coordinator(demo.coordinator_dir)
    command("study", "submit", str(demo.data.study), "--dir", str(demo.coordinator_dir))
    demo.say(f"study {study.name} submitted   digest {study.digest[:16]}...")
    _approve(demo, study, opened)
    row, rounds = _follow(demo, study, opened)
    budgets = _each_site(demo, lambda site: _budget(demo, site, study))
    seconds = time.monotonic() - started
    return _finish(demo, opened, row, rounds, budgets, {"tls": tls, "seconds": round(seconds, 1)})


def _start_coordinator(demo: Demo) -> str:
    fleet, enrolment = _free_port(), _free_port()
    where = str(demo.coordinator_dir)
    ports = ("--fleet-port", str(fleet), "--enrolment-port", str(enrolment))
    made = command("coordinator", "init", where, "--name", NAME, "--host", HOST, *ports)
    demo.say(f"coordinator {NAME}: CA fingerprint {made['ca_fingerprint'][:29]}...")
    daemon = Daemon("coordinator", "up", "--dir", where, log=demo.workdir / "coordinator.stderr")
    demo.daemons.append(daemon)
    tls = str(daemon.wait_until("up", UP_S)["tls"])
    demo.say(f"coordinator is up on {HOST}:{fleet} ({tls})")
    return tls


def _start_sites(demo: Demo, study: Study) -> None:
    """Invite, join, allow, register; then one daemon for each hospital."""
    _each_site(demo, lambda site: _join(demo, study, site))
    for site in demo.data.sites:  # from the main thread: a daemon ends with the thread it came from
        directory = demo.site_dir(site)
        daemon = Daemon("site", "up", "--dir", str(directory), log=directory / "up.stderr")
        demo.daemons.append(daemon)
    for site, daemon in zip(demo.data.sites, demo.daemons[1:], strict=True):
        daemon.wait_until("online", UP_S)
        demo.say(f"site {site} joined and is online")


def _join(demo: Demo, study: Study, site: str) -> None:
    directory, invitation = demo.site_dir(site), demo.workdir / f"{site}.invite"
    where = ("--dir", str(demo.coordinator_dir))
    command("coordinator", "invite", site, "--out", str(invitation), *where)
    command("site", "join", str(invitation), "--dir", str(directory))
    _allow(directory / "site.toml", study, demo.data.minimum_cell)
    cap = ROOM * (study.privacy.epsilon or 1.0)
    command(
        *("site", "data", "add", study.data.dataset, "--dir", str(directory)),
        *("--path", str(demo.data.csv[site]), "--schema", str(demo.data.schema)),
        *("--epsilon-cap", f"{cap:g}", "--delta-cap", f"{study.privacy.delta or 1e-5:g}"),
    )


def _allow(site_toml: Path, study: Study, minimum_cell: int) -> None:
    """What a site's operator would do in an editor: allow this purpose; these data are public."""
    text = site_toml.read_text(encoding="utf-8")
    text = re.sub(r"(?m)^purposes = \[\]", f'purposes = ["{study.purpose.duo}"]', text)
    text = re.sub(r"(?m)^minimum_cell = \d+", f"minimum_cell = {minimum_cell}", text)
    rounds, epsilon = study.rounds_in_all, study.privacy.epsilon
    if epsilon is None:
        text = re.sub(r"(?m)^allow_unprotected = false", "allow_unprotected = true", text)
    if study.strategy.weighting == "exact" or newton.asked(study):
        text = re.sub(r"(?m)^allow_exact_counts = false", "allow_exact_counts = true", text)
    if study.explanation is not None:
        text = re.sub(r"(?m)^allow_explanations = false", "allow_explanations = true", text)
    if rounds > MAX_ROUNDS:
        text = re.sub(r"(?m)^max_rounds = \d+", f"max_rounds = {rounds}", text)
    if (epsilon or 0.0) > MAX_EPSILON:
        wanted = f"max_epsilon_per_study = {epsilon}"
        text = re.sub(r"(?m)^max_epsilon_per_study = \S+", wanted, text)
    site_toml.write_text(text, encoding="utf-8")


def _approve(demo: Demo, study: Study, opened: Opened) -> None:
    """Wait until the invitation has reached every site, show one sheet, sign at each."""
    deadline = time.monotonic() + UP_S
    while len(opened.store.consents(study.digest)) < len(demo.data.sites):
        if time.monotonic() > deadline:
            raise UnreachableError("the invitation has not reached every site")
        time.sleep(0.1)
    for site, consent in opened.store.consents(study.digest).items():
        if consent.decision == "refused":
            demo.say(f"site {site} refuses: {consent.rule}: {consent.explanation}")
    persons = dict(zip(demo.data.sites, cycle(APPROVERS), strict=False))
    first = demo.data.sites[0]
    sheet = command("site", "review", study.name, "--dir", str(demo.site_dir(first)))
    demo.say(f"\nwhat {first} is asked to approve:\n{_indent(sheet['sheet'])}\n")

    def sign(site: str) -> dict[str, Any]:
        where = ("--dir", str(demo.site_dir(site)))
        return command("site", "approve", study.name, "--as", persons[site], *where)

    for site, signed in _each_site(demo, sign).items():
        demo.say(
            f"site {site}: {signed['by']} signed study {signed['digest'][:12]}, "
            f"code {signed['code'][:12]}, table {signed['data'][:12]}, "
            f"until {signed['expires'][:10]}"
        )


def _follow(demo: Demo, study: Study, opened: Opened) -> tuple[StudyRow, list[RoundRecord]]:
    demo.say("")
    rounds: list[RoundRecord] = []
    while True:
        row = opened.store.study(study.name)
        for record in opened.store.rounds(row.digest, after=len(rounds)):
            demo.say(line(study, record)[1])
            rounds.append(record)
        if row.ended:
            return row, rounds
        time.sleep(0.1)


def _budget(demo: Demo, site: str, study: Study) -> dict[str, Any]:
    found = command("site", "budget", "--dir", str(demo.site_dir(site)))
    accounts = {account["dataset"]: account for account in found["datasets"]}
    account: dict[str, Any] = accounts[study.data.dataset]
    return account


def _finish(
    demo: Demo,
    opened: Opened,
    row: StudyRow,
    rounds: list[RoundRecord],
    budgets: dict[str, dict[str, Any]],
    facts: dict[str, Any],
) -> dict[str, Any]:
    out = CoordinatorDir(demo.coordinator_dir).study(row.study.name, row.digest)
    _wait_for(out / "report.html")
    left: dict[str, Any] = {"model": None, "card": None, "release": None, "flags": None}
    if row.state == "completed" and row.study.transfer.own:
        first, place = demo.data.sites[0], demo.workdir / "model"
        left["model"] = site_model(row.study.name, demo.site_dir(first), place)
        demo.say(
            f"\nno model is released: each site has a part of it; {place} is the one of {first}"
        )
    elif row.state == "completed":
        left = release(row.study.name, demo.coordinator_dir, demo.workdir / "model", demo.say)
    audit = seal(demo.coordinator_dir, demo.workdir, demo.say)
    demo.close()
    consents = opened.store.consents(row.digest)
    last = rounds[-1] if rounds else None
    return {
        "study": row.study.name,
        "state": row.state,
        "cause": row.cause,
        "rounds": len(rounds),
        **facts,
        "sites": [_site(site, consents.get(site), budgets[site], last) for site in demo.data.sites],
        "majority_accuracy": (last.summary.majority.unweighted if last and last.summary else None),
        **left,
        "report": str(out / "report.html"),
        "audit": {**audit, "logs": _export_logs(demo)},
        "coordinator_dir": str(demo.coordinator_dir),
        "site_dirs": {site: str(demo.site_dir(site)) for site in demo.data.sites},
    }


def _site(
    name: str, consent: Consent | None, budget: dict[str, Any], last: RoundRecord | None
) -> dict[str, Any]:
    scores = last.summary.sites.get(name) if last and last.summary else None
    spent = last.spent.get(name) if last else None
    return {
        "name": name,
        "patients": consent.patients if consent else None,
        "approved_by": list(consent.approvers) if consent else [],
        "epsilon_spent": budget["epsilon_spent"],
        "epsilon_cap": budget["epsilon_cap"],
        "delta": budget["delta_cap"],
        "sampler": spent.sampler if spent else None,
        "metrics": {
            "accuracy": scores.accuracy if scores else None,
            "auroc": scores.auroc if scores else None,
            "log_loss": scores.log_loss if scores else None,
            "majority": scores.majority if scores else None,
        },
    }


def _export_logs(demo: Demo) -> dict[str, str]:
    """Every party's event log, verified and written as JSON lines."""
    places = {"coordinator": demo.coordinator_dir}
    places |= {site: demo.site_dir(site) for site in demo.data.sites}
    paths = {}
    for party, directory in places.items():
        path = directory / "events.jsonl"
        command("audit", "log", "--dir", str(directory), "--out", str(path))
        paths[party] = str(path)
    return paths


def _each_site(demo: Demo, work: Callable[[str], Any]) -> dict[str, Any]:
    """Do something at all sites, two at a time: commands are short and machines are small."""
    pool = ThreadPoolExecutor(2)
    try:
        return dict(zip(demo.data.sites, pool.map(work, demo.data.sites), strict=True))
    finally:  # after Ctrl-C, what has not begun does not begin, and nobody waits for the rest
        pool.shutdown(wait=False, cancel_futures=True)


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + UP_S
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as server:
        return int(server.getsockname()[1])


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
