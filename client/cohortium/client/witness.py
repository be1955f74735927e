"""Cosigning the consortium's log: only what this site saw grow, and only what it has noted first.

signed by the log's key? -> all here that we signed ourselves? -> grown from what we cosigned last?
  -> our own events in it? -> noted, durably -> cosigned -> our new events handed over

The order is that of C2SP's tlog-witness: compare and set in one transaction, before any answer.
What the consortium may know of this site's own log (`shared`) goes with the answer, and as its last
event the head of the whole log. It is of no study: while one trains, or all are paused, the log is
witnessed all the same.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from cohortium.client import anchors, equivocation, returned
from cohortium.client.cosigned import Cosigned
from cohortium.client.equivocation import TwoHistories
from cohortium.client.site import Site
from cohortium.common.audit import merkle, names
from cohortium.common.audit.events import leaf_hash, read_event
from cohortium.common.audit.merkle import EMPTY_ROOT, Proof
from cohortium.common.audit.notes import (
    Checkpoint,
    Note,
    cosign,
    log_key,
    read_note,
    sign_checkpoint,
)
from cohortium.common.audit.tree import Tree
from cohortium.common.envelope import Header
from cohortium.common.errors import ProtocolError, RefusedError
from cohortium.common.messages import Recovery, Witness, Witnessed, unpack

MAX_EVENTS = 500
MAX_BYTES = 40 * 2**10  # of events and documents in one answer, as JSON strings
MAX_SHOWN = 8192  # bytes of a note that goes into an answer


@dataclass(frozen=True)
class Judged:
    """What became of a checkpoint: cosigned, or from which size it must be shown to have grown."""

    size: int
    cosignature: str = ""


def answer(site: Site, header: Header, body: memoryview) -> Witnessed:
    """Judge a checkpoint, and hand over what is new here.

    Raises:
        RefusedError: two histories of the log, or a loss of our own records that nobody accepted.
        ProtocolError, SignatureError: not a checkpoint of our coordinator's.
    """
    message, _ = unpack(body, Witness)
    if header.study or header.round:
        raise ProtocolError("the log is that of no study and no round")
    standing = equivocation.refusal(site.directory)
    if standing is not None:
        raise standing
    note = _signed(site, message.checkpoint)
    lacks = returned.take_back(site, message)
    if lacks is not None:
        return _lacking(site, lacks)
    try:
        with site.database.transaction():
            judged = _judge(site, message, note)
    except TwoHistories as found:
        equivocation.keep(site, found)
        raise RefusedError(equivocation.RULE, str(found)) from None
    _anchor(site)
    return _answer(site, message.have, judged)


def _signed(site: Site, text: str) -> Note:
    """A note by the coordinator's key, about one of the logs that it may keep."""
    note = read_note(text, "a checkpoint")
    seen = note.checkpoint
    if names.log_number(site.config.coordinator.name, seen.origin) is None:
        raise ProtocolError("the checkpoint is of another log than this consortium's")
    if not note.signed_by(log_key(seen.origin, site.coordinator_key)):
        raise ProtocolError("the checkpoint is not signed by the log's own key")
    return note


def _judge(site: Site, message: Witness, note: Note) -> Judged:
    """Cosign, or say what is missing (inside the caller's transaction).

    Raises:
        TwoHistories: it cannot be the same log as the one that was cosigned.
        RefusedError: a proof about this site's own events does not hold.
    """
    cosigned, seen = Cosigned(site.database), note.checkpoint
    if message.cosigned:
        _hear(site, _signed(site, message.cosigned))
    last = cosigned.last()
    before = _number(site, last) if last is not None else _number(site, note)
    if seen.size == 0 or _number(site, note) < before:
        return Judged(last.checkpoint.size if last else 0)
    if _number(site, note) > before:
        return _begun_anew(site, message, note, last)
    old = last.checkpoint if last else Checkpoint(seen.origin, 0, EMPTY_ROOT)
    if last is not None and seen.size <= old.size:
        _same_where_known(cosigned, note)
        if seen.size < old.size:
            return Judged(old.size)
    elif message.old_size != old.size:
        return Judged(old.size)
    else:
        _grown(last, note, message)
    return _cosign(site, message, note)


