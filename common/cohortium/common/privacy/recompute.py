"""Computing a privacy ledger again from its rows alone, as an auditor does.

Nothing is believed but what ran (`dp`), in which order (`prev`): every epsilon, the account before
and after, the filter and the cap are computed from that. Who changed a number must have changed all
that follows from it; what follows from nothing, such as a version, is held by the row's hash in the
log. Each problem names row and field.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant

from cohortium.common.document import canonical
from cohortium.common.errors import CohortiumError, DocumentError, UsageError
from cohortium.common.privacy import accounting
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.privacy.cross_check import agree
from cohortium.common.privacy.ledger_row import Earlier, LedgerRow

EXACT = 1e-5  # what rounding to six digits, and another machine, may change
FILTER_EXACT = 1e-9  # relative: a plain sum


@dataclass(frozen=True)
class _Spent:
    study: str
    mechanism: Mechanism


@dataclass(frozen=True)
class _Link:
    """A row of a chain with what it says was spent; nothing where that cannot be read."""

    row: LedgerRow
    spent: tuple[_Spent, ...]


Links = Mapping[str, _Link]  # by the hash of the row


def recompute(rows: Sequence[LedgerRow], *, whole: bool = True) -> list[str]:
    """What is wrong with the rows of any number of sites, in any order; nothing where all is right.

    Args:
        whole: whether all rows of these sites should be here. Without those of other studies an
            account cannot be computed again, and only what a row says of itself is.
    """
    links = {hashlib.sha256(canonical(row)).hexdigest(): _link(row) for row in rows}
    ends = _ends(links)
    problems = list(_forks(links)) if whole else []
    for link in sorted(links.values(), key=_order):
        try:
            problems += _of_itself(link.row)
            chain = _chain(link, links)
            if not chain[0].row.prev:
                problems += _of_the_account(chain, by_dp_accounting=link in ends)
            elif whole:
                problems.append(f"row {link.row.id}: prev: the row before it is not here")
        except (ValueError, ArithmeticError, CohortiumError):
            problems.append(f"row {link.row.id}: holds a number that nothing can be computed with")
    return problems


def _link(row: LedgerRow) -> _Link:
    try:
        before = tuple(_Spent(earlier.study, _earlier(earlier)) for earlier in row.earlier)
        return _Link(row, (*before, _Spent(row.study, _mechanism(row))))
    except (ValueError, CohortiumError):
        return _Link(row, ())


def _order(link: _Link) -> tuple[str, int, str]:
    return link.row.site, _number(link.row), link.row.at


def _number(row: LedgerRow) -> int:
    digits = row.id.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else 0


def _chain(link: _Link, links: Links) -> list[_Link]:
    """The row with all before it, the oldest first."""
    chain = [link]
    while (before := links.get(chain[-1].row.prev)) is not None:
        chain.append(before)
    return chain[::-1]


def _ends(links: Links) -> list[_Link]:
    """The last row of each chain and population: what it says of the account holds now."""
    followed = {link.row.prev for link in links.values()}
    tips = [link for digest, link in links.items() if digest not in followed]
    chains = [_chain(tip, links) for tip in tips]
    return [link for chain in chains for link in {one.row.lineage: one for one in chain}.values()]


def _forks(links: Links) -> Iterator[str]:
    """Two rows after one: only where the site lost rows, and counted them as spent, may that be."""
    after: dict[tuple[str, str], list[LedgerRow]] = {}
    for link in sorted(links.values(), key=_order):
        after.setdefault((link.row.site, link.row.prev), []).append(link.row)
    for rows in after.values():
        first, *others = sorted(rows, key=lambda row: row.round < 1)
        for other in others:
            if other.round >= 1:
                yield f"row {other.id}: prev: another row of that place is here, {first.id}"


def _of_itself(row: LedgerRow) -> Iterator[str]:
    """What one row says twice, or what follows from it alone."""
    where = f"row {row.id}"
    said = _mechanism(row)
    if accounting.from_dp_json(row.dp) != said.event():
        yield f"{where}: dp: is not what sampler, sample_rate, noise_multiplier and steps say"
    if row.id != f"{row.site}-{_number(row)}" or _number(row) < 1:
        yield f"{where}: id: is not that of a row of {row.site}"
    account, cap, delta = row.lifetime, float(row.lifetime.cap), float(row.lifetime.delta)
    try:
        order = accounting.filter_order(cap, delta)
    except UsageError:  # a cap that leaves room for nothing: a loss is written all the same
        order = float(accounting.ORDERS[0])
    under = f"under a cap of {account.cap} at delta {account.delta}"
    if float(account.order) != order:
        yield f"{where}: lifetime.order: {under} it is {order:g}, not {account.order}"
    limit = accounting.filter_limit(cap, delta, order)
    if not _same(float(account.limit), limit):
        yield f"{where}: lifetime.limit: {under} it is {limit:.6f}, not {account.limit}"
    if row.cross_check is not None:
        yield from _of_the_check(row, said)


def _of_the_check(row: LedgerRow, said: Mechanism) -> Iterator[str]:
    """What the other program said of the whole plan."""
    assert row.cross_check is not None
    where, check = f"row {row.id}: cross_check", row.cross_check
    plan = said.model_copy(update={"steps": row.steps_planned})
    ours, theirs = accounting.epsilon((plan,), float(row.delta)), float(check.epsilon)
    if check.accountant.settings.get("steps") != str(row.steps_planned):
        yield f"row {row.id}: steps_planned: is not what the other program was asked for"
    if not check.agrees:
        yield f"{where}.agrees: the programs did not agree, and the study ran"
    bound = check.accountant.settings.get("bound") == "upper"
    if (bound and ours > theirs * (1 + 1e-6)) or (not bound and not agree(ours, theirs)):
        yield f"{where}.epsilon: the plan costs {ours:.6f}, not {check.epsilon}"


def _of_the_account(chain: Sequence[_Link], by_dp_accounting: bool) -> Iterator[str]:
    """What a row says of its study and of the dataset, from all that was spent before it."""
    row, where = chain[-1].row, f"row {chain[-1].row.id}"
    if len(chain) > 1 and (before := chain[-2].row):
        if _number(row) != _number(before) + 1:
            yield f"{where}: id: does not follow {before.id}"
        if row.site != before.site:
            yield f"{where}: prev: is a row of another site"
    ever = [s for link in chain if link.row.lineage == row.lineage for s in link.spent]
    yield from _of_the_study(row, ever)
    yield from _of_the_lifetime(row, [spent.mechanism for spent in ever], by_dp_accounting)


def _of_the_study(row: LedgerRow, ever: Sequence[_Spent]) -> Iterator[str]:
    own = [s.mechanism for s in ever if (s.study, s.mechanism.purpose) == (row.study, row.purpose)]
    yield from _compare(row, "epsilon", row.epsilon, accounting.epsilon(own, float(row.delta)))
    done = sum(mechanism.steps for mechanism in own)
    if row.round >= 1 and done > row.steps_planned:
        yield f"row {row.id}: steps_planned: {done} steps were taken, not {row.steps_planned}"


def _of_the_lifetime(
    row: LedgerRow, ever: Sequence[Mechanism], by_dp_accounting: bool
) -> Iterator[str]:
    account, delta = row.lifetime, float(row.lifetime.delta)
    after = accounting.epsilon(ever, delta)
    before = accounting.epsilon(ever[:-1], delta)
    yield from _compare(row, "lifetime.before", account.before, before)
    yield from _compare(row, "lifetime.after", account.after, after)
    spent = accounting.filter_spent(ever, float(account.order))
    if not _same(float(account.spent), spent):
        yield f"row {row.id}: lifetime.spent: is {spent:.6f}, not {account.spent}"
    if row.round >= 1 and not _within(spent, float(account.limit)):
        yield f"row {row.id}: lifetime.cap: the filter forbids it: {spent:.6f} of {account.limit}"
    if by_dp_accounting and after <= accounting.PLD_MAX_EPSILON:
        theirs = _by_dp_accounting(ever, delta)
        if not agree(theirs, after):
            yield f"row {row.id}: lifetime.after: dp-accounting alone gives {theirs:.6f}"


def _mechanism(row: LedgerRow) -> Mechanism:
    return Mechanism(
        sampler=row.sampler,
        sample_rate=float(row.sample_rate),
        noise_multiplier=float(row.noise_multiplier),
        steps=row.steps,
        purpose=row.purpose,
    )


def _earlier(earlier: Earlier) -> Mechanism:
    """The mechanism of an interchange record."""
    event = accounting.from_dp_json(earlier.dp)
    if not isinstance(event, dp_event.SelfComposedDpEvent):
        raise DocumentError("earlier: is not so many times the same")
    inner, rate = event.event, 1.0
    if isinstance(inner, dp_event.PoissonSampledDpEvent):
        inner, rate = inner.event, inner.sampling_probability
    if not isinstance(inner, dp_event.GaussianDpEvent):
        raise DocumentError("earlier: has no noise of ours")
    return Mechanism(
        sampler="poisson" if rate < 1 else "full-batch",
        sample_rate=rate,
        noise_multiplier=inner.noise_multiplier,
        steps=event.count,
        purpose=earlier.purpose,
    )


def _by_dp_accounting(ever: Sequence[Mechanism], delta: float) -> float:
    """The same by the library's own accountant, without a line of ours."""
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    steps: Counter[tuple[float, float]] = Counter()
    for mechanism in ever:
        steps[mechanism.sample_rate, mechanism.noise_multiplier] += mechanism.steps
    for (rate, noise), count in steps.items():
        event: dp_event.DpEvent = dp_event.GaussianDpEvent(noise)
        if rate < 1:
            event = dp_event.PoissonSampledDpEvent(rate, event)
        accountant.compose(event, count)
    return float(accountant.get_epsilon(delta))


def _compare(row: LedgerRow, field: str, told: str, found: float) -> Iterator[str]:
    """Another version of the accountant may differ in the second digit."""
    same = row.accountant.version == version("dp-accounting") or row.accountant.name[:3] != "dp-"
    near = float(told) == found or abs(float(told) - found) <= EXACT * max(1.0, found)
    if not near and (same or not agree(float(told), found)):
        yield f"row {row.id}: {field}: is {found:.6f}, not {told}"


def _same(one: float, other: float) -> bool:
    return one == other or abs(one - other) <= FILTER_EXACT * max(abs(one), abs(other))


def _within(spent: float, limit: float) -> bool:
    return spent <= limit or _same(spent, limit)
