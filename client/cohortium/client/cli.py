"""`cohortium site`: the commands of a hospital's operator."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cohortium.client.config import SiteDir
from cohortium.client.data_cli import data
from cohortium.client.explain_cli import explain
from cohortium.client.incident_cli import incident
from cohortium.client.results_cli import crossvalidate, model, results
from cohortium.client.selftest_cli import selftest
from cohortium.client.witness_cli import alarms, witness
from cohortium.common import daemon
from cohortium.common.audit.events import os_user
from cohortium.common.console import JsonFlag, StateDir, StudyName, emit, note, table
from cohortium.common.errors import CohortiumError, UsageError

if TYPE_CHECKING:
    from cohortium.client.site import Site
    from cohortium.client.studies import KnownStudy, State

site = typer.Typer(
    help="A hospital's site: join a consortium, register data, approve studies, run the daemon.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
site.add_typer(data, name="data")
for one in (incident, results, model, explain, crossvalidate, witness, selftest):
    site.command()(one)

Person = Annotated[str, typer.Option("--as", help="Who decides, by name: it is signed and kept.")]


@site.command()
def join(
    invitation: Annotated[Path, typer.Argument(help="The file that the coordinator gave you.")],
    directory: StateDir,
    again: Annotated[
        bool, typer.Option("--rejoin", help="Come back with new keys; all records go on.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Join a consortium. Keys are made here and never leave.

    Example: cohortium site join northgate.invite --dir /srv/cohortium
    """
    from cohortium.client.enrol import join as enrol
    from cohortium.client.rejoin import rejoin

    joined = (rejoin if again else enrol)(invitation, directory, note)
    text = (
        f"{joined.site} {'had already joined' if joined.already else 'joined'} "
        f"{joined.coordinator}; signing key {joined.fingerprint}\n"
        f"Next: edit [policy] in {directory / 'site.toml'} (it allows nothing yet), then\n"
        f"      cohortium site data add NAME --path TABLE --schema SCHEMA --dir {directory}"
    )
    emit({**asdict(joined), "directory": str(directory)}, text, as_json)


@site.command()
def doctor(directory: StateDir, as_json: JsonFlag = False) -> None:
    """Check keys, policy, packages, machine, network, clock and data. Changes nothing.

    Example: cohortium site doctor --dir DIR
    """
    from cohortium.client.doctor import examine

    findings = list(examine(directory))
    lines = []
    for finding in findings:
        lines.append(f"{finding.verdict:8}{finding.check}: {finding.said}")
        if finding.verdict != "ok":
            lines.append(f"{'':8}-> {finding.advice}")
    emit({"findings": [asdict(finding) for finding in findings]}, "\n".join(lines), as_json)
    if any(finding.verdict == "fail" for finding in findings):
        raise typer.Exit(1)


@site.command()
def up(directory: StateDir, as_json: JsonFlag = False) -> None:
    """Run the daemon in the foreground: it connects out to the coordinator and answers it.

    Example: cohortium site up --dir DIR
    """
    from cohortium.client.doctor import require_fit

    require_fit(directory)
    from cohortium.client.daemon import run  # slow to import: flwr

    def tell(state: str) -> None:
        if as_json:
            emit({"state": state}, "", as_json)
        else:
            note(f"{directory.name}: {state}")

    run(directory, tell)


@site.command()
def status(directory: StateDir, as_json: JsonFlag = False) -> None:
    """Whether the daemon runs, and what it said last.

    Example: cohortium site status --dir DIR
    """
    from cohortium.client.examine_siem import stream_of

    here = SiteDir(directory)
    config = here.load_config()
    running = daemon.is_running(here.lock)
    said = daemon.said(here.status) if running else {}
    state = said.get("state", "starting") if running else "not running"
    state += ", paused" if here.paused.exists() else ""
    usable = [name for name in here.datasets() if not here.is_withdrawn(name)]
    loud = alarms(here)
    stream = stream_of(here, config, running)
    document = {
        "site": config.name,
        "coordinator": config.coordinator.name,
        "state": state,
        "datasets": usable,
        "alarms": loud,
        "siem": asdict(stream) if stream else None,
    }
    lines = [f"{config.name}: {state}; datasets: {', '.join(usable) or 'none'}"]
    lines += [*(f"ALARM: {said}" for said in loud), *([stream.text] if stream else [])]
    emit(document, "\n".join(lines), as_json)


@site.command()
def studies(directory: StateDir, as_json: JsonFlag = False) -> None:
    """The studies that have reached this site.

    Example: cohortium site studies --dir DIR
    """
    found = _open(directory).studies.all()
    rows = [(item.study.name, item.state, item.digest[:12], item.note) for item in found]
    document = {
        "studies": [
            {"name": name, "state": state, "digest": item.digest, "note": why}
            for (name, state, _, why), item in zip(rows, found, strict=True)
        ]
    }
    header = ("STUDY", "STATE", "DIGEST", "NOTE")
    emit(document, table(header, rows, "no study has reached this site yet"), as_json)


