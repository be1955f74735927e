"""What sites have shown of their private training: audits, and the code that trained.

A document counts only where an event of that very site in the consortium's log names it by hash.
One that is not as it should be counts for nothing, as if it had not been sent.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import TypeVar

from cohortium.common.audit.documents import Documents, Kind, thing_of
from cohortium.common.audit.events import Action, read_event
from cohortium.common.database import Database
from cohortium.common.document import Document, parse_json
from cohortium.common.errors import CohortiumError
from cohortium.common.privacy.ledger_row import LedgerRow
from cohortium.common.privacy.selftest import Selftest

D = TypeVar("D", bound=Document)


def selftests(database: Database) -> dict[str, tuple[Selftest, ...]]:
    """Every audit of every site, in the order in which the log has them."""
    found: dict[str, tuple[Selftest, ...]] = defaultdict(tuple)
    for site, test in _named(database, "privacy.selftest", "selftest", Selftest):
        if test.site == site:
            found[site] += (test,)
    return dict(found)


def training_codes(database: Database, study: str) -> dict[str, frozenset[str]]:
    """Digests of the code that sites trained a study with, as their ledger rows say."""
    found: dict[str, frozenset[str]] = defaultdict(frozenset)
    for site, row in _named(database, "privacy.spent", "ledger.row", LedgerRow, study):
        if (row.site, row.study, row.purpose) == (site, study, "training"):
            found[site] |= {row.code}
    return dict(found)


def _named(
    database: Database, action: Action, t: Kind, form: type[D], study: str = ""
) -> Iterator[tuple[str, D]]:
    """Documents of a type that sites' events with an action name, and whose they are."""
    documents = Documents(database)
    rows = database.execute(
        "SELECT node, line FROM consortium "
        "WHERE node <> '' AND instr(line, ?) AND instr(line, ?) ORDER BY seq",
        (f'"action":"{action}"', study),
    )
    for row in rows:
        try:
            event = read_event(row["line"], f"an event of {row['node']}")
        except CohortiumError:
            continue
        for thing in event.obj if event.action == action else ():
            text = documents.text(thing.h) if thing.t == t else None
            if text is None or thing_of(t, text.encode()).h != thing.h:
                continue
            try:
                yield row["node"], parse_json(text.encode(), form, f"{t} of {row['node']}")
            except CohortiumError:
                continue
