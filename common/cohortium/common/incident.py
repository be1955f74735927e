"""An incident that is in force: a file that freezes a party, and what was done about it.

`incident.json` is written before anything else is done and lies there until somebody lifts the
incident: a daemon that is killed and started again finds it. Each step notes that it is done, so
that the command can be given again and does what is left. What is made for the incident lies in
`incidents/<time>/`, and stays.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cohortium.common.audit.events import Text, timestamp
from cohortium.common.document import Document, canonical, parse_json
from cohortium.common.errors import RefusedError, StorageError
from cohortium.common.files import sync, write_whole

FILE = "incident.json"
DRAFT = "notification-draft.md"
EVIDENCE = "evidence.zip"


class Declared(Document):
    """Who declared it, why, when (RFC 3339 in UTC); done: by step what came of it, often an event.

    `since` is when it was noticed as far as this machine knows: the 72 hours begin then at the
    latest.
    """

    person: Text
    reason: Text
    since: str
    done: Mapping[str, str] = {}


@dataclass(frozen=True)
class Incident:
    """The incident of one directory; `declared` is None where none is in force."""

    root: Path

    @property
    def path(self) -> Path:
        return self.root / FILE

    @property
    def declared(self) -> Declared | None:
        """What is in force, also where the file cannot be read as such: then nobody knows why."""
        try:
            return parse_json(self.path.read_bytes(), Declared, str(self.path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be read ({error.strerror})") from None

    def declare(self, person: str, reason: str, now: datetime) -> Declared:
        """Freeze the party, durably; one that is in force already stays what it is."""
        found = self.declared
        if found is not None:
            return found
        made = Declared(person=person, reason=reason, since=timestamp(now))
        write_whole(self.path, canonical(made), private=True)
        return made

    def once(self, step: str, do: Callable[[], str]) -> str:
        """Do a step unless it is done; what came of it."""
        declared = self._in_force()
        if step not in declared.done:
            done = {**declared.done, step: do()}
            changed = declared.model_copy(update={"done": done})
            write_whole(self.path, canonical(changed), private=True)
        return self._in_force().done[step]

    @property
    def folder(self) -> Path:
        """Where what is made for it lies."""
        made = self._in_force().since
        return self.root / "incidents" / made.replace(":", "").replace(".", "-")

    def keep(self, name: str, content: bytes) -> Path:
        """Put a file into the folder; one that is there is taken the place of."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(path, content, private=True)
        return path

    def lift(self, person: str, reason: str, now: datetime, event: str) -> Path:
        """End it: the file goes to the others of the incident, and says who ended it."""
        declared, folder = self._in_force(), self.folder
        ended = {"by": person, "reason": reason, "at": timestamp(now), "event": event}
        record = {**declared.model_dump(mode="json"), "lifted": ended}
        self.keep(FILE, json.dumps(record, indent=2, ensure_ascii=False).encode())
        self.path.unlink()
        sync(self.root)
        return folder

    def check(self) -> None:
        """Raise RefusedError while one is in force."""
        if self.path.exists():
            raise RefusedError(
                "incident.frozen",
                f"an incident is in force here ({self.path}); who is responsible ends it with "
                "`incident --lift --as PERSON --reason TEXT`",
            )

    def _in_force(self) -> Declared:
        declared = self.declared
        if declared is None:
            raise RefusedError("incident.none", f"no incident is in force in {self.root}")
        return declared
