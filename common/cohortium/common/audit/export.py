"""Exporting evidence: gather, write, sign, log, have it witnessed, and pack.

What is exported does not depend on the clock: the same state gives the same files and the same
manifest, and a manifest that was sealed before is packed again under its first seal. So an export
whose witnesses came late is completed by the same command.
"""

import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from cohortium.common.audit import bundle, esignature
from cohortium.common.audit.documents import thing_of
from cohortium.common.audit.events import Actor, timestamp
from cohortium.common.audit.evidence import Audience, ESignature, Evidence
from cohortium.common.audit.notes import Note, read_note
from cohortium.common.audit.party import Party
from cohortium.common.audit.quorum import Quorum
from cohortium.common.audit.writers import Writer, write_all
from cohortium.common.document import canonical, parse_json
from cohortium.common.errors import CohortiumError, RefusedError, UsageError
from cohortium.common.identity import SigningKey

ROLES = ("officer", "auditor", "lead", "approver")  # who may export, where people are named
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What is asked for; since and until as in `Evidence`. key: an auditor's, or None.

    roles: who may, where people are named.
    """

    out: Path
    audience: Audience
    person: str
    study: str | None = None
    since: str = ""
    until: str = ""
    key: Path | None = None
    wait_s: float = 30.0
    retention_years: int = 6
    further: tuple[Writer, ...] = ()
    force: bool = False
    roles: tuple[str, ...] = ROLES


@dataclass(frozen=True)
class Exported:
    """What was written. witnesses: when each cosigned, RFC 3339; witnessed: they are a quorum.

    new: it was sealed now, and not before. size: of the log that the checkpoint is over.
    """

    file: Path
    sha256: str
    manifest: str
    event: str
    seal: ESignature
    new: bool
    files: int
    size: int
    shown: int
    witnesses: Mapping[str, str]
    witnessed: bool


@dataclass(frozen=True)
class _Signer:
    actor: Actor
    role: str
    key: SigningKey


def export(party: Party, request: Request, tell: Tell) -> Exported:
    """Write the bundle, whole or not at all; the log has its seal before the file is there.

    Raises:
        RefusedError: who asks may not export, or the key is no registered auditor's.
        UsageError: another file is in the way, or the audience is not this party's.
    """
    _check_narrowing(request)
    signer = _signer(party, request)
    _check_place(request.out)
    tell("gathering")
    evidence = replace(
        party.gather(request.audience, request.study, request.since, request.until, request.person),
        retention_years=request.retention_years,
        sign=party.key.sign,
        key=party.key.public.text,
    )
    tell(f"writing, from {len(evidence.entries)} places of the log")
    files = write_all(evidence, request.further)
    manifest = bundle.manifest(evidence, files)
    _check_free(request, manifest)
    seal, event, new = _seal(party, request, evidence, manifest, signer)
    tell("sealed; waiting for witnesses" if request.wait_s else "sealed")
    note = party.checkpoint(request.wait_s)
    entries = party.entries(evidence, note.checkpoint.size)
    after = party.log_files(evidence, note)
    tell("packing")
    packed = {
        **files,
        "manifest.json": manifest,
        "log/seal.json": canonical(seal),
        **bundle.log_files(entries, note),
        **after,
    }
    witnesses, witnessed = _witnesses(party, note, after)
    return Exported(
        file=request.out,
        sha256=bundle.write(request.out, packed),
        manifest=seal.signed,
        event=event,
        seal=seal,
        new=new,
        files=len(packed),
        size=note.checkpoint.size,
        shown=sum(entry.line is not None for entry in entries),
        witnesses=witnesses,
        witnessed=witnessed,
    )


def _check_narrowing(request: Request) -> None:
    narrowed = request.study or request.since or request.until
    if request.audience == "regulator" and narrowed:
        raise UsageError(
            "--audience regulator shows the whole log and nothing is withheld: leave out --study, "
            "--since and --until, or take --audience consortium"
        )


def _signer(party: Party, request: Request) -> _Signer:
    """Who signs, by which key: the party's, or that of an auditor who is registered here."""
    if request.key is None:
        actor = party.acting(*request.roles, person=request.person)
        return _Signer(actor, party.role_of(actor, request.person), party.key)
    key = SigningKey.load(request.key)
    if party.auditor(request.person) != key.public.text:
        raise RefusedError(
            "people.auditor",
            f'{request.key} is not the key of an auditor "{request.person}" that is registered in '
            f"{party.root} ([auditors]); its public key is {key.public.text}",
        )
    auth = f"signature:{key.public.fingerprint}"
    return _Signer(Actor(type="person", id=request.person, auth=auth), "auditor", key)


def _check_place(out: Path) -> None:
    """Found out before anything is sealed."""
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise UsageError(f"{out}: cannot be written: give another --out")


def _check_free(request: Request, manifest: bytes) -> None:
    """Only an earlier export of the same may be written over."""
    if request.force or not request.out.exists():
        return
    try:
        same = bundle.read(request.out).get("manifest.json") == manifest
    except (CohortiumError, OSError, ValueError, zipfile.BadZipFile):
        same = False
    if not same:
        raise UsageError(
            f"{request.out} is there already and is not this export: give another --out, or "
            "--force to replace it"
        )


def _seal(
    party: Party, request: Request, evidence: Evidence, manifest: bytes, signer: _Signer
) -> tuple[ESignature, str, bool]:
    """The e-signature over a manifest, its event, and whether it was made just now."""
    digest, database = sha256(manifest).hexdigest(), party.database
    with database.transaction():
        rows = database.execute(
            "SELECT event, esignature FROM seals WHERE manifest = ? AND key = ?",
            (digest, signer.key.public.text),
        )
        if rows:
            text = rows[0]["esignature"].encode()
            return parse_json(text, ESignature, "stored seal"), rows[0]["event"], False
        at = timestamp(datetime.now(UTC))
        seal = esignature.sign(digest, request.person, signer.actor, signer.role, at, signer.key)
        event = party.log.append(
            "export.sealed",
            actor=signer.actor,
            study=evidence.study or None,
            obj=(thing_of("manifest", manifest), thing_of("esignature", canonical(seal))),
            detail={
                "audience": evidence.audience,
                "person": seal.name,
                "meaning": seal.meaning,
                "manifest": digest,
                "size": str(len(evidence.entries)),
            },
        )
        database.execute(
            "INSERT INTO seals VALUES (?, ?, ?, ?)",
            (digest, seal.key, event.id, canonical(seal).decode()),
        )
    return seal, event.id, True


def _witnesses(party: Party, note: Note, after: Mapping[str, bytes]) -> tuple[dict[str, str], bool]:
    """Who cosigned the log that is exported, or the consortium's in which it is anchored."""
    quorum = Quorum.parse(party.policy())
    if party.role == "site":
        text = after.get("log/consortium.checkpoint")
        if text is None:
            return {}, False
        note = read_note(text.decode(), "consortium's checkpoint")
    found = {
        name: timestamp(datetime.fromtimestamp(at, UTC))
        for name, at in quorum.cosigned(note).items()
    }
    return found, bool(found) and quorum.met(note)
