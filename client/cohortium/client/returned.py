"""A site.db from an old backup: the consortium gives this site its own shared events back.

our signed head fits? -> we lack events: from which on? -> pages, each the beginning of what our
  head is over, set aside -> the last of them: has a person accepted the loss?
  -> in one transaction: put back in their places, what was recorded since behind them

Nothing counts but what our own key has signed: a coordinator can give back less, never more or
other events. The ledger is not touched: `site accept-loss` counts what was lost as spent, by these
events too (`lost.py`), so that even a backup with its mark forgets nothing once they are here.
"""

import hashlib
import json
import secrets
from collections import Counter
from typing import Final

from cohortium.client import anchors, rotation
from cohortium.client.cosigned import Cosigned
from cohortium.client.site import Site
from cohortium.client.watermark import Account, LostRecords
from cohortium.common.audit import merkle, names
from cohortium.common.audit.documents import Kind, thing_of
from cohortium.common.audit.events import SALT_BYTES, Event, read_event
from cohortium.common.audit.merkle import EMPTY_ROOT, Peaks, Proof
from cohortium.common.audit.notes import Checkpoint, log_key, read_note
from cohortium.common.audit.tree import Tree
from cohortium.common.database import Database
from cohortium.common.document import canonical, parse_json
from cohortium.common.errors import CohortiumError, DocumentError, ProtocolError, RefusedError
from cohortium.common.messages import Returned, Witness
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.privacy.ledger_row import LedgerRow

RULE = "log.behind"
KINDS: Final[tuple[Kind, ...]] = ("ledger.row", "selftest")
ACCEPTED = "a loss of records was accepted"
_ACCEPT = (
    "its site.db is from an old backup; the site operator puts the newer one back, or runs "
    "`cohortium site accept-loss --as PERSON`"
)


def take_back(site: Site, message: Witness) -> int | None:
    """Take back what we lack of our own events; None where, by now, nothing is lacking.

    Returns:
        From which event on the coordinator is to give them back.

    Raises:
        RefusedError: what it holds is not what we signed, or nobody has accepted the loss yet.
        ProtocolError: what it gives back is not ours.
        LostRecords: the mark knows of the loss, too, and nobody has accepted it.
    """
    head = _lacking(site, message)
    if head is None:
        return None
    site.watermark.check()
    if message.returned is not None:
        with site.database.transaction():
            _set_aside(site, head, message.returned)
    if _next(site) < head.size:
        return _next(site)
    if unaccepted(site):
        raise RefusedError(RULE, f"this site has lost events that it had signed: {_ACCEPT}")
    _put_back(site, head)
    return None


def _lacking(site: Site, message: Witness) -> Checkpoint | None:
    """What we signed last of our shared events, where they are no longer all here."""
    tree = Tree(site.database, "shared")
    head = _own(site, message.head)
    if head is None or head.size != message.have:
        raise RefusedError(
            RULE,
            f"the coordinator holds {message.have} events of this site, and does not show the "
            "checkpoint that a key of this site has signed over them",
        )
    whole = head.size <= tree.size() and tree.root(head.size) == head.root
    return None if whole else head


def _own(site: Site, text: str) -> Checkpoint | None:
    """What one of our keys, present or former, has signed of our shared log; None for no such."""
    origin = names.site_log(site.config.coordinator.name, site.name)
    if not text:
        return Checkpoint(origin, 0, EMPTY_ROOT)
    note = read_note(text, "our own checkpoint")
    keys = rotation.public_keys(site.directory)
    ours = any(note.signed_by(log_key(origin, key)) for key in keys)
    return note.checkpoint if ours and note.checkpoint.origin == origin else None


def _next(site: Site) -> int:
    """The first event that is neither proven to be in the consortium's log nor set aside."""
    rows = site.database.execute("SELECT max(seq) + 1 FROM returned")
    return int(rows[0][0] or Cosigned(site.database).proven())


