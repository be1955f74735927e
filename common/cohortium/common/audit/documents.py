"""What events point to by hash: kept as canonical JSON, once, beside the log."""

import hashlib
from typing import Literal, TypeVar

from cohortium.common.audit.events import Thing
from cohortium.common.database import Database
from cohortium.common.document import Document, canonical, parse_json
from cohortium.common.errors import ProtocolError

Kind = Literal["ledger.row", "selftest"]
D = TypeVar("D", bound=Document)


def thing_of(t: str, text: bytes) -> Thing:
    """How an event names a document: its type, hash and length."""
    return Thing(t=t, h=f"sha256:{hashlib.sha256(text).hexdigest()}", bytes=len(text))


class Documents:
    """The documents of one party."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep(self, t: Kind, document: Document) -> Thing:
        """Keep a document (inside the caller's transaction); what its event names it by."""
        return self.keep_text(t, canonical(document))

    def keep_text(self, t: Kind, text: bytes) -> Thing:
        """The same for one that another party wrote, to the byte."""
        thing = thing_of(t, text)
        self._database.execute(
            "INSERT INTO documents VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (thing.h, t, text.decode()),
        )
        return thing

    def text(self, h: str) -> str | None:
        """A document as it was written, by `sha256:...`; None where there is none."""
        rows = self._database.execute("SELECT text FROM documents WHERE h = ?", (h,))
        return str(rows[0]["text"]) if rows else None

    def of(self, t: Kind, form: type[D]) -> list[D]:
        """All documents of a type, in no order."""
        rows = self._database.execute("SELECT text FROM documents WHERE t = ?", (t,))
        return [parse_json(row["text"].encode(), form, f"stored {t}") for row in rows]

    def check(self, thing: Thing, text: bytes) -> None:
        """Raise ProtocolError where a text is not what an event names."""
        if thing_of(thing.t, text).h != thing.h:
            raise ProtocolError("a document is not the one that its event names")