@site.command()
def review(study: StudyName, directory: StateDir, as_json: JsonFlag = False) -> None:
    """What a study wants, in plain words, before you approve it.

    Example: cohortium site review heart-study --dir DIR
    """
    opened = _open(directory)
    known = opened.studies.by_name(study)
    sheet = _sheet(opened, known)
    document = {
        "study": known.study.name,
        "digest": known.digest,
        "state": known.state,
        "sheet": sheet,
    }
    emit(document, f"{sheet}\nState      {known.state}", as_json)


@site.command()
def approve(
    study: StudyName, person: Person, directory: StateDir, as_json: JsonFlag = False
) -> None:
    """Sign this site's approval of exactly this study.

    Example: cohortium site approve heart-study --as "Dr. A. Weiss" --dir DIR
    """
    from cohortium.client import halt, policy, snapshot

    opened = _open(directory)
    known = opened.studies.by_name(study)
    if known.over:
        raise UsageError(f'study "{study}" is over ({known.note}): there is nothing to approve')
    policy.check(known.study, opened.policy, opened.directory.config, opened.name)
    if opened.directory.is_withdrawn(known.study.data.dataset):
        raise halt.withdrawn(known.study.data.dataset)
    opened.check_approver(person)
    _require_same_code(opened.directory)
    note(_sheet(opened, known))
    with opened.database.transaction():
        count, needed = opened.approve(known.study, person), opened.policy.approvals_needed
        state: State = "approved" if count >= needed else "waiting"
        opened.studies.mark(known.digest, state, f"{count} of {needed} approvals, by {person}")
        snapshot.record(opened, known.study, os_user())
        holding = opened.approvals.of(
            known.study, opened.name, lambda: opened.facts(known.study), opened.clock()
        )
        signed = next(approval for approval in holding if approval.person == person)
        event = opened.log.append(
            "study.approved",
            actor=os_user(),
            study=known.digest,
            obj=(signed.thing,),
            detail={"person": person, "meaning": signed.meaning},
        )
    document = {
        "study": known.study.name,
        "digest": known.digest,
        "by": person,
        "code": signed.code,
        "data": signed.data,
        "expires": signed.expires,
        "event": event.id,
    }
    text = (
        f"approved {known.study.name} as {person}   (event {event.id})\n"
        f"signed for study {known.digest[:16]}, code {signed.code[:16]}, "
        f"table {signed.data[:16]}, until {signed.expires[:10]}"
    )
    emit(document, text, as_json)


@site.command()
def reject(
    study: StudyName, person: Person, directory: StateDir, as_json: JsonFlag = False
) -> None:
    """Say no to a study, or withdraw an approval: it gets nothing more from this site.

    Example: cohortium site reject heart-study --as "Dr. A. Weiss" --dir DIR
    """
    opened = _open(directory)
    known = opened.studies.by_name(study)
    if known.over:
        raise UsageError(f'study "{study}" is over ({known.note}): it gets nothing more anyway')
    with opened.database.transaction():
        opened.withdraw_approvals(known.digest, os_user())
        opened.studies.mark(known.digest, "rejected", f"rejected by {person}")
        opened.release(known.digest)
        event = opened.log.append(
            "study.rejected",
            actor=os_user(),
            outcome="denied",
            study=known.digest,
            reason="a person at the site said no",
            detail={"person": person},
        )
    opened.watermark.keep()
    document = {"study": known.study.name, "digest": known.digest, "by": person, "event": event.id}
    emit(document, f"rejected {known.study.name} as {person}   (event {event.id})", as_json)


@site.command()
def stop(study: StudyName, person: Person, directory: StateDir, as_json: JsonFlag = False) -> None:
    """The kill switch: end a study here, its processes within 5 s, until it is approved again.

    Example: cohortium site stop heart-study --as "Dr. A. Weiss" --dir DIR
    """
    from cohortium.client import halt

    opened = _open(directory, whole=False)
    known = opened.studies.by_name(study)
    halted = halt.stop(opened, known, person)
    text = (
        f"stopped {known.study.name}: {halted.processes} training process(es) gone after "
        f"{halted.seconds:g} s   (event {halted.event})"
    )
    emit({"study": known.study.name, "by": person, **asdict(halted)}, text, as_json)


