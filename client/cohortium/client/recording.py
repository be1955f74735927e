"""What a round leaves in the record: the model that came, what left, a clock that is wrong."""

import hashlib

from cohortium.client.replies import Reply
from cohortium.client.site import Site
from cohortium.common.audit.events import PolicyVersion, Thing
from cohortium.common.audit.noticing import policy_digest
from cohortium.common.envelope import Header
from cohortium.common.messages import Vector


def reply(site: Site, header: Header, made: Reply, came: Thing | None) -> None:
    """Log an answer that says anything of patients, inside the caller's transaction.

    Args:
        came: the model that it was asked with; None where there was none.
    """
    if made.event is None:
        return
    if came is not None:
        received(site, header, came)
    config = site.directory.load_config()
    rules = PolicyVersion(id=site.directory.config.name, h=f"sha256:{policy_digest(config)}")
    digest = f"sha256:{hashlib.sha256(made.body).hexdigest()}"
    sent = Thing(t=made.kind, h=digest, bytes=len(made.body))
    site.log.append(
        made.event,
        actor=site.actor,
        study=header.study,
        round=header.round,
        obj=(sent,),
        policy=rules,
    )


def received(site: Site, header: Header, came: Thing) -> None:
    """Log which parameters came with a question, inside the caller's transaction."""
    site.log.append(
        "round.task.received",
        actor=site.actor,
        study=header.study,
        round=header.round,
        obj=(came,),
        detail={"kind": header.kind},
    )


def model(vector: Vector) -> Thing:
    """How the record names a model: the hash over its parameters as little-endian float32."""
    raw = vector.astype("<f4", copy=False).data
    return Thing(t="model", h=f"sha256:{hashlib.sha256(raw).hexdigest()}", bytes=raw.nbytes)


def clock(site: Site) -> None:
    """Log that our clock is behind our own records, if it is."""
    if behind_ms := site.latest.behind_ms(site.now_ms()):
        detail = {"seconds": str(behind_ms // 1000)}
        site.log.append("clock.skew", actor=site.actor, detail=detail)
