"""What the ledger writes of each spend, so that a stranger can compute its epsilon again."""

import functools
import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from cohortium.client.config import Dataset
from cohortium.common.audit.documents import Documents
from cohortium.common.audit.events import Thing, timestamp
from cohortium.common.code import code_digest
from cohortium.common.database import Database
from cohortium.common.document import canonical, parse_json
from cohortium.common.errors import UsageError
from cohortium.common.privacy import accounting
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.privacy.ledger_row import CrossCheck, Earlier, LedgerRow, Lifetime, Purpose
from cohortium.common.privacy.plan import planned_noise
from cohortium.common.study import Study

KEYSTREAM = "AES-256-CTR, os.urandom keys"
RNG: dict[Purpose, str] = {
    "training": KEYSTREAM,
    "measurement": KEYSTREAM,
    "validation": KEYSTREAM,
    "evaluation": "os.urandom",
}
FLOATS = "noise is half the sum of four float64 draws, float32 last (Holohan, Braghin 2021)"
FLOATING_POINT: dict[Purpose, str] = {
    "training": FLOATS,
    "measurement": FLOATS,
    "validation": FLOATS,
    "evaluation": "none: whole numbers, drawn exactly (Canonne, Kamath, Steinke 2020)",
}
UNKNOWN_CLIPPING = "not known: the rows of the study were lost"
SOFTWARE = ("cohortium", "dp-accounting", "numpy", "opacus", "scipy", "torch")


@dataclass(frozen=True)
class Entry:
    """One row as the account needs it: a study's round, and the mechanism that really ran.

    `full` says whether it was written as a `LedgerRow`; older ones were not.
    """

    id: int
    dataset: str
    study: str
    round: int
    mechanism: Mechanism
    spent_ms: int
    full: bool


@dataclass(frozen=True)
class Spending:
    """What is taken of a dataset, by which site for which study (its digest) and round.

    delta: at which the study's epsilon is told. clip_norm: how much one patient changes what is
    noised at most, in L2; `clipping` says how that is kept.
    """

    site: str
    study: str
    round: int
    mechanism: Mechanism
    delta: float
    clip_norm: float
    clipping: str
    now_ms: int


@dataclass(frozen=True)
class Paid:
    """A row that was written: its number at the site, and how an event names it."""

    number: int
    row: LedgerRow
    thing: Thing

    @property
    def detail(self) -> dict[str, str]:
        """What the event `privacy.spent` says of it."""
        row, account = self.row, self.row.lifetime
        return {
            "dataset": row.dataset,
            "row": str(self.number),
            "kind": row.purpose,
            "epsilon": row.epsilon,
            "epsilon_before": account.before,
            "epsilon_after": account.after,
            "cap": f"{float(account.cap):g}",
            "delta": f"{float(account.delta):g}",
            "accountant": row.accountant.name,
            "sampler": row.sampler,
            "sample_rate": row.sample_rate,
            "noise_multiplier": row.noise_multiplier,
            "clip_norm": row.clip_norm,
            "steps": str(row.steps),
            "unit": row.unit,
            "adjacency": row.adjacency,
            "rng": row.rng,
        }