@site.command()
def pause(person: Person, directory: StateDir, as_json: JsonFlag = False) -> None:
    """End all training now and answer no study until `resume`.

    Example: cohortium site pause --as "Dr. A. Weiss" --dir DIR
    """
    from cohortium.client import halt

    halted = halt.pause(_open(directory, whole=False), person)
    text = (
        f"paused: {halted.processes} training process(es) gone after {halted.seconds:g} s   "
        f"(event {halted.event})"
    )
    emit({"by": person, **asdict(halted)}, text, as_json)


@site.command()
def resume(person: Person, directory: StateDir, as_json: JsonFlag = False) -> None:
    """Answer studies again after a pause; an interrupted round is trained anew.

    Example: cohortium site resume --as "Dr. A. Weiss" --dir DIR
    """
    from cohortium.client import halt

    event = halt.resume(_open(directory, whole=False), person)
    emit({"by": person, "event": event}, f"resumed   (event {event})", as_json)


@site.command("accept-loss")
def accept_loss(person: Person, directory: StateDir, as_json: JsonFlag = False) -> None:
    """After a restore from an old backup: count what site.db has forgotten as spent, and go on.

    Every study that was under way is stopped until a person approves it again.

    Example: cohortium site accept-loss --as "Dr. A. Weiss" --dir DIR
    """
    from cohortium.client import lost

    accepted = lost.accept(_open(directory, whole=False), person)
    if accepted is None:
        emit({"lost": False, "by": person}, "nothing is lost: site.db is whole", as_json)
        return
    names = ", ".join(accepted.studies) or "none"
    text = (
        f"counted {accepted.steps} lost training steps as spent; stopped until they are approved "
        f"again: {names}   (event {accepted.event})"
    )
    emit({"lost": True, "by": person, **asdict(accepted)}, text, as_json)


@site.command()
def budget(
    directory: StateDir,
    rows: Annotated[
        bool, typer.Option("--rows", help="Print the ledger's rows instead, one a line of JSON.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """The privacy ledger: per dataset what is spent, by which study, and the lifetime cap.

    Example: cohortium site budget --dir DIR
    """
    from cohortium.client.budget import Ledger

    opened = _open(directory)
    if rows:
        _rows(opened, as_json)
        return
    names = {item.digest: item.study.name for item in opened.studies.all()}
    documents, lines, words = [], [], []
    for name in opened.directory.datasets():
        balance = Ledger(opened.database, opened.directory.load_dataset(name)).balance()
        by_study = {names.get(key, key[:12]): value for key, value in balance.by_study.items()}
        documents.append({**asdict(balance), "by_study": by_study})
        cap = f"{balance.epsilon_cap:g}"
        spent, held = f"{balance.epsilon_spent:.4f}", f"{balance.epsilon_reserved:.4f}"
        lines.append((name, spent, held, cap, f"{balance.delta_cap:g}", ""))
        lines += [("", f"{value:.4f}", "", "", "", study) for study, value in by_study.items()]
        mu = "" if balance.mu is None else f"   (Gaussian DP: mu {balance.mu:.4f})"
        words.append(f"{name}: {balance.words}{mu}")
    header = ("DATASET", "EPSILON SPENT", "WITH RESERVED", "CAP", "DELTA", "STUDY")
    text = "\n".join([table(header, lines, "no dataset is registered"), *words])
    emit({"datasets": documents}, text, as_json)


def _rows(opened: "Site", as_json: bool) -> None:
    """Every row to the byte as it was hashed; those of before this form cannot be printed."""
    from cohortium.client.ledger_rows import texts

    found = texts(opened.database)
    full = [text for text in found if text]
    document = {"rows": [json.loads(text) for text in full], "older": len(found) - len(full)}
    if document["older"]:
        note(f"{document['older']} rows are older than this form: the first row after counts them")
    emit(document, "\n".join(full) or "nothing was ever spent", as_json)


def _require_same_code(here: SiteDir) -> None:
    """An approval is of the code installed now: a daemon that was started before runs another."""
    from cohortium.common.code import code_digest

    running = daemon.said(here.status).get("code") if daemon.is_running(here.lock) else None
    if running not in (None, code_digest()):
        raise UsageError(
            "the daemon runs another version than is installed now: restart `cohortium site up`, "
            "then approve"
        )


def _open(directory: Path, whole: bool = True) -> "Site":
    """The site, whose records must be `whole` for all but the kill switch."""
    from cohortium.client.site import open_site

    opened = open_site(directory)
    if whole:
        opened.watermark.check()
    return opened


def _sheet(opened: "Site", known: "KnownStudy") -> str:
    from cohortium.client.budget import Ledger
    from cohortium.client.review import sheet

    try:
        dataset = opened.directory.load_dataset(known.study.data.dataset)
        balance = Ledger(opened.database, dataset).balance()
    except CohortiumError:
        balance = None
    return sheet(known.study, balance, opened.studies.approved_before(known), opened.name)
