"""`cohortium audit keygen`, `review`, `retention` and `redact`: those who keep the record."""

import json
from collections import Counter
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, cast, get_args

import click
import typer

from cohortium.common.audit.events import Event, Text
from cohortium.common.audit.party import Party, open_party
from cohortium.common.audit.redaction import Redaction
from cohortium.common.audit.retention import Class, class_of, due, retention_of
from cohortium.common.audit.review import shown, sign, span
from cohortium.common.console import JsonFlag, StateDir, emit, table
from cohortium.common.document import Document, parse
from cohortium.common.errors import IdentityError, UsageError
from cohortium.common.identity import SigningKey

CLASSES = click.Choice(get_args(Class))
KEEPERS = ("lead", "operator", "officer")
Person = Annotated[str, typer.Option("--as", help="Who decides, by name: it is kept.")]


class _Named(Document):
    name: Text


class _Reasoned(Document):
    person: Text
    reason: Text


def keygen(
    name: Annotated[str, typer.Argument(help="The auditor, as exports and reviews print it.")],
    out: Annotated[Path, typer.Option(help="The file for the private key; it stays with you.")],
    as_json: JsonFlag = False,
) -> None:
    """Make an auditor's key: the private half for the auditor, a line for the party's config.

    Example: cohortium audit keygen "E. Haddad" --out haddad.key
    """
    parse({"name": name}, _Named, "NAME")
    key = SigningKey.generate()
    key.save(out)
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    line = f'"{quoted}" = "{key.public.text}"'
    document = {
        "name": name,
        "file": str(out),
        "public": key.public.text,
        "fingerprint": key.public.fingerprint,
        "line": line,
    }
    text = (
        f"private key in {out}: keep it; nobody else needs it ({key.public.fingerprint})\n"
        f"who runs the party to be audited adds to coordinator.toml or site.toml:\n"
        f"[auditors]\n{line}"
    )
    emit(document, text, as_json)


