"""`cohortium study`: define, submit, watch and report studies."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cohortium.common import daemon
from cohortium.common.console import JsonFlag, StateDir, StudyName, emit, note, table
from cohortium.common.errors import RefusedError, UnreachableError, UsageError
from cohortium.common.study import Study, load_study
from cohortium.common.transfer import Transfer
from cohortium.server import release_cli, synthetic_cli, touched_cli, tuning_cli
from cohortium.server.config import CoordinatorDir
from cohortium.server.gates import ranges
from cohortium.server.store import Store, StudyRow

if TYPE_CHECKING:
    from cohortium.common.messages import Vector
    from cohortium.server.opened import Opened

study = typer.Typer(
    help="Studies: check, submit, watch, stop, report, release.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

POLL_S = 0.2
REPORT_S = 10.0
EXIT_CODES = {"completed": 0, "failed": 1, "stopped": 1}

StudyFile = Annotated[Path, typer.Argument(metavar="FILE", help="The study.toml.")]


@study.command()
def validate(file: StudyFile, as_json: JsonFlag = False) -> None:
    """Check a study offline; print what each site will be asked for and what it costs in privacy.

    Example: cohortium study validate study.toml
    """
    from cohortium.server.progress import describe

    loaded = load_study(file)
    _begin_with(loaded, file)
    document, text = describe(loaded)
    emit(document, text, as_json)


@study.command()
def submit(file: StudyFile, directory: StateDir, as_json: JsonFlag = False) -> None:
    """Submit a study: its sites are invited as soon as the coordinator is up.

    Example: cohortium study submit study.toml --dir DIR
    """
    from cohortium.server.aggregation.optimizer import ServerState
    from cohortium.server.checkpoints import Checkpoints
    from cohortium.server.opened import open_coordinator

    loaded = load_study(file)
    if loaded.tuning is not None and loaded.tuning.found is None:
        raise UsageError(
            f"{file}: [tuning] has not been done; run cohortium study tune {file} and submit what "
            "it writes, or remove [tuning]"
        )
    begun = _begin_with(loaded, file)
    opened = open_coordinator(directory)
    opened.incident.check()
    _require_enrolled(loaded, set(opened.roster.enrolled()))
    with opened.database.transaction():
        known = any(row.digest == loaded.digest for row in opened.store.studies())
        row = opened.store.submit(loaded, int(time.time() * 1000))
        if begun is not None and not known:
            Checkpoints(opened.database, loaded.digest).keep(0, ServerState.start(begun))
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


def _begin_with(study: Study, file: Path) -> "Vector | None":
    """The parameters that the study's file gives, checked against its model; None for none."""
    if study.transfer == Transfer():
        return None
    from cohortium.server.starting import begin_with

    return begin_with(study, file)