def _set_aside(site: Site, head: Checkpoint, page: Returned) -> None:
    """Keep a page that follows the last (inside the caller's transaction); else leave it alone.

    Raises:
        ProtocolError, RefusedError: it is not what we signed; nothing of it is kept.
    """
    first = _next(site)
    if page.first != first or not page.lines:
        return
    events = [_event(site, line, first + n) for n, line in enumerate(page.lines)]
    proof: Proof = tuple(bytes.fromhex(step) for step in page.proof)
    grown = _before(site).plus(event.leaf for event in events)
    if not merkle.grew(grown.size, head.size, grown.root, head.root, proof):
        raise RefusedError(RULE, "what the coordinator gives back is not what this site signed")
    _keep_documents(site, events, page)
    site.database.execute_many(
        "INSERT INTO returned VALUES (?, ?, ?)",
        ((event.src.seq, event.line, event.leaf) for event in events),
    )


def _event(site: Site, line: str, seq: int) -> Event:
    try:
        event = read_event(line, "a returned event")
    except DocumentError as error:
        raise ProtocolError(str(error)) from None
    if (event.src.node, event.src.org, event.src.seq) != (site.name, site.name, seq):
        raise ProtocolError("a returned event is another's, or out of its place")
    return event


def _before(site: Site) -> Peaks:
    """The tree over what is known to be ours: what is proven, and what was set aside."""
    rows = site.database.execute(
        "SELECT leaf FROM shared WHERE seq < coalesce((SELECT min(seq) FROM returned), ?) "
        "ORDER BY seq",
        (Cosigned(site.database).proven(),),
    )
    rows += site.database.execute("SELECT leaf FROM returned ORDER BY seq")
    return Peaks().plus(row["leaf"] for row in rows)


def _keep_documents(site: Site, events: list[Event], page: Returned) -> None:
    """Should the consortium lose them, they can be handed over again."""
    named = {(thing.t, thing.h) for event in events for thing in event.obj}
    for kind, text in page.documents:
        if (kind, thing_of(kind, text.encode()).h) not in named:
            raise ProtocolError("a returned document is none that its events name")
        for known in KINDS:
            if known == kind:
                site.documents.keep_text(known, text.encode())


# ------------------------------------------------------------------ a person's word


def require_none_lost(site: Site) -> None:
    """Raise LostRecords where the consortium has shown us a loss that nobody has accepted."""
    if unaccepted(site):
        raise LostRecords(
            f"{site.database.path}: lacks events that this site had signed; put the newer one "
            "back, or the site operator runs `cohortium site accept-loss --as PERSON`"
        )


def unaccepted(site: Site) -> bool:
    """Whether events were given back, and no person has accepted their loss since the last.

    Or what they spent is not all counted as spent.
    """
    rows = site.database.execute("SELECT line FROM returned ORDER BY seq DESC LIMIT 1")
    if not rows:
        return False
    lost_at = read_event(rows[0]["line"], "a returned event").ts
    accepted = site.database.execute(
        "SELECT line FROM events WHERE instr(line, ?) ORDER BY seq DESC LIMIT 1",
        (f'"reason":"{ACCEPTED}"',),
    )
    if not accepted or read_event(accepted[0]["line"], "our log").ts <= lost_at:
        return True
    return bool(uncounted(site))


def uncounted(site: Site) -> list[Account]:
    """What events that were given back have spent, and no row of the ledger stands for.

    Rows for a loss (`round` below 1) that were written since stand for it.
    """
    spent: Counter[tuple[str, str, str]] = Counter()
    for row in site.database.execute(
        "SELECT line FROM returned WHERE seq >= ? AND instr(line, ?) ORDER BY seq",
        (_parting(site), '"action":"privacy.spent"'),
    ):
        event = read_event(row["line"], "a returned event")
        said, study = event.detail, event.study or ""
        made = _mechanism(said, said.get("kind", "training"), int(said["steps"]))
        spent[said["dataset"], study, _noise(made)] += made.steps
    known = _named_before(site)
    rows = site.database.execute("SELECT row FROM ledger WHERE row <> '' AND round < 1")
    for text in (row["row"] for row in rows):
        if f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" not in known:
            paid = parse_json(text.encode(), LedgerRow, "ledger row")
            made = _mechanism(paid.model_dump(), paid.purpose, paid.steps)
            spent[paid.dataset, paid.study, _noise(made)] -= paid.steps
    return [
        Account(dataset=dataset, study=study, noise=noise, steps=steps)
        for (dataset, study, noise), steps in spent.items()
        if steps > 0
    ]


