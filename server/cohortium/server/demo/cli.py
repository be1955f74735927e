"""`cohortium demo`: four hospitals, a coordinator and a private study, on this machine."""

import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cohortium.common.console import JsonFlag, emit, note, table
from cohortium.common.errors import CohortiumError, UsageError


def demo(
    sites: Annotated[
        int | None, typer.Option(min=2, max=4, help="How many of the hospitals (4).")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of training.")] = None,
    workdir: Annotated[
        Path | None, typer.Option(help="A new directory for everything that is made.")
    ] = None,
    data: Annotated[
        Literal["diabetes", "heart"],
        typer.Option(help="diabetes ships with scikit-learn; heart needs --data-dir."),
    ] = "diabetes",
    data_dir: Annotated[
        Path | None, typer.Option(help="Where the four processed.*.data files of UCI heart are.")
    ] = None,
    study: Annotated[
        Path | None, typer.Option(help="A study.toml of your own; needs --tables.")
    ] = None,
    tables: Annotated[
        Path | None, typer.Option(help="A directory with one file for each of its sites.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run everything on this machine: coordinator, hospitals, TLS, privacy, report, release, logs.

    Example: cohortium demo --rounds 5

    With your own study: cohortium demo --study study.toml --tables DIR
    """
    from cohortium.server.demo.federation import Demo, run

    _check_given(study, tables, sites, data_dir)
    place = _workdir(workdir)
    if study is not None and tables is not None:
        prepared = _own(study, tables, place, rounds)
    else:
        prepared = _prepare(data, data_dir, place, sites or 4, rounds)
    running = Demo(place, prepared, note)
    try:
        document = run(running)
    finally:
        running.close()
    emit(document, _text(document), as_json)
    if document["state"] != "completed":
        raise CohortiumError(f"the study {document['state']}: {document['cause']}")


def _check_given(
    study: Path | None, tables: Path | None, sites: int | None, data_dir: Path | None
) -> None:
    if (study is None) != (tables is None):
        raise UsageError("--study and --tables go together: what to do, and each site's file")
    if study is not None and (sites is not None or data_dir is not None):
        raise UsageError("--study names its own sites and data: leave out --sites and --data-dir")


def _own(study: Path, tables: Path, place: Path, rounds: int | None) -> Any:
    """The given study on the given files; the documents are copied beside what is made."""
    from cohortium.server.demo.own import own_study

    return own_study(study, tables, place / "data", rounds)


def _workdir(given: Path | None) -> Path:
    """A directory of our own: the given one if it is new or empty, else a fresh name here."""
    if given is None:
        taken = {path.name for path in Path.cwd().glob("cohortium-demo-*")}
        number = next(n for n in range(1, 10_000) if f"cohortium-demo-{n}" not in taken)
        given = Path.cwd() / f"cohortium-demo-{number}"
    place = given.resolve()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UsageError(f"--workdir {given} is not an empty directory: give another")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--workdir {given}: cannot be written ({error.strerror}); give another"
        ) from None
    return place


def _prepare(data: str, data_dir: Path | None, place: Path, sites: int, rounds: int | None) -> Any:
    """Write the tables, the schema and the study, cut to so many sites and rounds."""
    from dataclasses import replace

    from cohortium.server.demo.data import write_diabetes, write_heart

    if data == "heart":
        if data_dir is None:
            raise UsageError(
                "--data heart needs --data-dir: the directory with the four processed.*.data "
                "files of the UCI heart disease data"
            )
        made = write_heart(data_dir, place / "data")
    else:
        made = write_diabetes(place / "data")
    text = made.study.read_text(encoding="utf-8")
    names = made.sites[:sites]
    listed = ", ".join(f'"{name}"' for name in names)
    text = re.sub(r"(?m)^names = \[[^]]*\]", f"names = [{listed}]", text)
    text = re.sub(r"(?m)^min_sites = \d+", f"min_sites = {min(3, sites)}", text)
    if rounds is not None:
        text = re.sub(r"(?m)^rounds = \d+", f"rounds = {rounds}", text)
    made.study.write_text(text, encoding="utf-8")
    return replace(made, sites=names)


def _text(document: dict[str, Any]) -> str:
    rows = [
        (
            site["name"],
            site["patients"] or "",
            ", ".join(site["approved_by"]),
            f"{site['epsilon_spent']:.3f} of {site['epsilon_cap']:g}",
            _share(site["metrics"]["accuracy"]),
            _share(site["metrics"]["majority"]),
            _share(site["metrics"]["auroc"]),
        )
        for site in document["sites"]
    ]
    first = next(iter(document["site_dirs"].values()))
    seconds, audit = f"{document['seconds']:.0f}", document["audit"]
    cosigned = ", ".join(audit["witnesses"]) or "nobody"
    header = ("SITE", "PATIENTS", "APPROVED BY", "EPSILON", "ACCURACY", "MAJORITY", "AUROC")
    lines = [
        "",
        f"{document['study']}: {document['state']}, {document['rounds']} rounds, {seconds} s",
        "",
        table(header, rows, ""),
        "",
        f"transport      {document['tls']}, seen on the wire; every message signed by its sender",
        "approvals      signed by each hospital's own key before anything ran",
        "privacy        spent and capped by each hospital's own ledger, unit: patient",
        f"model          {document['model']}",
        *([f"model card     {document['card']}"] if document["card"] else []),
        f"report         {document['report']}",
        f"evidence       {audit['bundle']}: {audit['verified']}, cosigned by {cosigned}",
        f"               python {audit['verifier']} {audit['bundle']} --policy {audit['policy']}",
        f"event logs     {', '.join(audit['logs'].values())}",
        f"look around    {sys.argv[0]} site budget --dir {first}",
    ]
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "hidden" if value is None else f"{value:.3f}"
