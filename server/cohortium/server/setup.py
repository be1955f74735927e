"""Making a coordinator's directory: certificate authority, server certificate, signing key."""

import ipaddress
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import tomli_w

from cohortium.common.audit.events import Actor
from cohortium.common.audit.log import EventLog
from cohortium.common.document import parse
from cohortium.common.errors import CohortiumError, UsageError
from cohortium.common.identity import (
    SigningKey,
    certificate_fingerprint,
    issue_server_certificate,
    make_ca,
)
from cohortium.server import certificates
from cohortium.server.config import CoordinatorConfig, CoordinatorDir
from cohortium.server.database import open_coordinator_database


def initialise(
    root: Path, name: str, host: str, fleet_port: int, enrolment_port: int, actor: Actor
) -> str:
    """Make everything that `coordinator up` needs; returns the CA's fingerprint.

    A host of 127.0.0.1 or localhost listens on the loopback interface alone.

    Raises:
        UsageError: the directory holds something else.
        DocumentError: a name, host or port is none.
    """
    directory = CoordinatorDir(root)
    if root.exists() and any(root.iterdir()):
        raise UsageError(f"{root} is not empty: give a new directory")
    values = {
        "name": name,
        "host": host,
        "bind": "127.0.0.1" if _is_loopback(host) else "0.0.0.0",
        "fleet_port": fleet_port,
        "enrolment_port": enrolment_port,
    }
    parse(values, CoordinatorConfig, "coordinator init")
    try:
        return _make(directory, values, host, actor)
    except OSError as error:
        raise CohortiumError(f"{root}: cannot be written ({error.strerror})") from None
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise


def again(root: Path, name: str, host: str) -> str | None:
    """The fingerprint if `root` is already this coordinator's directory, else None."""
    directory = CoordinatorDir(root)
    if not directory.config.exists():
        return None
    config = directory.load_config()
    if (config.name, config.host) != (name, host):
        raise UsageError(f"{root} is coordinator {config.name}'s at {config.host}")
    return certificate_fingerprint(directory.ca.read_bytes())


def _make(directory: CoordinatorDir, values: Mapping[str, object], host: str, actor: Actor) -> str:
    now = datetime.now(UTC)
    directory.ca_key.parent.mkdir(parents=True, mode=0o700)
    ca = make_ca(f"{values['name']} certificate authority", now)
    ca.save(directory.ca_key, directory.ca)
    server = issue_server_certificate(ca, [host], now, certificates.DAYS)
    server.save(directory.server_key, directory.certificate)
    SigningKey.generate().save(directory.signing_key)
    fingerprint = certificate_fingerprint(ca.certificate_pem)
    name = str(values["name"])
    with open_coordinator_database(directory.database) as database:
        log = EventLog(database, name, name, lambda: datetime.now(UTC))
        log.append("key.rotated", actor=actor, detail={"key_after": fingerprint})
    directory.config.write_text(tomli_w.dumps(values), encoding="utf-8")
    return fingerprint


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
