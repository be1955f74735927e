"""The documents that shown events name by hash, in the order of the log."""

from collections.abc import Iterable
from typing import TypeVar

from cohortium.common.audit.documents import Documents, Kind
from cohortium.common.audit.events import Action
from cohortium.common.audit.recorded import AnyEvent
from cohortium.common.document import Document, parse_json
from cohortium.common.privacy.ledger_row import LedgerRow
from cohortium.common.privacy.selftest import Selftest

D = TypeVar("D", bound=Document)


def ledger_rows(events: Iterable[AnyEvent], documents: Documents) -> tuple[LedgerRow, ...]:
    """The rows of the privacy ledger that events record as spent."""
    return _named(events, documents, "privacy.spent", "ledger.row", LedgerRow)


def selftests(events: Iterable[AnyEvent], documents: Documents) -> tuple[Selftest, ...]:
    """The results of empirical audits that events record."""
    return _named(events, documents, "privacy.selftest", "selftest", Selftest)


def _named(
    events: Iterable[AnyEvent], documents: Documents, action: Action, kind: Kind, form: type[D]
) -> tuple[D, ...]:
    found = dict[str, D]()
    for event in events:
        for thing in event.obj if event.action == action else ():
            text = documents.text(thing.h) if thing.t == kind else None
            if text is not None:
                found.setdefault(thing.h, parse_json(text.encode(), form, f"stored {kind}"))
    return tuple(found.values())