class Rows:
    """One dataset's rows in the site's table; all rows of a site are one chain."""

    def __init__(self, database: Database, dataset: Dataset) -> None:
        self._database = database
        self._dataset = dataset

    def entries(self) -> list[Entry]:
        """All that was ever spent, in order."""
        rows = self._database.execute(
            "SELECT id, dataset, study, round, mechanism, spent_ms, row <> '' AS full FROM ledger "
            "WHERE dataset = ? ORDER BY id",
            (self._dataset.name,),
        )
        return [
            Entry(
                row["id"],
                row["dataset"],
                row["study"],
                row["round"],
                parse_json(row["mechanism"].encode(), Mechanism, "ledger row"),
                row["spent_ms"],
                bool(row["full"]),
            )
            for row in rows
        ]

    def write(self, spending: Spending) -> Paid:
        """Write a row and keep it as a document, inside the caller's transaction."""
        number, mechanism = self._last() + 1, spending.mechanism
        row = self._row(spending, number)
        self._database.execute(
            "INSERT INTO ledger (id, dataset, study, round, mechanism, spent_ms, purpose, row) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                number,
                self._dataset.name,
                spending.study,
                spending.round,
                canonical(mechanism).decode(),
                spending.now_ms,
                mechanism.purpose,
                canonical(row).decode(),
            ),
        )
        return Paid(number, row, Documents(self._database).keep("ledger.row", row))

    def _row(self, spending: Spending, number: int) -> LedgerRow:
        dataset, mechanism, entries = self._dataset, spending.mechanism, self.entries()
        ever = [*(entry.mechanism for entry in entries), mechanism]
        own = [
            entry.mechanism
            for entry in entries
            if (entry.study, entry.mechanism.purpose) == (spending.study, mechanism.purpose)
        ]
        planned, cross_check = self._reservation(spending.study, mechanism)
        return LedgerRow(
            id=f"{spending.site}-{number}",
            prev=self._hash(number - 1),
            site=spending.site,
            dataset=dataset.name,
            lineage=dataset.name,
            study=spending.study,
            round=spending.round,
            purpose=mechanism.purpose,
            dp=accounting.dp_json(mechanism),
            sampler=mechanism.sampler,
            sample_rate=repr(mechanism.sample_rate),
            noise_multiplier=repr(mechanism.noise_multiplier),
            clip_norm=repr(spending.clip_norm),
            clipping=spending.clipping,
            steps=mechanism.steps,
            steps_planned=planned,
            rng=RNG[mechanism.purpose],
            floating_point=FLOATING_POINT[mechanism.purpose],
            delta=repr(spending.delta),
            epsilon=f"{accounting.epsilon([*own, mechanism], spending.delta):.6f}",
            accountant=accounting.accountant(ever, dataset.delta_cap),
            cross_check=cross_check,
            lifetime=_lifetime(ever, dataset),
            code=code_digest(),
            software=software(),
            at=timestamp(datetime.fromtimestamp(spending.now_ms / 1000, UTC)),
            earlier=_earlier(entries),
        )

    def _last(self) -> int:
        return int(self._database.execute("SELECT coalesce(max(id), 0) FROM ledger")[0][0])

    def _hash(self, number: int) -> str:
        """SHA-256 of a row's text; "" for none, and for one from before this form."""
        rows = self._database.execute("SELECT row FROM ledger WHERE id = ?", (number,))
        text = rows[0]["row"] if rows else ""
        return hashlib.sha256(text.encode()).hexdigest() if text else ""

    def _reservation(self, study: str, mechanism: Mechanism) -> tuple[int, CrossCheck | None]:
        """The steps that were set aside for the same purpose, and what another program said."""
        rows = self._database.execute(
            "SELECT mechanism ->> '$.steps' AS steps, cross_check FROM reservations "
            "WHERE study = ? AND purpose = ?",
            (study, mechanism.purpose),
        )
        if not rows:
            return mechanism.steps, None
        text = rows[0]["cross_check"].encode()
        return rows[0]["steps"], parse_json(text, CrossCheck, "reservation") if text else None


def texts(database: Database) -> list[str]:
    """All rows of a site as they were written, in order; "" for one from before this form."""
    return [row["row"] for row in database.execute("SELECT row FROM ledger ORDER BY id")]


def clip_norm(study: Study, mechanism: Mechanism) -> float:
    """How much one patient changes what is noised at most, in L2."""
    if mechanism.purpose == "training":
        return study.privacy.clip_norm or 0.0
    if mechanism.purpose == "measurement":
        return 1.0
    noise = planned_noise(study)
    return math.sqrt(noise.families) if noise is not None else 0.0


def clipping(study: Study, mechanism: Mechanism) -> str:
    """How one patient's part in what is noised is bounded."""
    if mechanism.purpose == "evaluation":
        return "none: a patient is in one cell of each family of counts"
    if mechanism.purpose == "measurement":
        return "each patient's row is scaled to length 1"
    if mechanism.sampler == "poisson":
        return "flat: each patient's gradient in each step, by Opacus"
    told = " with its capped loss" if study.strategy.q is not None else ""
    return f"flat: each patient's gradient{told}, in float64"


@functools.cache
def software() -> dict[str, str]:
    """The versions of what trains, draws noise and accounts."""
    return {package: version(package) for package in SOFTWARE}


def _lifetime(ever: Sequence[Mechanism], dataset: Dataset) -> Lifetime:
    """The account before and after the last of all mechanisms; an order that its cap fixes."""
    cap, delta = dataset.epsilon_cap, dataset.delta_cap
    order = _order(cap, delta)
    return Lifetime(
        before=f"{accounting.epsilon(ever[:-1], delta):.6f}",
        after=f"{accounting.epsilon(ever, delta):.6f}",
        cap=repr(cap),
        delta=repr(delta),
        order=repr(order),
        spent=repr(accounting.filter_spent(ever, order)),
        limit=repr(accounting.filter_limit(cap, delta, order)),
    )


def _order(cap: float, delta: float) -> float:
    """Of a cap that leaves room for nothing, where only a loss is written, the first order."""
    try:
        return accounting.filter_order(cap, delta)
    except UsageError:
        return float(accounting.ORDERS[0])


def _earlier(entries: Sequence[Entry]) -> tuple[Earlier, ...]:
    """What older rows took, if none of the dataset's was written in full yet."""
    if any(entry.full for entry in entries):
        return ()
    steps: Counter[tuple[str, Mechanism]] = Counter()
    for entry in entries:
        alike = entry.mechanism.model_copy(update={"steps": 0})
        steps[entry.study, alike] += entry.mechanism.steps
    return tuple(
        Earlier(
            study=study,
            purpose=alike.purpose,
            dp=accounting.dp_json(alike.model_copy(update={"steps": total})),
        )
        for (study, alike), total in steps.items()
    )