@study.command("list")
def list_studies(directory: StateDir, as_json: JsonFlag = False) -> None:
    """All studies with their states.

    Example: cohortium study list --dir DIR
    """
    from cohortium.server.opened import open_coordinator

    opened = open_coordinator(directory)
    up = daemon.is_running(opened.directory.lock)
    documents = [
        {
            "name": row.study.name,
            "digest": row.digest,
            "state": _state(opened, row) if up or row.ended else "paused",
            "cause": row.cause,
            "next_step": row.next_step,
            "progress": row.progress if up or row.ended else "the coordinator is not running",
        }
        for row in opened.store.studies()
    ]
    cells = [
        (item["name"], item["state"], item["digest"][:12], item["cause"] or item["progress"])
        for item in documents
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
    _await_report(opened.directory, row)
    document = {
        "study": row.study.name,
        "state": _state(opened, row),
        "cause": row.cause,
        "next_step": row.next_step,
        "correlation": row.digest[:8],
    }
    out = opened.directory.study(row.study.name, row.digest)
    text = f"{_ended(row, document['state'])}\nreport: {out}"
    if document["state"] == "completed":
        text += f"\nnext: cohortium study flags {row.study.name}"
    emit({**document, "directory": str(out)}, text, as_json)
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
    actor = opened.acting("lead")
    opened.store.ask_to_stop(row.digest, actor.id)
    if not daemon.is_running(opened.directory.lock):
        note("the coordinator is not running: the study stops as soon as it is up")
    emit({"study": row.study.name, "by": actor.id}, f"stopping {row.study.name}", as_json)


@study.command()
def resume(
    study: StudyName,
    directory: StateDir,
    without: Annotated[str, typer.Option(help="A site that has withdrawn.")] = "",
    from_round: Annotated[
        int, typer.Option(min=1, help="With --without: the first round that is trained again.")
    ] = 1,
    as_json: JsonFlag = False,
) -> None:
    """Go on with a study that failed or was stopped, from its last round.

    Its sites are asked again; approvals that still hold need no person. With --without, submit a
    new study that trains again without a site, from a model that was made before some round.

    Example: cohortium study resume heart-study --without northgate --from-round 4 --dir DIR
    """
    from cohortium.server.opened import open_coordinator

    opened = open_coordinator(directory)
    opened.incident.check()
    row = opened.store.study(study)
    if not row.ended:
        raise UsageError(f"{row.study.name} is not over: cohortium study stop {row.study.name}")
    document, text = (
        _without(opened, row, without, from_round) if without else _resumed(opened, row)
    )
    if not daemon.is_running(opened.directory.lock):
        note(f"the coordinator is not running: cohortium coordinator up --dir {directory}")
    emit(document, text, as_json)


@study.command()
def report(
    study: StudyName,
    directory: StateDir,
    out: Annotated[Path, typer.Option(help="Directory for report.html, report.json, CSV.")],
    as_json: JsonFlag = False,
) -> None:
    """Write the report (HTML, JSON, CSV); the model leaves by `study release` and `study export`.

    It is for others to read: of a study with `[evaluation] blinded = true` it names no site. The
    coordinator's own copy, with names, stays in its directory.

    Example: cohortium study report heart-study --out report --dir DIR
    """
    from cohortium.common.identity import SigningKey, certificate_fingerprint
    from cohortium.server.opened import open_coordinator
    from cohortium.server.outcome import Evidence, publish
    from cohortium.server.release_report import release_report

    opened = open_coordinator(directory)
    row = opened.store.study(study)
    if not row.ended:
        raise UsageError(f"{row.study.name} is not over ({row.progress or row.state}): wait for it")
    evidence = Evidence(
        config=opened.config,
        tls=str(daemon.said(opened.directory.status).get("tls", "")),
        ca_fingerprint=certificate_fingerprint(opened.directory.ca.read_bytes()),
    )
    key = SigningKey.load(opened.directory.signing_key)
    release = release_report(row, opened.store, opened.log, opened.signatures)
    page = publish(row, opened.store, opened.log, evidence, out, shared_by=key, release=release)
    emit({"study": row.study.name, "report": str(page)}, f"report: {page}", as_json)


for command in (
    tuning_cli.tune,
    release_cli.flags,
    release_cli.disposition,
    synthetic_cli.synthesise,
    release_cli.release,
    release_cli.export,
    touched_cli.touched,
):
    study.command()(command)


def _await_report(directory: CoordinatorDir, row: StudyRow) -> None:
    """The coordinator writes it right after the end; where it cannot, its log says why."""
    page = directory.report(row.study.name, row.digest)
    deadline = time.monotonic() + REPORT_S
    while not page.exists() and daemon.is_running(directory.lock) and time.monotonic() < deadline:
        time.sleep(POLL_S)


def _state(opened: "Opened", row: StudyRow) -> str:
    from cohortium.server.signed import known_as

    return known_as(row, opened.store, opened.signatures)


def _ended(row: StudyRow, state: str) -> str:
    """How a study ended, why, and what helps."""
    text = f"{row.study.name}: {state}" + (f": {row.cause}" if row.cause else "")
    if row.next_step:
        text += f"\nnext: {row.next_step}\nin every log it is {row.digest[:8]}"
    return text


def _resumed(opened: Any, row: StudyRow) -> tuple[dict[str, Any], str]:
    """Queue an ended study again."""
    if row.state == "completed":
        raise UsageError(f"{row.study.name} is completed: there is nothing to resume")
    opened.directory.report(row.study.name, row.digest).unlink(missing_ok=True)
    with opened.database.transaction():
        opened.store.resume(row.digest)
        event = opened.log.append(
            "run.resumed",
            actor=opened.acting("lead"),
            study=row.digest,
            reason=row.cause[:200] or None,
        )
    document = {"study": row.study.name, "state": "submitted", "event": event.id}
    return document, f"resuming {row.study.name}   (event {event.id})"


def _without(opened: Any, row: StudyRow, site: str, from_round: int) -> tuple[dict[str, Any], str]:
    """Submit the study that trains again without a site; say which models that site is in."""
    from cohortium.server import successor

    rounds = successor.used(row, site, opened.store)
    made = successor.without(row, site, from_round, opened.store)
    with opened.database.transaction():
        known = any(other.digest == made.digest for other in opened.store.studies())
        opened.store.submit(made, int(time.time() * 1000))
        if rounds:
            opened.log.append(
                "model.withdrawn",
                actor=opened.acting("lead"),
                study=row.digest,
                reason="a site withdrew",
                detail={"sites": site, "section": f"rounds {ranges(rounds)} and later"[:200]},
            )
        event = "" if known else _created(opened, made)
    document = {
        "study": made.name,
        "digest": made.digest,
        "without": site,
        "used_in_rounds": list(rounds),
        "rounds": made.training.rounds,
        "epsilon": made.privacy.epsilon,
        "event": event,
    }
    used = f"the models of rounds {ranges(rounds)} and later" if rounds else "no model"
    text = (
        f"submitted {made.name} ({made.digest[:16]}...): {made.training.rounds} rounds without "
        f"{site}; every other site must approve it\n"
        f"{site} is in {used} of {row.study.name}; do not use them where it must not be"
    )
    return document, text


def _created(opened: Any, loaded: Study) -> str:
    event = opened.log.append(
        "study.created",
        actor=opened.acting("lead"),
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
