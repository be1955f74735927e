"""What changed outside of our commands, noticed by its digest: settings, roles, tables.

The record says that it changed, from which digest to which, and never what it says; of roles also
whose. Who changed it nobody here knows: the daemon that noticed is the actor.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from cohortium.common.audit.events import Actor
from cohortium.common.audit.log import EventLog
from cohortium.common.database import Database
from cohortium.common.document import one_line

ROLES = ("people", "auditors")  # sections of settings that are about persons
NOBODY = "none"


class Noticing:
    """Remembers one digest of each thing; the table is `tables.NOTICED`."""

    def __init__(self, database: Database, log: EventLog) -> None:
        self._database = database
        self._log = log

    def settings(self, name: str, config: BaseModel, actor: Actor, *, starting: bool) -> None:
        """Record that settings are others than last time, and whose roles are.

        Args:
            name: of the file, such as `site.toml`.
            starting: a daemon starts: the first time is recorded too.
        """
        digest, roles = policy_digest(config), roles_of(config)
        text = json.dumps(roles, sort_keys=True, ensure_ascii=False)
        before = self.last(name)
        if before == (digest, text):
            return
        with self._database.transaction():
            self.keep(name, digest, text)
            if before is None and not starting:
                return
            if before is None or before[0] != digest:
                detail = {"setting": name, "after": digest}
                if before is not None:
                    detail["before"] = before[0]
                self._log.append("policy.changed", actor=actor, detail=detail)
            self._roles({} if before is None else json.loads(before[1]), roles, actor)

    def _roles(self, before: Mapping[str, str], after: Mapping[str, str], actor: Actor) -> None:
        for user in sorted(before.keys() | after.keys()):
            was, now = before.get(user, NOBODY), after.get(user, NOBODY)
            if was != now:
                role, _, key = now.partition(" ")
                detail = {"user": one_line(user, 200), "role_before": was.split()[0]}
                detail |= {"role_after": role, **({"key_after": key} if key else {})}
                self._log.append("user.role.changed", actor=actor, detail=detail)

    def is_new(self, what: str, digest: str) -> bool:
        """Whether a thing is another than last time; remembers it (in the caller's transaction)."""
        before = self.last(what)
        if before is not None and before[0] == digest:
            return False
        self.keep(what, digest, "")
        return True

    def last(self, what: str) -> tuple[str, str] | None:
        rows = self._database.execute("SELECT digest, text FROM noticed WHERE what = ?", (what,))
        return (rows[0]["digest"], rows[0]["text"]) if rows else None

    def keep(self, what: str, digest: str, text: str) -> None:
        self._database.execute(
            "INSERT INTO noticed VALUES (?, ?, ?) ON CONFLICT (what) DO UPDATE "
            "SET digest = excluded.digest, text = excluded.text",
            (what, digest, text),
        )


def policy_digest(config: BaseModel) -> str:
    """SHA-256, hex, of settings as canonical JSON without persons: a site may let it be known."""
    values = config.model_dump(mode="json", exclude=set(ROLES))
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def roles_of(config: BaseModel) -> dict[str, str]:
    """The role of everybody who is named; an auditor's key is part of it."""
    values: dict[str, Any] = config.model_dump(mode="json", include=set(ROLES))
    keys = {name: f"auditor {key}" for name, key in values.get("auditors", {}).items()}
    return {**values.get("people", {}), **keys}
