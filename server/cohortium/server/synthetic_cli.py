"""`cohortium study synthesise`: patients who never were, of a released model."""

from pathlib import Path
from typing import Annotated

import typer

from cohortium.common.audit.events import Thing
from cohortium.common.console import JsonFlag, StateDir, StudyName, emit
from cohortium.server.opened import open_coordinator


def synthesise(
    study: StudyName,
    directory: StateDir,
    out: Annotated[Path, typer.Option(help="A new table, and what it is beside it.")],
    rows: Annotated[int, typer.Option(min=1, max=10_000_000, help="How many.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same rows.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Draw synthetic patients from a released generation model; refused before the release.

    Example: cohortium study synthesise made-up --rows 1000 --out synthetic.csv --dir DIR
    """
    from cohortium.server.release import examine, judge, raise_flags, require_released
    from cohortium.server.synthetic import synthesise as draw

    opened = open_coordinator(directory)
    opened.incident.check()
    actor = opened.acting("officer", "lead")
    row = opened.store.study(study)
    dossier = examine(row, opened.store, opened.log)
    raise_flags(dossier, opened.store, opened.log, opened.itself)
    require_released(dossier, judge(dossier, opened.signatures), opened.signatures)
    event = opened.log.append(
        "model.downloaded",
        actor=actor,
        study=row.digest,
        obj=(Thing(t="model", h=f"sha256:{dossier.model.sha256}", bytes=dossier.model.bytes),),
        detail={"recipient": actor.id, "file": out.name, "format": "synthetic rows"},
    )
    about = draw(row, opened.store, rows, seed, out)
    document = {
        "study": row.study.name,
        "rows": rows,
        "table": str(out),
        "about": str(about),
        "event": event.id,
    }
    emit(document, f"drew {rows} synthetic rows into {out}   (event {event.id})", as_json)
