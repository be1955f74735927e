"""Whether what a site answers as a witness may be taken: every check, and nothing else.

A site may be hostile. Nothing of an answer is taken unless all of it is right: free text, a foreign
event, a gap or a forged cosignature would otherwise stand in the consortium's log for good.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cohortium.common.audit import names, shared
from cohortium.common.audit.documents import Kind, thing_of
from cohortium.common.audit.events import Actor, Event, read_event
from cohortium.common.audit.merkle import Peaks
from cohortium.common.audit.notes import Note, log_key, read_note, witness_key
from cohortium.common.document import Document, canonical, parse_json
from cohortium.common.errors import CohortiumError, ProtocolError
from cohortium.common.identity import VerifyKey
from cohortium.common.messages import Witnessed
from cohortium.common.privacy.ledger_row import LedgerRow
from cohortium.common.privacy.selftest import Selftest

MAX_ANSWER = 256 * 2**10  # characters of events and documents; an honest site sends 40 KiB
MAX_DOCUMENT = 16 * 2**10
MAX_TEXT = 500  # characters of one value in a document
CLOCK_S = 3600  # by which a site's clock may be off
FORMS: Final[Mapping[str, type[LedgerRow] | type[Selftest]]] = {
    "ledger.row": LedgerRow,
    "selftest": Selftest,
}


class Untrue(ProtocolError):
    """A site's answer breaks a rule; none of it is taken."""

    def __init__(self, rule: str, explanation: str) -> None:
        super().__init__(f"{rule}: {explanation}")
        self.rule = rule


@dataclass(frozen=True)
class Asked:
    """What a site was asked, and what is known of it: `leaves` are its events that are here.

    former: keys that it had before. What it logged then and had not handed over names them, and
    counts by its present key's word for all of its events.
    """

    site: str
    key: VerifyKey
    coordinator: str
    own_key: VerifyKey
    note: Note
    leaves: Peaks
    now_s: int
    former: tuple[VerifyKey, ...] = ()


@dataclass(frozen=True)
class Taken:
    """What of an answer may be kept: `leaves` are the site's with the new ones.

    cosignature: a line, "" for none. size: from which the site wants to be shown that the log grew.
    newer: what it cosigned last, by our own signature; None where it cosigned just now, or never.
    """

    cosignature: str
    size: int
    newer: Note | None
    proven: int
    lines: tuple[str, ...]
    documents: tuple[tuple[str, str], ...]
    head: str
    leaves: Peaks


def kind(word: str) -> Kind:
    """A document's type, which was checked."""
    return "ledger.row" if word == "ledger.row" else "selftest"


def check(said: Witnessed, asked: Asked) -> Taken:
    """All of an answer, or Untrue, which names the rule."""
    # 1. Not more than an honest site would send at once.
    length = sum(map(len, said.events)) + sum(len(text) for _, text in said.documents)
    if length > MAX_ANSWER:
        raise Untrue("witness.size", "the answer holds more than is taken at once")
    # 2. The site's own events, each after the last one that is here.
    events = [_event(line, asked, number) for number, line in enumerate(said.events)]
    # 3. The documents that these events name, and no others.
    _check_documents(said, events, asked)
    # 4. Its own word for all of its events.
    leaves = asked.leaves.plus(event.leaf for event in events)
    _check_head(said.checkpoint, asked, leaves)
    # 5. What it knows of our log.
    newer = _newer(said.newer, asked) if said.newer else None
    if said.cosignature:
        _check_cosignature(said, asked)
    elif newer is None and said.size:
        raise Untrue("witness.size", "the site says that it cosigned, and does not show what")
    elif newer is not None and said.size > newer.checkpoint.size:
        raise Untrue("witness.size", "the site asks for more than it says that it cosigned")
    return Taken(
        cosignature=said.cosignature,
        size=said.size,
        newer=newer,
        proven=said.proven,
        lines=said.events,
        documents=said.documents,
        head=said.checkpoint,
        leaves=leaves,
    )