def _hear(site: Site, note: Note) -> None:
    """What others cosigned is kept where it was cosigned here too; their keys need not be known."""
    _same_where_known(Cosigned(site.database), note)
    Cosigned(site.database).add(note)


def _number(site: Site, note: Note) -> int:
    return names.log_number(site.config.coordinator.name, note.checkpoint.origin) or 0


def _same_where_known(cosigned: Cosigned, note: Note) -> None:
    """One size has one root."""
    kept = cosigned.at(note.checkpoint.size)
    if kept is not None and kept.checkpoint.root != note.checkpoint.root:
        raise TwoHistories(kept, note)


def _grew(last: Note | None, note: Note, message: Witness) -> bool:
    """Whether the log is shown to begin with what was cosigned before."""
    proof: Proof = tuple(bytes.fromhex(step) for step in message.consistency)
    old, new = (last.checkpoint if last else None), note.checkpoint
    size, root = (old.size, old.root) if old else (0, EMPTY_ROOT)
    return merkle.grew(size, new.size, root, new.root, proof)


def _grown(last: Note | None, note: Note, message: Witness) -> None:
    """Raise TwoHistories unless the log begins with what was cosigned before."""
    if _grew(last, note, message):
        return
    if last is None:
        raise ProtocolError("nothing was cosigned here: no proof leads from there")
    raise TwoHistories(last, note)


