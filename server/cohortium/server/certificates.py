"""The server's certificate, issued by the coordinator's own CA and renewed before it expires."""

import os
from datetime import datetime, timedelta

from cohortium.common.audit.events import Actor
from cohortium.common.audit.log import EventLog
from cohortium.common.identity import (
    certificate_expiry,
    certificate_fingerprint,
    issue_server_certificate,
    load_certified_key,
)
from cohortium.server.config import CoordinatorConfig, CoordinatorDir

DAYS = 397
RENEW_BEFORE = timedelta(days=30)


def due(directory: CoordinatorDir, now: datetime) -> bool:
    """Whether the certificate ends soon, or has ended, and the CA's key is here to renew it."""
    ends = certificate_expiry(directory.certificate.read_bytes())
    return ends - now < RENEW_BEFORE and directory.ca_key.exists()


def renew(
    directory: CoordinatorDir, config: CoordinatorConfig, log: EventLog, actor: Actor, now: datetime
) -> str:
    """Issue a new key and certificate in place of the old; returns the event's id.

    Sites trust the CA and notice nothing. A running coordinator takes it up by itself.

    Raises:
        IdentityError: the CA's key is not here, or cannot be read.
    """
    before = certificate_fingerprint(directory.certificate.read_bytes())
    ca = load_certified_key(directory.ca_key, directory.ca)
    made = issue_server_certificate(ca, [config.host], now, DAYS)
    drafts = directory.server_key.with_suffix(".new"), directory.certificate.with_suffix(".new")
    for draft in drafts:
        draft.unlink(missing_ok=True)
    made.save(*drafts)
    os.replace(drafts[0], directory.server_key)
    os.replace(drafts[1], directory.certificate)
    after = certificate_fingerprint(made.certificate_pem)
    detail = {"key_before": before, "key_after": after}
    return log.append("key.rotated", actor=actor, detail=detail).id
