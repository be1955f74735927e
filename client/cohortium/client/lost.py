"""Accepting that records are lost, as after a restore from an old backup: a person's decision."""

import json
from dataclasses import dataclass

from cohortium.client import returned
from cohortium.client.budget import Ledger
from cohortium.client.ledger_rows import UNKNOWN_CLIPPING, Spending, clip_norm, clipping
from cohortium.client.site import Site
from cohortium.client.studies import KnownStudy
from cohortium.client.watermark import Account
from cohortium.common.audit.events import os_user
from cohortium.common.document import parse_json
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.study import Study


@dataclass(frozen=True)
class Accepted:
    """What was counted as spent, which studies were stopped by it, and the event that says so."""

    steps: int
    studies: tuple[str, ...]
    event: str


def accept(site: Site, person: str) -> Accepted | None:
    """Count what the mark, or the consortium, knows and the database does not as spent.

    None where nothing is lost.

    Every study that was under way is stopped: its approvals may have been withdrawn in what was
    lost, and its stored replies are gone. A person may approve it again.
    """
    loss = site.watermark.loss()
    if loss is None and not returned.unaccepted(site):
        return None
    with site.database.transaction():
        accounts = list(loss.accounts) if loss is not None else []
        for account in accounts:
            _charge(site, account, person)
        for account in returned.uncounted(site):
            _charge(site, account, person)
            accounts.append(account)
        under_way = [k for k in site.studies.all() if k.state in ("waiting", "approved")]
        for known in under_way:
            _stop(site, known, person)
        site.latest.vouch(site.now_ms())
        event = site.log.append(
            "log.review",
            actor=os_user(),
            reason=returned.ACCEPTED,
            detail={"person": person},
        )
    site.watermark.renew()
    steps = sum(account.steps for account in accounts)
    return Accepted(steps, tuple(known.study.name for known in under_way), event.id)


def _charge(site: Site, account: Account, person: str) -> None:
    values = {**json.loads(account.noise), "steps": account.steps}
    mechanism = parse_json(json.dumps(values).encode(), Mechanism, "site.mark")
    ledger = Ledger(site.database, site.directory.load_dataset(account.dataset))
    study = next((k.study for k in site.studies.all() if k.digest == account.study), None)
    paid = ledger.charge(_spending(site, ledger, study, account.study, mechanism))
    site.log.append(
        "privacy.spent",
        actor=os_user(),
        study=account.study,
        reason="rows of the ledger were lost",
        obj=(paid.thing,),
        detail={**paid.detail, "by": person},
    )


def _spending(
    site: Site, ledger: Ledger, study: Study | None, digest: str, mechanism: Mechanism
) -> Spending:
    """As the study would have spent it; the study may be among what was lost."""
    return Spending(
        site=site.name,
        study=digest,
        round=0,
        mechanism=mechanism,
        delta=ledger.delta(study),
        clip_norm=clip_norm(study, mechanism) if study is not None else 0.0,
        clipping=clipping(study, mechanism) if study is not None else UNKNOWN_CLIPPING,
        now_ms=site.now_ms(),
    )


def _stop(site: Site, known: KnownStudy, person: str) -> None:
    site.withdraw_approvals(known.digest, os_user())
    note = f"records were lost, as {person} accepted; it needs a new approval"
    site.studies.mark(known.digest, "stopped", note)
    site.release(known.digest)
    site.log.append(
        "run.stopped",
        actor=os_user(),
        study=known.digest,
        reason="records were lost",
        detail={"by": person},
    )
