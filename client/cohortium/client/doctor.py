"""The doctor: looks at everything a site needs, changes nothing, and says how to mend it."""

import os
import stat
from collections.abc import Callable, Generator, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from cohortium.client.config import SiteConfig, SiteDir
from cohortium.client.examine_machine import (
    examine_device,
    examine_disk,
    examine_hashes,
    examine_isolation,
    examine_memory,
    examine_packages,
)
from cohortium.client.examine_network import EXPIRES_SOON_DAYS, examine_network
from cohortium.client.examine_policy import examine_policy
from cohortium.client.examine_selftests import examine_selftests
from cohortium.client.examine_siem import examine_siem
from cohortium.client.examine_witness import examine_witness
from cohortium.client.finding import Finding
from cohortium.common.errors import CohortiumError, IdentityError, UnreachableError
from cohortium.common.identity import certificate_expiry, certificate_fingerprint
from cohortium.common.invitation import Invitation

MEANINGS: Mapping[str, type[CohortiumError]] = {
    "DNS": UnreachableError,
    "TCP": UnreachableError,
    "TLS": IdentityError,
}


def system_clock() -> datetime:
    return datetime.now(UTC)


def examine(
    root: Path,
    now: Callable[[], datetime] = system_clock,
    environ: Mapping[str, str] = os.environ,
) -> Iterator[Finding]:
    """Yield findings as they are made, cheapest first.

    Args:
        now: the site's clock, in UTC.
        environ: where gRPC looks for proxies.
    """
    directory = SiteDir(root)
    try:
        config = directory.load_config()
    except CohortiumError as error:
        yield Finding("site.toml", "fail", str(error), "correct the file, or join first")
        return
    yield Finding("site.toml", "ok", f"site {config.name} of {config.coordinator.name}")
    yield from examine_policy(config, directory)
    yield from examine_witness(directory, now())
    packages = yield from _essentials(directory, config, now())
    yield examine_memory(config)
    yield examine_isolation()
    yield examine_selftests(directory)
    if packages.verdict == "ok":
        yield examine_hashes()
        yield examine_device(config)
    if directory.ca.is_file():
        peer, ca = config.coordinator, directory.ca.read_bytes()
        addresses = (peer.fleet_address, peer.enrolment_address)
        yield from examine_network(*addresses, ca, now, environ)
    yield from examine_siem(directory, config)
    yield from _data(directory)


def require_fit(root: Path, now: Callable[[], datetime] = system_clock) -> None:
    """What must be right before a daemon starts; under 0.1 s, no network, no data.

    Raises:
        CohortiumError: site.toml is wrong, or a check fails: one line with what to do.
    """
    directory = SiteDir(root)
    for finding in _essentials(directory, directory.load_config(), now()):
        if finding.verdict == "fail":
            raise CohortiumError(
                f"{finding.check}: {finding.said}; {finding.advice} "
                "(`cohortium site doctor` examines everything)"
            )


def examine_before_joining(
    invitation: Invitation,
    root: Path,
    now: Callable[[], datetime],
    environ: Mapping[str, str],
) -> Iterator[Finding]:
    """What can be known before there is a site: its disk, its packages, the way to its coordinator.

    Args:
        root: an existing directory, to become the site's.
        now, environ: as for `examine`.
    """
    yield from examine_disk(root)
    yield examine_packages()
    addresses = (invitation.fleet_address, invitation.enrolment_address)
    yield from examine_network(*addresses, invitation.ca_certificate.encode(), now, environ)


def require_well(finding: Finding) -> None:
    """Raise what a finding means where it is a fail: nobody there, an impostor, or plain failure.

    Raises:
        UnreachableError, IdentityError, CohortiumError: one line with what to do.
    """
    if finding.verdict == "fail":
        kind = MEANINGS.get(finding.check, CohortiumError)
        raise kind(f"{finding.check}: {finding.said}; {finding.advice}")


def _essentials(
    directory: SiteDir, config: SiteConfig, now: datetime
) -> Generator[Finding, None, Finding]:
    """Keys, certificate, disk, packages; returns the finding about the packages."""
    for path in (directory.node_key, directory.signing_key):
        yield _key(path)
    yield _certificate(directory, config, now)
    yield from examine_disk(directory.root)
    packages = examine_packages()
    yield packages
    return packages


def _key(path: Path) -> Finding:
    if not path.exists():
        return Finding(path.name, "fail", "is missing", "restore it from a backup or join again")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Finding(path.name, "fail", "others can read it", f"run: chmod 600 {path}")
    return Finding(path.name, "ok", "readable by its owner only")


def _certificate(directory: SiteDir, config: SiteConfig, now: datetime) -> Finding:
    try:
        pem = directory.ca.read_bytes()
        fingerprint, expires = certificate_fingerprint(pem), certificate_expiry(pem)
    except (OSError, CohortiumError):
        return Finding("ca.pem", "fail", "cannot be read", "join again with a new invitation")
    if fingerprint != config.coordinator.ca_fingerprint:
        return Finding(
            "ca.pem",
            "fail",
            "is not the certificate authority that this site joined",
            "compare the fingerprint with the coordinator by telephone",
        )
    days, renew = (expires - now).days, "ask the coordinator to renew"
    if days < 0:
        return Finding("ca.pem", "fail", f"expired on {expires:%Y-%m-%d}", renew)
    if days < EXPIRES_SOON_DAYS:
        return Finding("ca.pem", "warning", f"valid for {days} days", renew)
    return Finding("ca.pem", "ok", f"valid for {days} days")


def _data(directory: SiteDir) -> Iterator[Finding]:
    for name in directory.datasets():
        yield _dataset(directory, name)
    if not directory.datasets():
        advice = "run `cohortium site data add`"
        yield Finding("data", "warning", "no dataset is registered", advice)


def _dataset(directory: SiteDir, name: str) -> Finding:
    from cohortium.client.data.table import check_table

    where = f"data {name}"
    try:
        if directory.is_withdrawn(name):
            by = directory.load_dataset_config(name).withdrawn
            return Finding(where, "ok", f"withdrawn by {by}: no study may use it")
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
    return Finding(where, "ok", f"{summary.size} fit the schema")