def _event(line: str, asked: Asked, number: int) -> Event:
    known = [f"signature:{key.fingerprint}" for key in (asked.key, *asked.former)]
    try:
        event = read_event(line, f"event {asked.leaves.size + number}")
        by = event.actor.auth if event.actor.auth in known else known[0]
        shared.check(event, Actor(type="site", id=asked.site, auth=by))
    except CohortiumError as error:
        raise Untrue("witness.event", str(error)) from None
    source = (event.src.node, event.src.org, event.src.seq)
    if source != (asked.site, asked.site, asked.leaves.size + number):
        raise Untrue("witness.event", "an event is another's, or not the one after the last")
    return event


def _check_documents(said: Witnessed, events: list[Event], asked: Asked) -> None:
    named = {(thing.t, thing.h) for event in events for thing in event.obj if thing.t in FORMS}
    given = set()
    for kind, text in said.documents:
        thing = thing_of(kind, text.encode())
        if (kind, thing.h) not in named or (kind, thing.h) in given:
            raise Untrue("witness.document", "a document is none that its events name")
        given.add((kind, thing.h))
        _check_document(kind, text, asked)
    if given != named:
        raise Untrue("witness.document", "a document that an event names is missing")


def _check_document(kind: str, text: str, asked: Asked) -> None:
    try:
        document: Document = parse_json(text.encode(), FORMS[kind], kind)
    except CohortiumError as error:
        raise Untrue("witness.document", str(error)) from None
    if canonical(document) != text.encode():
        raise Untrue("witness.document", f"a {kind} is not in canonical form")
    if len(text) > MAX_DOCUMENT or not _plain(json.loads(text)):
        raise Untrue("witness.document", f"a {kind} holds long or unprintable text")
    if getattr(document, "site", None) != asked.site:
        raise Untrue("witness.document", f"a {kind} is another site's")


def _plain(value: Any) -> bool:
    """Whether all texts in a document are short and printable."""
    if isinstance(value, dict):
        return all(_plain(key) and _plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(_plain(item) for item in value)
    return not isinstance(value, str) or (
        len(value) <= MAX_TEXT and (not value or value.isprintable())
    )


def _check_head(text: str, asked: Asked, leaves: Peaks) -> None:
    """The site's own checkpoint is over exactly the events that are here and those that came."""
    origin = names.site_log(asked.coordinator, asked.site)
    try:
        note = read_note(text, "the site's checkpoint")
        seen, signed = note.checkpoint, note.signed_by(log_key(origin, asked.key))
    except CohortiumError as error:
        raise Untrue("witness.head", str(error)) from None
    if not signed or len(note.signatures) != 1 or note.body != seen.body:
        raise Untrue("witness.head", "the site's checkpoint is not signed by its key alone")
    if (seen.origin, seen.size, seen.root) != (origin, leaves.size, leaves.root):
        raise Untrue("witness.head", "the site's checkpoint is not of the events that it sent")


def _newer(text: str, asked: Asked) -> Note:
    """A note that our own key signed: of a log of ours."""
    try:
        note = read_note(text, "a cosigned checkpoint")
        seen = note.checkpoint
        signed = note.signed_by(log_key(seen.origin, asked.own_key))
    except CohortiumError as error:
        raise Untrue("witness.newer", str(error)) from None
    if not signed or names.log_number(asked.coordinator, seen.origin) is None:
        raise Untrue("witness.newer", "what the site says that it cosigned is not signed by us")
    return note


def _check_cosignature(said: Witnessed, asked: Asked) -> None:
    key = witness_key(names.witness(asked.coordinator, asked.site), asked.key)
    try:
        note = read_note(f"{asked.note.body}\n{said.cosignature}", "the cosignature")
        at_s = note.cosigned_at(key)
    except CohortiumError as error:
        raise Untrue("witness.cosignature", str(error)) from None
    if at_s is None or note.signatures[0].line != said.cosignature:
        raise Untrue("witness.cosignature", "it is not one line by the site's own key")
    if not asked.note.checkpoint.size:
        raise Untrue("witness.cosignature", "nobody was asked to cosign an empty log")
    if abs(at_s - asked.now_s) > CLOCK_S:
        raise Untrue("witness.cosignature", "its time is more than an hour from ours")
    if said.size != asked.note.checkpoint.size:
        raise Untrue("witness.size", "the site cosigned another size than it says")