def review(
    directory: StateDir,
    person: Annotated[str, typer.Option("--as", help="Who reviews, by name: it is signed.")],
    since: Annotated[
        str | None, typer.Option(help="From which day, as 2030-01-31; else where the last ended.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Up to the beginning of which day; else until now.")
    ] = None,
    findings: Annotated[
        str, typer.Option(help="What was found, in one line; no patient's data.")
    ] = "nothing to report",
    key: Annotated[
        Path | None, typer.Option(help="A registered auditor's private key, to sign with it.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what a reviewer must see of the log, and record, signed, that it was examined.

    That is: who was denied what, refusals, caps that were hit, overrides, exports, downloads, keys,
    people and policies that changed, and what the log says of itself.

    Example: cohortium audit review --as "E. Haddad" --since 2026-10-01 --findings "none" --dir DIR
    """
    said = parse({"person": person, "reason": findings}, _Reasoned, "audit review")
    now = datetime.now(UTC)
    party = open_party(directory)
    actor = party.acting("lead", "operator", "officer", "approver", "auditor")
    signing = _signing_key(party, person, key)
    first, last = span(
        party.database, _day(since) if since else None, _day(until) if until else now
    )
    found = list(shown(party.database, first, last))
    event = sign(
        *(party.database, party.log, party.name, (first, last), len(found)),
        *(said.person, said.reason, signing, actor, now),
    )
    document = {
        "node": party.name,
        "reviewer": said.person,
        "first": first,
        "last": last,
        "shown": [json.loads(record.event.line) for record in found],
        "findings": said.reason,
        "key": signing.public.fingerprint,
        "event": event.id,
    }
    rows = [_row(record.event) for record in found]
    text = table(("TIME", "NODE", "ACTION", "OUTCOME", "WHO", ""), rows, "nothing of that kind")
    text += f"\n\nreviewed: events {first} to {last}, {len(found)} shown   (event {event.id})"
    emit(document, text, as_json)


def _signing_key(party: Party, person: str, key: Path | None) -> SigningKey:
    """The party's own, or that of an auditor who is registered with it."""
    registered = party.auditor(person)
    if key is None:
        if registered is not None:
            raise UsageError(f'"{person}" is a registered auditor: sign with --key FILE')
        return party.key
    found = SigningKey.load(key)
    if found.public.text != registered:
        raise IdentityError(f'{key}: is not the key that is registered for auditor "{person}"')
    return found


def _row(event: Event) -> tuple[str, ...]:
    parts = [event.reason or "", *(f"{key}={value}" for key, value in event.detail.items())]
    about = " ".join(filter(None, parts))[:100]
    return (event.ts, event.src.node, event.action, event.outcome, event.actor.id, about)


def retention(directory: StateDir, as_json: JsonFlag = False) -> None:
    """What the record holds by class, how long it is kept, and what may go by now.

    Example: cohortium audit retention --dir DIR
    """
    party = open_party(directory)
    redaction, now = _redaction(party), datetime.now(UTC)
    lives = redaction.lives()
    count, size, ripe = Counter[str](), Counter[str](), Counter[str]()
    first: dict[str, str] = {}
    for record in redaction.records():
        kind = class_of(record.event.action)
        first.setdefault(kind, record.event.ts)
        count[kind] += 1
        day = due(record.event, redaction.retention, lives)
        if day is not None and day <= now:
            ripe[kind] += 1
            size[kind] += len(record.event.line.encode())
    classes = [
        {
            "class": kind,
            "years": redaction.retention.years(kind),
            "events": count[kind],
            "first": first.get(kind),
            "due": ripe[kind],
            "due_bytes": size[kind],
        }
        for kind in get_args(Class)
    ]
    asked = redaction.asked()
    rows = [tuple("" if v is None else str(v) for v in item.values()) for item in classes]
    header = ("CLASS", "YEARS", "EVENTS", "FIRST", "DUE", "BYTES DUE")
    text = table(header, rows, "") + "\nclass ledger: years after its dataset was withdrawn"
    if asked:
        text += f"\nwithheld by their sites, and still here: {', '.join(asked)}"
    emit({"node": party.name, "classes": classes, "withheld_by_sites": asked}, text, as_json)


def redact(
    directory: StateDir,
    person: Person,
    reason: Annotated[str, typer.Option(help="Why, in one line: the right or rule that asks it.")],
    event: Annotated[
        list[str] | None, typer.Option(help="An event to erase, by id; may be given often.")
    ] = None,
    before: Annotated[
        str | None, typer.Option(help="With --class: what was written before a day, as 2030-12-31.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--class", click_type=CLASSES, help="With --before: of which class."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Withhold events for good: their text goes, their place and hash in the log stay.

    By class only what is older than the class allows; by id also younger ones, for erasure. What
    the party's state, a budget or the record itself rests on stays: refused with exit code 4.

    Example: cohortium audit redact --event 0193a1b2-0000-7000-8000-000000000000 --as "Dr. E.
    Haddad" --reason "erasure, GDPR Article 17(1)(d)" --dir DIR
    """
    if bool(event) == bool(before) or bool(before) != bool(kind):
        raise UsageError("say which: --event ID, or --before DATE with --class CLASS")
    said = parse({"person": person, "reason": reason}, _Reasoned, "audit redact")
    party = open_party(directory)
    actor = party.acting(*KEEPERS)
    redaction, now = _redaction(party), datetime.now(UTC)
    if before and kind:
        records, kept = redaction.before(_day(before), cast(Class, kind), now)
    else:
        records, kept = redaction.named(event or (), now), 0
    ids = redaction.withhold(records, kind or "erasure", actor, said.person, said.reason)
    document = {
        "node": party.name,
        "withheld": len(records),
        "kept": kept,
        "by": said.person,
        "events": ids,
    }
    text = f"withheld {len(records)} events" + (f", {kept} are kept" if kept else "")
    text += f"   (event {', '.join(ids)})" if ids else ": nothing was left to withhold"
    emit(document, text, as_json)


def _redaction(party: Party) -> Redaction:
    return Redaction(party.database, party.log, retention_of(party.root))


def _day(text: str) -> datetime:
    """Midnight in UTC of a day as 2030-12-31."""
    try:
        return datetime.combine(date.fromisoformat(text), time(), UTC)
    except ValueError:
        raise UsageError(f'"{text}" is no day: say it as 2030-12-31') from None
