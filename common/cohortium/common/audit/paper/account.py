"""What a study cost each site's patients, from the privacy ledger, and the same in words."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from cohortium.common.audit.evidence import Evidence, StudyFacts
from cohortium.common.audit.found import FALSE_ALARMS, found_by_an_attacker
from cohortium.common.audit.paper.text import decimal, percent
from cohortium.common.privacy.ledger_row import LedgerRow, Purpose

NO_PRIVACY = "no differential privacy"


@dataclass(frozen=True)
class Account:
    """What one site's patients gave for one purpose of a study.

    epsilon, delta: as the last row says. found: the share of members that the best attacker finds
    at 1 % false alarms, from the mechanisms of the rows that are here; None where it cannot be
    computed. rows: how many ledger rows it is from; 0 where only the site's updates said it.
    """

    site: str
    purpose: Purpose
    epsilon: str
    delta: str
    unit: str
    steps: int
    rows: int
    found: float | None

    @property
    def words(self) -> str:
        """Epsilon for people who do not know it."""
        if self.found is None:
            return "not computed: the ledger's rows of it are not in this bundle"
        return (
            f"an attacker who accepts {percent(FALSE_ALARMS)} false alarms finds a member in at "
            f"most {percent(self.found)} of cases"
        )


def accounts(evidence: Evidence, facts: StudyFacts) -> tuple[Account, ...]:
    """By site, in the study's order; training comes first."""
    found = []
    for site in facts.study.sites.names:
        rows = rows_of(evidence, site, facts.digest)
        for purpose in get_args(Purpose):
            own = [row for row in rows if row.purpose == purpose]
            if own:
                found.append(_from_ledger(own))
        if not rows:
            found.extend(_from_updates(facts, site))
    return tuple(found)


def rows_of(evidence: Evidence, site: str, study: str | None = None) -> list[LedgerRow]:
    """A site's rows in the order in which they were written; of one study, by its digest."""
    rows = [row for row in evidence.ledger if row.site == site and study in (None, row.study)]
    return sorted(rows, key=_number)


def _number(row: LedgerRow) -> int:
    last = row.id.rpartition("-")[2]
    return int(last) if last.isascii() and last.isdigit() else 0


def _from_ledger(rows: Sequence[LedgerRow]) -> Account:
    last = rows[-1]
    return Account(
        site=last.site,
        purpose=last.purpose,
        epsilon=last.epsilon,
        delta=last.delta,
        unit=last.unit,
        steps=sum(row.steps for row in rows),
        rows=len(rows),
        found=found_by_an_attacker(rows),
    )


def _from_updates(facts: StudyFacts, site: str) -> Iterable[Account]:
    spent = next((one.spent[site] for one in reversed(facts.rounds) if site in one.spent), None)
    if spent is not None:
        yield Account(
            site=site,
            purpose="training",
            epsilon=decimal(spent.epsilon),
            delta=decimal(spent.delta),
            unit=facts.study.privacy.unit,
            steps=sum(one.spent[site].steps for one in facts.rounds if site in one.spent),
            rows=0,
            found=None,
        )


def promise(facts: StudyFacts) -> str:
    """What the study promises each patient, in one sentence."""
    privacy = facts.study.privacy
    if privacy.epsilon is None or privacy.delta is None or privacy.clip_norm is None:
        return (
            f"{NO_PRIVACY}: training was not differentially private, and parameters may reveal "
            "patients"
        )
    return (
        f"({decimal(privacy.epsilon)}, {decimal(privacy.delta)}) differential privacy over all "
        f"rounds of training, by {privacy.mechanism} noise on gradients clipped at "
        f"{decimal(privacy.clip_norm)}; unit {privacy.unit}, add or remove one"
    )
