"""The privacy budget of each site's data: what was ever spent, its cap, and what that means."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from cohortium.common.audit.evidence import Evidence, once
from cohortium.common.audit.found import found_by_an_attacker
from cohortium.common.audit.report.egress import study_names
from cohortium.common.audit.report.table import Table
from cohortium.common.audit.report.words import IN_WORDS, epsilon, found, share_found
from cohortium.common.privacy.ledger_row import LedgerRow

ROW, EVENT, REPLY = "row of the privacy ledger", "event of the site", "word in the site's reply"


@dataclass(frozen=True)
class Account:
    """A dataset's account after all that is shown; source: by which record.

    found: the share of members that an attacker finds at most who accepts 1 % false alarms: from
    the mechanisms where every row of the ledger is shown, else whatever epsilon and delta allow.
    """

    site: str
    dataset: str
    spent: float
    cap: float
    delta: float
    entries: int
    source: str
    found: float

    @property
    def in_words(self) -> str:
        """What it means for one patient."""
        return f"{IN_WORDS}{share_found(self.found)} of cases"

    @property
    def share(self) -> float:
        """Of the cap, from 0 on."""
        return self.spent / self.cap if self.cap else 0.0


@once
def accounts(evidence: Evidence) -> tuple[Account, ...]:
    """By site and dataset (its lineage, where the ledger names one), by the best record there is.

    A row of the ledger counts before an event, an event before what a reply said.
    """
    best: dict[tuple[str, str], Account] = {}
    for one in (*_replies(evidence), *_events(evidence), *_rows(evidence)):
        before = best.get((one.site, one.dataset))
        entries = before.entries + 1 if before and before.source == one.source else 1
        best[one.site, one.dataset] = replace(one, entries=entries)
    return tuple(_told(best[key], evidence) for key in sorted(best))


def _told(one: Account, evidence: Evidence) -> Account:
    """With the mechanisms themselves where they are all there: epsilon alone says less."""
    rows = [row for row in evidence.ledger if row.site == one.site]
    if one.source != ROW or not _whole(rows):
        return one
    own = [row for row in rows if (row.lineage or row.dataset) == one.dataset]
    share = found_by_an_attacker(own)
    return one if share is None else replace(one, found=min(share, one.found))


def _whole(rows: list[LedgerRow]) -> bool:
    """Whether these are all rows of a site, and it had none before rows were kept like this."""
    numbers = sorted(int(row.id.rpartition("-")[2]) for row in rows)
    return numbers == list(range(1, len(rows) + 1)) and not any(row.earlier for row in rows)


def budget(found: tuple[Account, ...]) -> Table:
    """All accounts, for `budget.csv`."""
    return Table(
        name="budget",
        file="report/budget.csv",
        title="Privacy budget by site and dataset, over all studies",
        header=(
            "site", "dataset", "epsilon spent", "epsilon cap", "share of cap", "delta", "unit",
            "adjacency", "entries", "in words", "by",
        ),
        rows=tuple(
            (
                one.site,
                one.dataset,
                epsilon(one.spent),
                epsilon(one.cap),
                f"{100 * one.share:.0f}%",
                f"{one.delta:g}",
                "patient",
                "add or remove one",
                str(one.entries),
                one.in_words,
                one.source,
            )
            for one in found
        ),
        empty="No privacy was spent: no site has released anything that a ledger accounts for.",
        note="Mechanisms are composed; epsilons are never added up.",
        numeric=frozenset(("epsilon spent", "epsilon cap", "share of cap", "delta", "entries")),
        wide=frozenset(("unit", "adjacency")),
    )  # fmt: skip


def by_study(evidence: Evidence) -> Table:
    """What each study has cost each site's patients, at the study's delta."""
    names, found = study_names(evidence), dict[tuple[str, str, str], tuple[str, ...]]()
    for study in evidence.studies:
        for record in study.rounds:
            for site, spent in record.spent.items():
                found[study.study.name, site, "training"] = (
                    spent.sampler, f"{spent.noise_multiplier:.4f}", str(spent.steps),
                    epsilon(spent.epsilon), f"{spent.delta:g}",
                )  # fmt: skip
    steps = dict[tuple[str, str, str], int]()
    for row in evidence.ledger:
        key = (names.get(row.study, row.study[:12]), row.site, row.purpose)
        steps[key] = steps.get(key, 0) + row.steps
        found[key] = (row.sampler, row.noise_multiplier, str(steps[key]), row.epsilon, row.delta)
    promised = {one.study.name: one.study.privacy.epsilon for one in evidence.studies}
    return Table(
        name="budget-by-study",
        file="report/budget-by-study.csv",
        title="Privacy spent by study and site",
        header=(
            "study", "site", "purpose", "sampler", "noise multiplier", "steps", "epsilon", "delta",
            "promised",
        ),
        rows=tuple(
            (*key, *found[key], _promise(promised.get(key[0])) if key[2] == "training" else "")
            for key in sorted(found)
        ),
        empty="No study has spent any privacy.",
        numeric=frozenset(("noise multiplier", "steps", "epsilon", "delta", "promised")),
    )  # fmt: skip


def _account(
    site: str, dataset: str, spent: float, cap: float, delta: float, source: str
) -> Account:
    return Account(site, dataset, spent, cap, delta, 0, source, found(spent, delta))


def _rows(evidence: Evidence) -> Iterator[Account]:
    for row in evidence.ledger:
        life = row.lifetime
        numbers = (float(life.after), float(life.cap), float(life.delta))
        yield _account(row.site, row.lineage or row.dataset, *numbers, ROW)


def _events(evidence: Evidence) -> Iterator[Account]:
    """Of rows from before the ledger's rows could be named by hash."""
    held = {(row.site, name) for row in evidence.ledger for name in (row.dataset, row.lineage)}
    for event in evidence.events:
        detail: Mapping[str, str] = event.detail
        if event.action != "privacy.spent" or not {"epsilon_after", "cap", "delta"} <= set(detail):
            continue
        site, dataset = event.src.node, detail.get("dataset", "")
        try:
            after, cap, delta = (float(detail[key]) for key in ("epsilon_after", "cap", "delta"))
        except ValueError:
            continue
        if (site, dataset) not in held:
            yield _account(site, dataset, after, cap, delta, EVENT)


def _replies(evidence: Evidence) -> Iterator[Account]:
    """Of sites whose own events are not in the log that is shown."""
    spoke = {event.src.node for event in evidence.events if event.action == "privacy.spent"}
    spoke |= {row.site for row in evidence.ledger}
    for study in sorted(evidence.studies, key=lambda one: one.submitted_at):
        for record in study.rounds:
            for site, spent in record.spent.items():
                if site not in spoke:
                    numbers = (spent.lifetime_epsilon, spent.cap_epsilon, spent.cap_delta)
                    yield _account(site, study.study.data.dataset, *numbers, REPLY)


def _promise(value: float | None) -> str:
    return "none" if value is None else epsilon(value)
