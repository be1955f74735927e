"""`cohortium study flags`, `disposition`, `release` and `export`: how a model leaves."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cohortium.common.audit.events import Actor
from cohortium.common.console import JsonFlag, StateDir, StudyName, emit, table
from cohortium.common.document import one_line, parse
from cohortium.common.errors import UsageError
from cohortium.server.opened import Opened, open_coordinator
from cohortium.server.signed import MAX_REASON, Decision, Signer

if TYPE_CHECKING:
    from cohortium.server.release import Dossier, Judged, Standing

Person = Annotated[str, typer.Option("--as", help="The name that the signature bears.")]


def flags(study: StudyName, directory: StateDir, as_json: JsonFlag = False) -> None:
    """What keeps a completed study's model from leaving: its gates and flags, and who answered.

    Example: cohortium study flags heart-study --dir DIR
    """
    from cohortium.server.release import standing

    opened = open_coordinator(directory)
    dossier, judged, events = _examined(opened, study)
    signatures = opened.signatures
    found = standing(dossier, judged, signatures)
    declared = dossier.row.study.release.gates
    gates = tuple(dict.fromkeys([*declared, *(one.flag.gate for one in judged)]))
    open_gates = {one.flag.gate for one in judged if one.open}
    document = {
        "study": dossier.row.study.name,
        "model": dossier.model.sha256,
        "released": found.holds,
        "problem": found.problem,
        "gates": [{"gate": gate, "open": gate in open_gates} for gate in gates],
        "flags": [{**_flag(one), "event": events[one.flag.id]} for one in judged],
    }
    rows = [(i["flag"], i["gate"], _state(i), i["text"]) for i in map(_flag, judged)]
    text = table(("FLAG", "GATE", "STATE", ""), rows, "no flag was raised")
    shown = [f"{gate} {'OPEN' if gate in open_gates else 'closed'}" for gate in gates]
    text += f"\n\ngates     {', '.join(shown) or 'none: the study declares none'}"
    text += f"\nreleased  {_released(found)}"
    emit(document, text, as_json)


def disposition(
    study: StudyName,
    flag: Annotated[list[str], typer.Argument(metavar="FLAG...", help="Flags to answer for.")],
    directory: StateDir,
    person: Person,
    reason: Annotated[str, typer.Option(help="Why, in a sentence; it stands in the model card.")],
    decision: Annotated[
        Decision, typer.Option(help="What was decided; reopen takes an earlier answer back.")
    ] = "accept",
    as_json: JsonFlag = False,
) -> None:
    """Answer for flags by name: signed, logged, printed in the model card.

    Example: cohortium study disposition heart-study 1f0c2d3e --as "Dr. E. Haddad" --reason "32
    patients; to be measured again after a year" --dir DIR
    """
    from cohortium.server.release import dispose

    opened = open_coordinator(directory)
    actor = opened.acting("officer")
    signer, why = _signer(opened, actor, person), _reason(reason)
    dossier, _, _ = _examined(opened, study)
    with opened.database.transaction():
        events = dispose(
            dossier, flag, decision, why, signer, opened.log, opened.signatures, actor, _now()
        )
    name = dossier.row.study.name
    document = {"study": name, "flags": flag, "decision": decision, "events": events}
    lines = [
        f"{one}: {decision}   (event {event})" for one, event in zip(flag, events, strict=True)
    ]
    lines.append(f"signed by {signer.name}. Next: cohortium study release {name} --as PERSON")
    emit({**document, "by": signer.name}, "\n".join(lines), as_json)


def release(
    study: StudyName,
    directory: StateDir,
    person: Person,
    override: Annotated[
        bool, typer.Option("--override", help="Release although gates are open; needs --reason.")
    ] = False,
    reason: Annotated[
        str, typer.Option(help="With --override: why; it stands at the top of the model card.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Sign that a model may leave; refused, with exit code 4, while a gate is open.

    Example: cohortium study release heart-study --as "Dr. E. Haddad" --dir DIR
    """
    from cohortium.server.release import release as sign

    if override != bool(reason):
        raise UsageError("--override and --reason go together: say why open gates do not matter")
    opened = open_coordinator(directory)
    opened.incident.check()
    actor = opened.acting("officer")
    signer, why = _signer(opened, actor, person), _reason(reason) if override else ""
    dossier, _, _ = _examined(opened, study)
    with opened.database.transaction():
        kept = sign(dossier, why, signer, opened.log, opened.signatures, actor, _now())
    said, name = kept.document, dossier.row.study.name
    document = {
        "study": name,
        "state": "released",
        "by": said.signer.name,
        "at": said.at,
        "model": said.subject.model,
        "closed": len(said.closed),
        "overridden": len(said.overridden),
        "event": kept.event,
    }
    text = (
        f"{name} is released by {said.signer.name} at {said.at}   (event {kept.event})\n"
        + (f"OVERRIDING {len(said.overridden)} open flags: {said.reason}\n" * bool(said.overridden))
        + f"model sha256 {said.subject.model}\n"
        f"Next: cohortium study export {name} --out DIR"
    )
    emit(document, text, as_json)


