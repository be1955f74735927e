"""`cohortium study`: define, submit, watch and report studies."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cohortium.common import daemon
from cohortium.common.audit.events import os_user
from cohortium.common.console import JsonFlag, StateDir, emit, note, table
from cohortium.common.errors import RefusedError, UnreachableError, UsageError
from cohortium.common.study import Study, load_study
from cohortium.server.store import Store, StudyRow

study = typer.Typer(
    help="Studies: check, submit, watch, stop, report.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

POLL_S = 0.2
EXIT_CODES = {"completed": 0, "failed": 1, "stopped": 1}

StudyFile = Annotated[Path, typer.Argument(metavar="FILE", help="The study.toml.")]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="Name, or digits of the digest.")]


@study.command()
def validate(file: StudyFile, as_json: JsonFlag = False) -> None:
    """Check a study offline; print what each site will be asked for and what it costs in privacy.

    Example: cohortium study validate study.toml
    """
    from cohortium.server.progress import describe

    loaded = load_study(file)
    document, text = describe(loaded)
    emit(document, text, as_json)


@study.command()
def submit(file: StudyFile, directory: StateDir, as_json: JsonFlag = False) -> None:
    """Submit a study: its sites are invited as soon as the coordinator is up.

    Example: cohortium study submit study.toml --dir DIR
    """
    from cohortium.server.opened import open_coordinator

    loaded = load_study(file)
    opened = open_coordinator(directory)
    _require_enrolled(loaded, set(opened.roster.enrolled()))
    with opened.database.transaction():
        known = any(row.digest == loaded.digest for row in opened.store.studies())
        row = opened.store.submit(loaded, int(time.time() * 1000))
        event = "" if known else _created(opened, loaded)
    if not daemon.is_running(opened.directory.lock):
        note(f"the coordinator is not running: cohortium coordinator up --dir {directory}")
    document = {"study": loaded.name, "digest": row.digest, "state": row.state, "event": event}
    text = (
        f"submitted {loaded.name} ({row.digest[:16]}...)"
        f"   (event {event or 'none: known before'})\n"
        f"Next: cohortium study watch {loaded.name} --dir {directory}; at each site\n"
        f"      cohortium site approve {loaded.name} --as PERSON --dir SITE_DIR"
    )
    emit(document, text, as_json)


@study.command("list")
def list_studies(directory: StateDir, as_json: JsonFlag = False) -> None:
    """All studies with their states.

    Example: cohortium study list --dir DIR
    """
    from cohortium.server.opened import open_coordinator

    rows = open_coordinator(directory).store.studies()
    documents = [
        {
            "name": row.study.name,
            "digest": row.digest,
            "state": row.state,
            "cause": row.cause,
            "progress": row.progress,
        }
        for row in rows
    ]
    cells = [
        (row.study.name, row.state, row.digest[:12], row.cause or row.progress) for row in rows
    ]
    text = table(("STUDY", "STATE", "DIGEST", ""), cells, "no study was submitted yet")
    emit({"studies": documents}, text, as_json)


@study.command()
def watch(study: StudyName, directory: StateDir, as_json: JsonFlag = False) -> None:
    """Follow a study to its end; exits 0 if it completed. With --json, one line for each round.

    Example: cohortium study watch heart-study --dir DIR
    """
    from cohortium.server.opened import open_coordinator

    opened = open_coordinator(directory)
    row = _follow(opened.store, study, opened.directory.lock, as_json)
    document = {"study": row.study.name, "state": row.state, "cause": row.cause}
    out = opened.directory.study(row.study.name, row.digest)
    text = f"{row.study.name}: {row.state}" + (f": {row.cause}" if row.cause else "")
    emit({**document, "directory": str(out)}, f"{text}\nmodel and report: {out}", as_json)
    raise typer.Exit(EXIT_CODES[row.state])


@study.command()
def stop(study: StudyName, directory: StateDir, as_json: JsonFlag = False) -> None:
    """Stop a study; what was spent stays spent, the sites are told.

    Example: cohortium study stop heart-study --dir DIR
    """
    from cohortium.server.opened import open_coordinator

    opened = open_coordinator(directory)
    row = opened.store.study(study)
    if row.ended:
        emit({"study": row.study.name, "state": row.state}, f"already {row.state}", as_json)
        return
    actor = os_user()
    opened.store.ask_to_stop(row.digest, actor.id)
    if not daemon.is_running(opened.directory.lock):
        note("the coordinator is not running: the study stops as soon as it is up")
    emit({"study": row.study.name, "by": actor.id}, f"stopping {row.study.name}", as_json)


@study.command()
def report(
    study: StudyName,
    directory: StateDir,
    out: Annotated[Path, typer.Option(help="Directory for report.html, report.json, CSV, model.")],
    as_json: JsonFlag = False,
) -> None:
    """Write the report (HTML, JSON, CSV) and, if the study completed, the model.

    Example: cohortium study report heart-study --out report --dir DIR
    """
    from cohortium.common.identity import certificate_fingerprint
    from cohortium.server.opened import open_coordinator
    from cohortium.server.outcome import Evidence, publish

    opened = open_coordinator(directory)
    row = opened.store.study(study)
    if not row.ended:
        raise UsageError(f"{row.study.name} is not over ({row.progress or row.state}): wait for it")
    evidence = Evidence(
        config=opened.config,
        tls=str(daemon.said(opened.directory.status).get("tls", "")),
        ca_fingerprint=certificate_fingerprint(opened.directory.ca.read_bytes()),
    )
    page = publish(row, opened.store, opened.log, evidence, out)
    emit({"study": row.study.name, "report": str(page)}, f"report: {page}", as_json)


def _created(opened: Any, loaded: Study) -> str:
    event = opened.log.append(
        "study.created",
        actor=opened.operator,
        study=loaded.digest,
        detail={"sites": ", ".join(loaded.sites.names)[:200]},
    )
    return str(event.id)


def _require_enrolled(loaded: Study, enrolled: set[str]) -> None:
    absent = [name for name in loaded.sites.names if name not in enrolled]
    if absent:
        raise RefusedError(
            "sites.names",
            f"{', '.join(absent)} not enrolled here "
            f"(enrolled: {', '.join(sorted(enrolled)) or 'no site'}); "
            "invite them first, or correct [sites] names",
        )


def _follow(store: Store, name: str, lock: Path, as_json: bool) -> StudyRow:
    """Print rounds and progress as they come, until the study has ended or nobody runs it."""
    from cohortium.server.progress import line

    row, seen, said = store.study(name), 0, ""
    while True:
        for record in store.rounds(row.digest, after=seen):
            document, text = line(row.study, record)
            emit(document, text, as_json)
            seen = record.round
        if row.ended:
            return row
        if not daemon.is_running(lock):
            raise UnreachableError(
                "the coordinator is not running: the study goes on when it is up again "
                "(cohortium coordinator up)"
            )
        if row.progress != said and not as_json:
            said = row.progress
            note(said)
        time.sleep(POLL_S)
        row = store.study(name)
