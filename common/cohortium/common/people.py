"""Who may do what: an auditor reads and exports and changes nothing, whatever the command.

`[people]` in coordinator.toml or site.toml gives roles by name: that of the operating system's user
or, at a site, the one given with `--as`. `[auditors]` registers the keys of auditors without an
account. What a lead, operator, officer or approver may do is checked where it is done.
"""

import functools
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import click
from pydantic import AfterValidator

from cohortium.common.audit.events import os_user
from cohortium.common.audit.log import EventLog
from cohortium.common.database import attach_database
from cohortium.common.document import one_line, read_toml
from cohortium.common.errors import CohortiumError, IdentityError, RefusedError
from cohortium.common.identity import VerifyKey

# What an auditor may call. A command that is not here is refused to auditors: also a new one.
READING = frozenset(
    {
        "audit export",
        "audit keygen",
        "audit log",
        "audit policy",
        "audit retention",
        "audit review",
        "audit verifier",
        "audit verify",
        "coordinator sites",
        "coordinator status",
        "coordinator witnesses",
        "site budget",
        "site doctor",
        "site results",
        "site review",
        "site status",
        "site studies",
        "study flags",
        "study list",
        "study report",
        "study touched",
        "study tune",  # opens nobody's records
        "study validate",
        "study watch",
    }
)
RECORDS = {"coordinator.toml": "coordinator.db", "site.toml": "site.db"}
RULES = ("people.auditor", "people.role", "people.approver")


def _is_key(text: str) -> str:
    try:
        return VerifyKey.from_text(text).text
    except IdentityError as error:
        raise ValueError(str(error)) from None


PublicKey = Annotated[str, AfterValidator(_is_key)]  # base64 of a raw Ed25519 public key


def guard(command: click.Command, *path: str) -> click.Command:
    """Let no auditor call what changes something; what people may not do is recorded."""
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            guard(child, *path, name)
    elif command.callback is not None:
        command.callback = _guarded(command.callback, " ".join(path))
    return command


def _guarded(call: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(call)
    def guarded(**given: Any) -> Any:
        root = Path(given["directory"]) if given.get("directory") else None
        try:
            if root is not None and name not in READING:
                check_no_auditor(root, str(given.get("person") or ""))
            return call(**given)
        except RefusedError as error:
            if root is not None and error.rule in RULES:
                _record(root, error)
            raise

    return guarded


def check_no_auditor(root: Path, person: str = "") -> None:
    """Raise RefusedError where the user, or the person that is named, is an auditor here.

    Args:
        root: a coordinator's or site's directory; nobody is anything in another.
    """
    for file in (root / name for name in RECORDS if (root / name).exists()):
        config = read_toml(file)
        for who in (os_user().id, person):
            if is_auditor(config, who):
                raise RefusedError(
                    "people.auditor",
                    f'"{who}" is an auditor in {file}: auditors read and export, and change '
                    f"nothing; others there: {_others(config)}",
                )


def is_auditor(config: Mapping[str, Any], who: str) -> bool:
    """Whether a parsed coordinator.toml or site.toml makes somebody an auditor."""
    return _section(config, "people").get(who) == "auditor" or who in _section(config, "auditors")


def _others(config: Mapping[str, Any]) -> str:
    people = _section(config, "people")
    return ", ".join(name for name in people if not is_auditor(config, name)) or "nobody is named"


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def _record(root: Path, error: RefusedError) -> None:
    """Who tried what they may not: an event, if this user can write there."""
    with suppress(CohortiumError):
        file = next(name for name in RECORDS if (root / name).exists())
        node = str(read_toml(root / file).get("name"))
        with attach_database(root / RECORDS[file]) as database:
            EventLog(database, node, node, lambda: datetime.now(UTC)).append(
                "auth.fail",
                actor=os_user(),
                outcome="denied",
                reason=error.rule,
                detail={"user": one_line(os_user().id, 200)},
            )
