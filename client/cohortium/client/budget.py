"""The privacy ledger: what a dataset has given, ever, across all studies.

A row is durable before the update that it pays for leaves, and is never changed: a crash in
between counts as spent. Whether the next spend still fits is decided by a Renyi filter at one
order fixed by the cap (Feldman & Zrnic 2021); what is *reported* is the composed privacy loss.
The ledger, not any library's engine, is where accounting starts again after a restart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from cohortium.client.config import Dataset
from cohortium.client.ledger_rows import Entry, Paid, Rows, Spending
from cohortium.common.database import Database
from cohortium.common.document import canonical, parse_json
from cohortium.common.errors import RefusedError, UsageError
from cohortium.common.messages import Spent
from cohortium.common.privacy import accounting
from cohortium.common.privacy.accounting import Mechanism, Purpose
from cohortium.common.privacy.ledger_row import CrossCheck
from cohortium.common.study import Study

Plan = tuple[Mechanism, ...]  # of a study at a site: at most one mechanism for each purpose


@dataclass(frozen=True)
class Balance:
    """A dataset's account, epsilon at its own delta; reserved includes what was spent.

    words, true_positive_rate: what an attacker finds who accepts 1 % false alarms. mu: of Gaussian
    differential privacy, None where it does not say all.
    """

    dataset: str
    epsilon_spent: float
    epsilon_reserved: float
    epsilon_cap: float
    delta_cap: float
    by_study: dict[str, float]
    words: str
    true_positive_rate: float
    mu: float | None


class Ledger:
    """One dataset's account."""

    def __init__(self, database: Database, dataset: Dataset) -> None:
        self._database = database
        self._dataset = dataset
        self._rows = Rows(database, dataset)

    def entries(self) -> list[Entry]:
        return self._rows.entries()

    def missing(self, study: str, plan: Plan) -> Plan:
        """What of a study's plan is not set aside."""
        held = {mechanism.purpose for mechanism in self.reserved().get(study, ())}
        return tuple(mechanism for mechanism in plan if mechanism.purpose not in held)

    def reserve(
        self,
        study: str,
        plan: Plan,
        now_ms: int,
        checks: Mapping[Purpose, CrossCheck] | None = None,
    ) -> Plan:
        """Set a study's whole plan aside (inside the caller's transaction).

        Args:
            checks: what another program says of each part, kept for the part's rows.

        Returns:
            What is now set aside, and was not before: what the study has not spent of it yet.

        Raises:
            RefusedError: it does not fit beside what was spent and what others have reserved.
        """
        fresh = self.missing(study, plan)
        if not fresh:
            return ()
        self.check(self.left(study, plan), study)
        for mechanism in fresh:
            check = (checks or {}).get(mechanism.purpose)
            self._database.execute(
                "INSERT INTO reservations "
                "(study, dataset, mechanism, reserved_ms, purpose, cross_check) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (study, purpose) DO UPDATE "
                "SET mechanism = excluded.mechanism, cross_check = excluded.cross_check, "
                "released_ms = NULL",
                (
                    study,
                    self._dataset.name,
                    canonical(mechanism).decode(),
                    now_ms,
                    mechanism.purpose,
                    canonical(check).decode() if check is not None else "",
                ),
            )
        return self.left(study, fresh)

    def reserved(self) -> dict[str, Plan]:
        """What each study may still spend of its plan."""
        rows = self._database.execute(
            "SELECT study, mechanism FROM reservations "
            "WHERE dataset = ? AND released_ms IS NULL ORDER BY study, purpose DESC",
            (self._dataset.name,),
        )
        plans: dict[str, Plan] = {}
        for row in rows:
            mechanism = parse_json(row["mechanism"].encode(), Mechanism, "reservation")
            plans[row["study"]] = (*plans.get(row["study"], ()), mechanism)
        return {study: self.left(study, plan) for study, plan in plans.items()}

    def left(self, study: str, plan: Plan) -> Plan:
        """What a study has not spent yet of its whole plan, for each purpose."""
        rows = self._database.execute(
            "SELECT purpose, sum(mechanism ->> '$.steps') AS steps FROM ledger "
            "WHERE dataset = ? AND study = ? GROUP BY purpose",
            (self._dataset.name, study),
        )
        spent = {row["purpose"]: row["steps"] for row in rows}
        return tuple(
            whole.model_copy(update={"steps": max(whole.steps - spent.get(whole.purpose, 0), 0)})
            for whole in plan
        )

    def check_left(self, study: str, plan: Plan, step: Mechanism) -> None:
        """Raise RefusedError where one more step is more than a study's whole plan allows.

        It never is but after a loss: rounds whose rows were lost are counted as spent.
        """
        left = {mechanism.purpose: mechanism.steps for mechanism in self.left(study, plan)}
        if left.get(step.purpose, 0) < step.steps:
            raise RefusedError(
                "privacy.study",
                "the site has given all the privacy that it approved for this study; a new study "
                "needs a new approval",
            )

    def check(self, planned: Sequence[Mechanism], study: str = "") -> None:
        """Raise RefusedError unless all that is planned fits under the cap for a study.

        It must fit beside all that was ever spent and all that other studies have reserved.
        """
        cap, delta = self._dataset.epsilon_cap, self._dataset.delta_cap
        spent = [entry.mechanism for entry in self.entries()]
        reserved = self.reserved()
        others = [m for other, plan in reserved.items() if other != study for m in plan]
        if not _fits([*spent, *others, *planned], cap, delta):
            raise RefusedError(
                "privacy.cap",
                f'dataset "{self._dataset.name}" cannot give what the study still wants: lifetime '
                f"cap epsilon {cap:g} at delta {delta:g}, "
                f"{self._reported(spent, delta):.3f} of it spent; the site operator may raise "
                "epsilon_cap in the dataset's file, knowing what that means",
                self._hit(spent, others, planned),
            )

    def _hit(
        self, spent: list[Mechanism], others: list[Mechanism], planned: Sequence[Mechanism]
    ) -> dict[str, str]:
        """What was asked of the dataset, and what it would have come to, for the event."""
        cap, delta = self._dataset.epsilon_cap, self._dataset.delta_cap
        asked = {
            "sampler": ", ".join(m.sampler for m in planned),
            "sample_rate": ", ".join(repr(m.sample_rate) for m in planned),
            "noise_multiplier": ", ".join(repr(m.noise_multiplier) for m in planned),
            "steps": ", ".join(str(m.steps) for m in planned),
        }
        return {
            "dataset": self._dataset.name,
            "cap": f"{cap:g}",
            "delta": f"{delta:g}",
            "epsilon_before": f"{self._reported(spent, delta):.6f}",
            "epsilon_after": f"{self._reported([*spent, *others, *planned], delta):.6f}",
            **{key: words for key, words in asked.items() if words},
        }

    def delta(self, study: Study | None) -> float:
        """At which a study's epsilon is told; of one that is not known, the dataset's."""
        return (study.privacy.delta if study else None) or self._dataset.delta_cap

    def check_delta(self, study: Study) -> None:
        """Raise RefusedError for a study whose delta is laxer than the dataset's."""
        if study.privacy.delta is not None and study.privacy.delta > self._dataset.delta_cap:
            raise RefusedError(
                "privacy.delta",
                f"the study's delta {study.privacy.delta:g} is above this dataset's "
                f"{self._dataset.delta_cap:g}; the coordinator must lower it",
            )

    def spend(self, spending: Spending) -> Paid:
        """Write the row of a round, inside the caller's transaction.

        Raises:
            RefusedError: it does not fit under the cap.
        """
        self.check((spending.mechanism,), spending.study)
        return self._rows.write(spending)

    def charge(self, spending: Spending) -> Paid:
        """Count as spent what no round accounts for, inside the caller's transaction.

        Its round is below 1, for it stands for rounds whose own rows were lost.
        """
        (row,) = self._database.execute(
            "SELECT min(coalesce(min(round), 1), 1) - 1 AS free FROM ledger WHERE study = ?",
            (spending.study,),
        )
        return self._rows.write(replace(spending, round=row["free"]))

    def spent(self, study: Study, mechanism: Mechanism) -> Spent:
        """The account after a round in which `mechanism` ran, not yet written.

        Of the study it is what went to the same purpose: an update tells what training has cost.
        """
        entries = self.entries()
        ever = [*(entry.mechanism for entry in entries), mechanism]
        own = [entry.mechanism for entry in entries if entry.study == study.digest]
        mine = [*(one for one in own if one.purpose == mechanism.purpose), mechanism]
        delta = self.delta(study)
        return Spent(
            sampler=mechanism.sampler,
            sample_rate=mechanism.sample_rate,
            noise_multiplier=mechanism.noise_multiplier,
            steps=sum(item.steps for item in mine),
            delta=delta,
            epsilon=self._reported(mine, delta),
            lifetime_epsilon=self._reported(ever, self._dataset.delta_cap),
            cap_epsilon=self._dataset.epsilon_cap,
            cap_delta=self._dataset.delta_cap,
        )

    def balance(self) -> Balance:
        """The whole account, for `site budget`."""
        entries, delta = self.entries(), self._dataset.delta_cap
        studies = dict.fromkeys(entry.study for entry in entries)
        spent = [entry.mechanism for entry in entries]
        return Balance(
            dataset=self._dataset.name,
            epsilon_spent=self._reported(spent, delta),
            epsilon_reserved=self._reported([*spent, *chain(*self.reserved().values())], delta),
            epsilon_cap=self._dataset.epsilon_cap,
            delta_cap=delta,
            by_study={
                study: self._reported([e.mechanism for e in entries if e.study == study], delta)
                for study in studies
            },
            words=accounting.in_words(spent),
            true_positive_rate=accounting.true_positive_rate(spent),
            mu=accounting.gaussian_mu(spent),
        )

    @staticmethod
    def _reported(mechanisms: list[Mechanism], delta: float) -> float:
        return accounting.epsilon(mechanisms, delta)


def _fits(mechanisms: Sequence[Mechanism], cap: float, delta: float) -> bool:
    try:
        order = accounting.filter_order(cap, delta)
    except UsageError:  # it leaves room for nothing
        return False
    limit = accounting.filter_limit(cap, delta, order)
    return accounting.filter_spent(mechanisms, order) <= limit