def export(
    study: StudyName,
    directory: StateDir,
    out: Annotated[
        Path, typer.Option(help="Directory for model.safetensors, model-card.md, release.json.")
    ],
    as_json: JsonFlag = False,
) -> None:
    """Write a released model with its card; refused, with exit code 4, before the release.

    Example: cohortium study export heart-study --out model --dir DIR
    """
    from cohortium.server.export import export as write

    opened = open_coordinator(directory)
    opened.incident.check()
    actor = opened.acting("officer", "lead")
    dossier, judged, _ = _examined(opened, study)
    files, event = write(dossier, judged, opened, actor, out)
    document = {
        "study": dossier.row.study.name,
        "model": str(files[0]),
        "card": str(files[1]),
        "release": str(files[2]),
        "sha256": dossier.model.sha256,
        "event": event,
    }
    listed = "\n".join(f"  {file}" for file in files)
    emit(document, f"exported   (event {event})\n{listed}", as_json)


def _examined(opened: Opened, name: str) -> "tuple[Dossier, tuple[Judged, ...], dict[str, str]]":
    """The study as it stands, its flags judged, and the events that raised them."""
    from cohortium.server.release import examine, judge, raise_flags

    row = opened.store.study(name)
    dossier = examine(row, opened.store, opened.log)
    events = raise_flags(dossier, opened.store, opened.log, opened.itself)
    return dossier, judge(dossier, opened.signatures), events


def _signer(opened: Opened, actor: Actor, person: str) -> Signer:
    role = opened.config.people.get(actor.id, "")
    values = {"name": person.strip(), "user": actor.id, "auth": actor.auth, "role": role}
    return parse(values, Signer, "--as")


def _reason(text: str) -> str:
    reason = one_line(text, MAX_REASON + 1)
    if not 3 <= len(reason) <= MAX_REASON:
        raise UsageError(f"--reason: say why in 3 to {MAX_REASON} characters")
    return reason


def _flag(one: "Judged") -> dict[str, Any]:
    said = one.disposition.document if one.disposition else None
    return {
        "flag": one.flag.id,
        "gate": one.flag.gate,
        "site": one.flag.site,
        "text": one.flag.text,
        "open": one.open,
        "problem": one.problem,
        "decision": said.decision if said else None,
        "by": said.signer.name if said else None,
        "at": said.at if said else None,
        "reason": said.reason if said else None,
    }


def _state(item: dict[str, Any]) -> str:
    if item["problem"]:
        return f"open: {item['problem']}"
    if item["decision"] is None:
        return "open"
    answered = f"{item['decision']} by {item['by']}, {item['at'][:10]}: {item['reason']}"
    return f"open: {answered}" if item["open"] else answered


def _released(found: "Standing") -> str:
    if found.release is None:
        return found.problem or "no"
    said = found.release.document
    over = f", OVERRIDING {len(said.overridden)} open flags: {said.reason}"
    text = f"by {said.signer.name}, {said.at}{over if said.overridden else ''}"
    return text if found.holds else f"{text}; IT NO LONGER HOLDS: {found.problem}"


def _now() -> datetime:
    return datetime.now(UTC)
