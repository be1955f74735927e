"""The doctor: looks at everything a site needs, changes nothing, and says how to mend it."""

import shutil
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from cohortium.client.config import SiteConfig, SiteDir
from cohortium.client.data.table import check_table
from cohortium.common.errors import CohortiumError
from cohortium.common.identity import certificate_expiry, certificate_fingerprint

FREE_BYTES = 2 * 2**30
EXPIRES_SOON_DAYS = 30
CONNECT_S = 5.0
LAST_PORT = 65_535


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report; `advice` says what to do unless all is well."""

    check: str
    verdict: Literal["ok", "warning", "fail"]
    said: str
    advice: str = ""


def examine(root: Path) -> Iterator[Finding]:
    """Yield findings as they are made, cheapest first."""
    directory = SiteDir(root)
    try:
        config = directory.load_config()
    except CohortiumError as error:
        yield Finding("site.toml", "fail", str(error), "correct the file, or join first")
        return
    yield Finding("site.toml", "ok", f"site {config.name} of {config.coordinator.name}")
    yield _policy(config)
    for path in (directory.node_key, directory.signing_key):
        yield _key(path)
    yield from _certificate(directory, config)
    yield _disk(root)
    yield from _packages()
    yield _reachable(config)
    for name in directory.datasets():
        yield _dataset(directory, name)
    if not directory.datasets():
        yield Finding(
            "data", "warning", "no dataset is registered", "run `cohortium site data add`"
        )


def _policy(config: SiteConfig) -> Finding:
    if not config.policy.purposes:
        return Finding(
            "policy",
            "warning",
            "no purpose is allowed, so no study can run",
            "add Data Use Ontology codes to [policy] purposes in site.toml",
        )
    if config.policy.allow_unprotected:
        return Finding(
            "policy",
            "warning",
            "studies without privacy are allowed",
            "set allow_unprotected = false unless all data here are public",
        )
    return Finding("policy", "ok", f"purposes {', '.join(config.policy.purposes)}")


def _key(path: Path) -> Finding:
    if not path.exists():
        return Finding(path.name, "fail", "is missing", "restore it from a backup or join again")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Finding(path.name, "fail", "others can read it", f"run: chmod 600 {path}")
    return Finding(path.name, "ok", "readable by its owner only")


def _certificate(directory: SiteDir, config: SiteConfig) -> Iterator[Finding]:
    try:
        pem = directory.ca.read_bytes()
        fingerprint, expires = certificate_fingerprint(pem), certificate_expiry(pem)
    except (OSError, CohortiumError):
        yield Finding("ca.pem", "fail", "cannot be read", "join again with a new invitation")
        return
    if fingerprint != config.coordinator.ca_fingerprint:
        yield Finding(
            "ca.pem",
            "fail",
            "is not the certificate authority that this site joined",
            "compare the fingerprint with the coordinator by telephone",
        )
        return
    days, renew = (expires - datetime.now(UTC)).days, "ask the coordinator to renew"
    if days < 0:
        yield Finding("ca.pem", "fail", f"expired on {expires:%Y-%m-%d}", renew)
    elif days < EXPIRES_SOON_DAYS:
        yield Finding("ca.pem", "warning", f"valid for {days} days", renew)
    else:
        yield Finding("ca.pem", "ok", f"valid for {days} days")


def _disk(root: Path) -> Finding:
    free = shutil.disk_usage(root).free
    said = f"{free / 2**30:.1f} GiB free"
    if free < FREE_BYTES:
        return Finding("disk", "warning", said, "free some space: models and logs are kept here")
    return Finding("disk", "ok", said)


def _packages() -> Iterator[Finding]:
    for name in ("torch", "opacus", "flwr", "dp_accounting"):
        if find_spec(name) is None:
            yield Finding("packages", "fail", f"{name} is missing", "pip install 'cohortium[site]'")
            return
    from cohortium.client.training.device import choose

    yield Finding("packages", "ok", "torch, opacus, flwr, dp-accounting are installed")
    yield Finding("device", "ok", choose("auto").description)


def _reachable(config: SiteConfig) -> Finding:
    host, _, port = config.coordinator.fleet_address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > LAST_PORT:
        return Finding(
            "coordinator",
            "fail",
            f'"{config.coordinator.fleet_address}" is no address such as fl.example.org:9092',
            "correct [coordinator] fleet_address in site.toml",
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S):
            pass
    except (OSError, UnicodeError) as error:
        return Finding(
            "coordinator",
            "fail",
            f"{config.coordinator.fleet_address} does not answer "
            f"({getattr(error, 'strerror', None) or 'timeout'})",
            "check DNS and the firewall, or ask the coordinator whether it is up",
        )
    return Finding("coordinator", "ok", f"{config.coordinator.fleet_address} answers")


def _dataset(directory: SiteDir, name: str) -> Finding:
    where = f"data {name}"
    try:
        dataset = directory.load_dataset(name)
        summary = check_table(dataset.path, dataset.data_model)
    except CohortiumError as error:
        return Finding(where, "fail", str(error), "correct the file or register it again")
    if summary.problems:
        first = summary.problems[0]
        return Finding(
            where,
            "fail",
            f"column {first.column}: {first.rule} ({first.count} cells, first in line "
            f"{first.first_line})",
            "correct the table or, if the rule is wrong, the schema",
        )
    return Finding(where, "ok", f"{summary.patients} patients fit the schema")