def _mechanism(said: object, purpose: str, steps: int) -> Mechanism:
    assert isinstance(said, dict)
    values = {
        "sampler": said["sampler"],
        "sample_rate": float(said["sample_rate"]),
        "noise_multiplier": float(said["noise_multiplier"]),
        "steps": steps,
        "purpose": purpose,
    }
    return parse_json(json.dumps(values).encode(), Mechanism, "a returned event")


def _noise(mechanism: Mechanism) -> str:
    """The mechanism without its steps."""
    values = json.loads(canonical(mechanism))
    del values["steps"]
    return json.dumps(values, sort_keys=True)


def _named_before(site: Site) -> set[str]:
    """Rows of the ledger from before the loss, by hash."""
    rows = site.database.execute(
        "SELECT line FROM shared WHERE seq < ? AND instr(line, ?)",
        (_parting(site), '"action":"privacy.spent"'),
    )
    return {thing["h"] for row in rows for thing in json.loads(row["line"]).get("obj", ())}


# ------------------------------------------------------------------ putting them back


def _parting(site: Site) -> int:
    """The first event that was lost: from there on other events stand here, or none."""
    rows = site.database.execute(
        "SELECT min(r.seq) FROM returned r LEFT JOIN shared s ON s.seq = r.seq "
        "WHERE s.leaf IS NOT r.leaf"
    )
    return int(rows[0][0]) if rows[0][0] is not None else Tree(site.database, "shared").size()


def _put_back(site: Site, head: Checkpoint) -> None:
    """All lost events in their places, and behind them what was recorded here since: at once.

    What was recorded since was shown to nobody: we sign nothing over our shared log, and hand
    nothing over, unless we are shown our own last checkpoint and have all of it. So it may get
    another place and salt; its id and time say that it is the same. (A coordinator that shows an
    older checkpoint of ours has then seen some of it at two places: it says the same twice.)
    A kill leaves everything as it was before.
    """
    with site.database.transaction():
        first, log = _parting(site), site.log
        since = _recorded_since(site, first)
        _clear(site.database, first)
        site.database.execute("INSERT INTO shared SELECT * FROM returned WHERE seq >= ?", (first,))
        if Tree(site.database, "shared").root(head.size) != head.root:
            raise CohortiumError(
                f"{site.database.path}: what was given back does not fit what is here; put a newer "
                "one back"
            )
        detail = {
            "origin": head.origin,
            "size": str(head.size),
            "root": head.root.hex(),
            "first": str(first),
        }
        log.append("log.recovered", actor=site.actor, detail=detail)
        for event in since:
            _move_behind(site.database, event)
        anchors.write(site)  # the last head that the lost log had named is not that of ours
        site.database.execute("DELETE FROM returned")


def _recorded_since(site: Site, first: int) -> list[Event]:
    rows = site.database.execute("SELECT line FROM shared WHERE seq >= ? ORDER BY seq", (first,))
    return [read_event(row["line"], f"{site.database.path}: shared event") for row in rows]


def _clear(database: Database, first: int) -> None:
    """Let go of the places from `first` on, inside the caller's transaction.

    The one place where shared events are deleted, none of which was ever handed over: the trigger
    that forbids it is away meanwhile, and comes back by its own text.
    """
    ((guard,),) = database.execute(
        "SELECT sql FROM sqlite_master WHERE name = 'shared_are_never_deleted'"
    )
    database.execute("DROP TRIGGER shared_are_never_deleted")
    database.execute("DELETE FROM shared WHERE seq >= ?", (first,))
    database.execute(guard)
    database.execute(
        "DELETE FROM tree WHERE log = 'shared' AND (position + 1) << level > ?", (first,)
    )


def _move_behind(database: Database, event: Event) -> None:
    place = event.src.model_copy(update={"seq": Tree(database, "shared").size()})
    moved = event.model_copy(update={"src": place, "salt": secrets.token_hex(SALT_BYTES)})
    database.execute(
        "INSERT INTO shared (seq, line, leaf) VALUES (?, ?, ?)",
        (place.seq, moved.line, moved.leaf),
    )
