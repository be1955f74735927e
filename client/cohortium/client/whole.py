"""Whether site.db is what this site wrote: asked once, when the daemon starts."""

import base64
import binascii
import hashlib
from collections.abc import Iterator

from cohortium.common.audit.events import Event, read_event
from cohortium.common.audit.integrity import Anchor, require_whole
from cohortium.common.database import Database
from cohortium.common.document import parse_json
from cohortium.common.errors import CohortiumError
from cohortium.common.privacy.accounting import Mechanism, dp_json
from cohortium.common.privacy.ledger_row import LedgerRow


def require_whole_records(database: Database) -> None:
    """Raise CohortiumError where the database or one of the site's logs was damaged or changed.

    Of the site's own log the consortium has the head: what it was told is what must be here.
    """
    require_whole(database, {"events": _told(database), "shared": None})
    _require_documents(database)
    _require_rows(database)


def _require_documents(database: Database) -> None:
    for row in database.execute("SELECT h, text FROM documents"):
        if row["h"] != _hash(row["text"]):
            raise CohortiumError(
                f"{database.path}: a document is not what its event names; restore it from a backup"
            )


def _require_rows(database: Database) -> None:
    """The ledger is what its rows say, and each row is one that an event names."""
    named = {thing.h for event in _spends(database) for thing in event.obj}
    found = set()
    for held in database.execute("SELECT * FROM ledger WHERE row <> '' ORDER BY id"):
        row = parse_json(held["row"].encode(), LedgerRow, f"{database.path}: ledger")
        ran = parse_json(held["mechanism"].encode(), Mechanism, f"{database.path}: ledger")
        columns = (held["dataset"], held["study"], held["round"], held["purpose"])
        said = (row.dataset, row.study, row.round, row.purpose)
        if columns != said or row.dp != dp_json(ran) or ran.purpose != row.purpose:
            raise CohortiumError(
                f"{database.path}: row {held['id']} of the privacy ledger is not what it was "
                "written as; restore it from a backup"
            )
        found.add(_hash(held["row"]))
    withheld = database.execute("SELECT 1 FROM events WHERE line = '' LIMIT 1")
    if named - found or (found - named and not withheld):
        raise CohortiumError(
            f"{database.path}: the privacy ledger holds {len(found)} rows and its events name "
            f"{len(named)}; restore it from a backup"
        )


def _spends(database: Database) -> Iterator[Event]:
    rows = database.execute(
        "SELECT seq, line FROM events WHERE instr(line, ?) ORDER BY seq",
        ('"action":"privacy.spent"',),
    )
    for row in rows:
        yield read_event(row["line"], f"{database.path}: event {row['seq']}")


def _hash(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _told(database: Database) -> Anchor | None:
    """The last head of the own log that was shared."""
    rows = database.execute(
        'SELECT line FROM shared WHERE instr(line, \'"action":"log.checkpoint"\') '
        "ORDER BY seq DESC LIMIT 1"
    )
    if not rows:
        return None
    detail = read_event(rows[0]["line"], f"{database.path}: log.checkpoint").detail
    return Anchor(int(detail["size"]), _root(detail["root"]))


def _root(text: str) -> bytes:
    """32 bytes in hex or, as in a checkpoint, in base64."""
    try:
        return bytes.fromhex(text) if len(text) == 64 else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return b""
