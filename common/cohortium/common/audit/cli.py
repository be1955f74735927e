"""`cohortium audit`: read the event log of a site's or coordinator's directory."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from cohortium.common.audit import keeping_cli, verify_cli
from cohortium.common.audit.export_cli import export
from cohortium.common.audit.log import EventLog
from cohortium.common.audit.policy_cli import policy
from cohortium.common.console import JsonFlag, StateDir, emit
from cohortium.common.database import Database, attach_database
from cohortium.common.document import read_toml
from cohortium.common.errors import UsageError

ROLES = {"site.toml": "site.db", "coordinator.toml": "coordinator.db"}

audit = typer.Typer(
    help="The event log of a site or coordinator.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
audit.command()(export)
audit.command()(policy)
verify_cli.add_to(audit)

for command in (
    keeping_cli.keygen,
    keeping_cli.review,
    keeping_cli.retention,
    keeping_cli.redact,
):
    audit.command()(command)


@audit.command()
def log(
    directory: StateDir,
    out: Annotated[
        Path | None, typer.Option(help="Write the events there as JSON lines, one an event.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Verify the event log of a directory, then print it or write it to a file.

    Example: cohortium audit log --dir DIR --out events.jsonl
    """
    node, database = _open(directory)
    with database:
        events = EventLog(database, node, node, lambda: datetime.now(UTC))
        head = events.verify()
        document = {"node": node, "events": head.size, "digest": head.digest}
        if out is not None:
            events.export(out)
            text = f"{node}: {head.size} events, no gap, written to {out}"
            emit({**document, "file": str(out)}, text, as_json)
            return
        for event in events.events():
            values = json.loads(event.line)
            text = f"{values['ts']}  {values['action']:22} {values['outcome']:8} {_what(values)}"
            emit(values, text, as_json)


def _open(directory: Path) -> tuple[str, Database]:
    """The name of the party that a directory belongs to, and its database."""
    for config, database in ROLES.items():
        if (directory / config).exists():
            name = str(read_toml(directory / config).get("name"))
            return name, attach_database(directory / database)
    raise UsageError(f"{directory} is neither a site's nor a coordinator's directory")


def _what(values: Mapping[str, Any]) -> str:
    """The parts of an event that a person looks for first."""
    parts = [f"{key}={value}" for key, value in values.get("detail", {}).items()]
    if "round" in values:
        parts.insert(0, f"round={values['round']}")
    if "reason" in values:
        parts.insert(0, values["reason"])
    return " ".join(parts)[:200]