def _cosign(site: Site, message: Witness, note: Note) -> Judged:
    """Note it, then sign it; the same checkpoint again is signed again."""
    cosigned, seen = Cosigned(site.database), note.checkpoint
    cosigned.include(message.included, seen, site.now_ms())
    name = names.witness(site.config.coordinator.name, site.name)
    ours = cosign(note.body, name, site.key, site.now_ms() // 1000)
    if cosigned.at(seen.size) is None:
        cosigned.keep(note.with_([ours]), site.now_ms())
    return Judged(seen.size, ours.line)


def _begun_anew(site: Site, message: Witness, note: Note, last: Note | None) -> Judged:
    """A log under a new name: as the old one went on, or without what its first event says is lost.

    It is shown to have grown from what was cosigned last; or it names a head of the old log no
    smaller than ours, so that whatever we saw is known to be lost, and begins with all that was
    cosigned here of what it says both have in common. Our own last note stays here as evidence.
    """
    assert last is not None
    if message.recovery is None:
        raise RefusedError("log.recovered", "the log has a new name, and no event says why")
    cosigned, (head, common) = Cosigned(site.database), _loss(site, message.recovery, note)
    whole = message.old_size == last.checkpoint.size and _grew(last, note, message)
    kept = last if whole else cosigned.up_to(common)
    size = kept.checkpoint.size if kept else 0
    if message.old_size != size:
        return Judged(size)
    if not whole:
        if kept != last and not _covers(site, head, last):
            return Judged(size)  # and our newer note goes with it
        _grown(kept, note, message)
        equivocation.set_aside(site, last, note)
    cosigned.forget(size)
    site.log.append(
        "log.recovered",
        actor=site.actor,
        detail={
            "origin": note.checkpoint.origin,
            "size": str(last.checkpoint.size),
            "root": last.checkpoint.root.hex(),
        },
    )
    return _cosign(site, message, note)


def _covers(site: Site, head: Note, last: Note) -> bool:
    """Whether the head that is named as lost is ours or a later one."""
    named, ours = (
        (_number(site, note), note.checkpoint.size, note.checkpoint.root) for note in (head, last)
    )
    if named[:2] == ours[:2] and named != ours:
        raise TwoHistories(last, head)
    return named[:2] >= ours[:2]


def _loss(site: Site, recovery: Recovery, note: Note) -> tuple[Note, int]:
    """The old log's head, and how much of it is in the new one, as that one's first event says.

    Raises:
        RefusedError: that event is not in the log, or says something else.
    """
    head, seen = _signed(site, recovery.head), note.checkpoint
    event = read_event(recovery.line, "the new log's first event")
    path: Proof = tuple(bytes.fromhex(step) for step in recovery.path)
    logged = merkle.includes(leaf_hash(event.line), recovery.index, seen.size, path, seen.root)
    said = event.detail
    right = (event.action, event.src.node) == ("log.recovered", site.config.coordinator.name)
    named = (said.get("origin"), said.get("size"), said.get("root"))
    lost = (seen.origin, str(head.checkpoint.size), head.checkpoint.root.hex())
    common = said.get("first", "")
    if not logged or not right or named != lost or not (common.isascii() and common.isdigit()):
        raise RefusedError("log.recovered", "the log's first event does not say what was lost")
    return head, min(int(common), recovery.index)


def _anchor(site: Site) -> None:
    """Put the head of the whole log beside what is shared of it, where it has grown since."""
    with site.database.transaction():
        if Tree(site.database, "events").size() > _anchored(site):
            anchors.write(site)


def _anchored(site: Site) -> int:
    rows = site.database.execute(
        "SELECT line FROM shared WHERE instr(line, ?) ORDER BY seq DESC LIMIT 1",
        ('"action":"log.checkpoint"',),
    )
    return int(json.loads(rows[0]["line"])["detail"]["size"]) if rows else 0


def _lacking(site: Site, first: int) -> Witnessed:
    """Nothing is cosigned, nor signed over our own events, before those that are lost are back."""
    return Witnessed(
        cosignature="",
        size=0,
        proven=Cosigned(site.database).proven(),
        events=(),
        documents=(),
        checkpoint="",
        lacks=first,
    )


def _answer(site: Site, have: int, judged: Judged) -> Witnessed:
    cosigned = Cosigned(site.database)
    last = None if judged.cosignature else cosigned.last()
    lines, documents = _news(site, have)
    size = have + len(lines)
    origin = names.site_log(site.config.coordinator.name, site.name)
    head = Checkpoint(origin, size, Tree(site.database, "shared").root(size))
    return Witnessed(
        cosignature=judged.cosignature,
        size=judged.size,
        newer=_shown(site, last) if last is not None else "",
        proven=cosigned.proven(),
        events=tuple(lines),
        documents=tuple(documents.values()),
        checkpoint=sign_checkpoint(head, site.key).text,
    )


def _shown(site: Site, note: Note) -> str:
    """A note with the log's signature, and the cosignatures that there is room for."""
    if len(note.text.encode()) <= MAX_SHOWN:
        return note.text
    key = log_key(note.checkpoint.origin, site.coordinator_key)
    return Note(note.body, tuple(s for s in note.signatures if s.key_id == key.id)[:1]).text


def _news(site: Site, have: int) -> tuple[list[str], dict[str, tuple[str, str]]]:
    """Shared events from `have` on with the documents that they name, as many as may go at once."""
    lines: list[str] = []
    documents: dict[str, tuple[str, str]] = {}
    left = MAX_BYTES
    rows = site.database.execute(
        "SELECT line FROM shared WHERE seq >= ? ORDER BY seq LIMIT ?", (have, MAX_EVENTS)
    )
    for row in rows:
        named = dict(_documents(site, row["line"]))
        left -= _length(row["line"], *(text for _, text in named.values()))
        if lines and left < 0:
            break
        lines.append(row["line"])
        documents.update(named)
    return lines, documents


def _documents(site: Site, line: str) -> Iterator[tuple[str, tuple[str, str]]]:
    for thing in json.loads(line).get("obj", ()):
        text = site.documents.text(thing["h"])
        if text is not None:
            yield thing["h"], (thing["t"], text)


def _length(*texts: str) -> int:
    return sum(len(json.dumps(text, ensure_ascii=False).encode()) for text in texts)
