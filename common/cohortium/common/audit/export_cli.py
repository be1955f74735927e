"""`cohortium audit export`: evidence as one sealed file for a compliance officer."""

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from cohortium.common.audit.party import Audience
from cohortium.common.console import JsonFlag, StateDir, emit, note
from cohortium.common.errors import UsageError

TIME = re.compile(r"(\d{4}-\d\d-\d\d)(?:T(\d\d:\d\d:\d\d)(?:\.(\d{3}))?Z)?")
RETENTION = (6, 10)


def export(
    directory: StateDir,
    out: Annotated[Path, typer.Option(help="The file to write, such as evidence.zip.")],
    person: Annotated[str, typer.Option("--as", help="The name that the e-signature bears.")],
    audience: Annotated[
        Audience | None,
        typer.Option(
            help="Who will read it. site: a hospital's own log (the default there). consortium: "
            "no person but those who signed (the default at a coordinator). regulator: everything."
        ),
    ] = None,
    study: Annotated[str, typer.Option(help="Show one study only; the rest is withheld.")] = "",
    since: Annotated[str, typer.Option(help="Show nothing before: 2026-01-31, or a time.")] = "",
    until: Annotated[str, typer.Option(help="Show nothing after that day or time.")] = "",
    key: Annotated[
        Path | None, typer.Option(help="An auditor's own key file; else this party's key signs.")
    ] = None,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for the witnesses' cosignatures.")
    ] = 30.0,
    retention_years: Annotated[
        int, typer.Option(help="How long the files are to be kept: 6 or 10 years.")
    ] = 6,
    pdf: Annotated[bool, typer.Option("--pdf", help="Also write the report as PDF.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace another file at --out.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Seal the evidence of a directory into one file that others can verify.

    The export is itself an event in the log that it exports. The same state gives the same bytes;
    run it again to add cosignatures that came later.

    Example: cohortium audit export --out evidence.zip --as "Dr. E. Haddad" --dir DIR
    """
    from cohortium.common.audit.export import Request
    from cohortium.common.audit.export import export as run
    from cohortium.common.audit.party import open_party
    from cohortium.common.audit.report.pdf import pdf_files, require_pdf

    if retention_years not in RETENTION:
        raise UsageError("--retention-years: 6 or 10")
    if pdf:
        require_pdf()
    party = open_party(directory)
    request = Request(
        out=out,
        audience=audience or ("site" if party.role == "site" else "consortium"),
        person=person.strip(),
        study=study or None,
        since=_time(since, "--since", "00:00:00.000"),
        until=_time(until, "--until", "23:59:59.999"),
        key=key,
        wait_s=wait,
        retention_years=retention_years,
        further=(pdf_files,) if pdf else (),
        force=force,
    )
    shown = sys.stderr.isatty() and not as_json
    done = run(party, request, note if shown else lambda _: None)
    verify = f"cohortium audit verify {shlex.quote(str(out))} --policy POLICY"
    document = {
        "file": str(done.file),
        "sha256": done.sha256,
        "manifest": done.manifest,
        "event": done.event,
        "sealed_now": done.new,
        "audience": request.audience,
        "by": done.seal.name,
        "at": done.seal.at,
        "files": done.files,
        "log": {"size": done.size, "shown": done.shown, "withheld": done.size - done.shown},
        "witnessed": done.witnessed,
        "witnesses": dict(done.witnesses),
        "verify": verify,
    }
    said = "" if done.new else ", as before: nothing has changed since"
    text = (
        f"sealed by {done.seal.name} at {done.seal.at}{said}   (event {done.event})\n"
        f"{done.file}: {done.files} files for audience {request.audience}, {done.shown} of "
        f"{done.size} events shown\n"
        f"sha256 {done.sha256}\n"
        f"{_witnessed(done.witnessed, done.witnesses, party.role)}\n"
        f"Verify with the consortium's policy, from a place that you trust:\n  {verify}"
    )
    emit(document, text, as_json)


def _witnessed(witnessed: bool, witnesses: Mapping[str, str], role: str) -> str:
    who = ", ".join(f"{name} at {at}" for name, at in witnesses.items())
    if witnessed:
        where = "anchored in the consortium's log, cosigned" if role == "site" else "witnessed"
        return f"{where} by {who}"
    part = f" (so far by {who})" if who else ""
    return f"NOT YET WITNESSED{part}: run it again when the witnesses have cosigned"


def _time(text: str, option: str, of_day: str) -> str:
    """RFC 3339 in UTC with milliseconds, as events have it; a day alone begins or ends."""
    if not text:
        return ""
    found = TIME.fullmatch(text)
    if found is None:
        raise UsageError(f"{option}: a day such as 2026-01-31, or a time 2026-01-31T08:00:00Z")
    day, time, ms = found.groups()
    return f"{day}T{time}.{ms or '000'}Z" if time else f"{day}T{of_day}Z"
