"""Giving a site its own events back, where its database is an old backup.

We hold the lines that the site has signed; it takes only what its own checkpoint is over. Whatever
page it asks for, it can ask for each event of its own once in an exchange.
"""

from typing import Final

from cohortium.common.audit import merkle
from cohortium.common.audit.documents import Documents
from cohortium.common.audit.events import read_event
from cohortium.common.database import Database
from cohortium.common.messages import Returned, Witness, Witnessed
from cohortium.server.witnessed import FORMS, Asked, Taken, Untrue

MAX_LINES: Final = 500  # in one question
MAX_CHARACTERS: Final = 256 * 2**10  # of lines and documents in one question


def page(database: Database, site: str, first: int | None) -> Returned | None:
    """A site's events from `first` on, as many as may go at once; None where it lacks none.

    Raises:
        Untrue: the text of the first of them is withheld here, too.
    """
    if first is None:
        return None
    lines, documents, left = list[str](), dict[str, tuple[str, str]](), MAX_CHARACTERS
    for row in database.execute(
        "SELECT line FROM consortium WHERE node = ? AND node_seq >= ? ORDER BY node_seq LIMIT ?",
        (site, first, MAX_LINES),
    ):
        named = _documents(database, row["line"]) if row["line"] else {}
        left -= len(row["line"]) + sum(len(text) for _, text in named.values())
        if not row["line"] or (lines and left < 0):
            break
        lines.append(row["line"])
        documents.update(named)
    if not lines:
        raise Untrue("log.behind", f"event {first}, which the site has lost, is withheld here")
    proof = _consistency(database, site, first + len(lines))
    return Returned(
        first=first, lines=tuple(lines), proof=proof, documents=tuple(documents.values())
    )


def lacking(said: Witnessed, question: Witness, asked: Asked) -> Taken:
    """Nothing is taken from a site that has lost events of its own, before it has them again.

    Raises:
        Untrue: it took less than it was given, or lacks what nobody has.
    """
    first, given = said.lacks or 0, question.returned
    if given is not None and first != given.first + len(given.lines):
        raise Untrue("witness.lacks", "the site did not take the events that it had asked for")
    if first >= asked.leaves.size or said.proven > first:
        raise Untrue("witness.lacks", "the site lacks events that it has, or that are not here")
    return Taken(
        cosignature="",
        size=0,
        newer=None,
        proven=said.proven,
        lines=(),
        documents=(),
        head="",
        leaves=asked.leaves,
    )


def _documents(database: Database, line: str) -> dict[str, tuple[str, str]]:
    kept = Documents(database)
    things = [thing for thing in read_event(line, "a site's event").obj if thing.t in FORMS]
    texts = {thing.h: (thing.t, kept.text(thing.h)) for thing in things}
    return {h: (kind, text) for h, (kind, text) in texts.items() if text is not None}


def _consistency(database: Database, site: str, size: int) -> tuple[str, ...]:
    """What proves that the site's first `size` events are the beginning of all that are here."""
    rows = database.execute("SELECT leaf FROM consortium WHERE node = ? ORDER BY node_seq", (site,))
    leaves = [row["leaf"] for row in rows]
    proof = merkle.consistency(size, len(leaves), merkle.nodes_of(leaves))
    return tuple(step.hex() for step in proof)
