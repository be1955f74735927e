"""A party's directory as the audit commands use it, whichever role it has.

Each role's package offers an opener of its own (entry points `cohortium.parties`): nothing here
imports server or client.
"""

from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

from cohortium.common.audit.events import Actor
from cohortium.common.audit.log import EventLog
from cohortium.common.audit.notes import Note
from cohortium.common.database import Database
from cohortium.common.errors import UsageError
from cohortium.common.identity import SigningKey

if TYPE_CHECKING:
    from cohortium.common.audit.evidence import Entry, Evidence  # slow to import: the measures

Audience = Literal["site", "consortium", "regulator"]
FILES = {"site.toml": "site", "coordinator.toml": "coordinator"}


class Party(Protocol):
    """A coordinator or a site, opened beside its running daemon."""

    @property
    def role(self) -> Literal["coordinator", "site"]: ...

    @property
    def name(self) -> str: ...

    @property
    def consortium(self) -> str:
        """The coordinator's name."""

    @property
    def root(self) -> Path: ...

    @property
    def database(self) -> Database: ...

    @property
    def log(self) -> EventLog: ...

    @property
    def key(self) -> SigningKey:
        """The party's own; read only where it is needed."""

    def acting(self, *roles: str, person: str = "") -> Actor:
        """Who is asking, as the operating system knows them; RefusedError if they may not.

        Args:
            person: the name that they sign with, by which a site's file may know them.
        """

    def role_of(self, actor: Actor, person: str) -> str:
        """The role that the directory's file gives them; "" where it names nobody."""

    def auditor(self, name: str) -> str | None:
        """The registered public key (base64) of an auditor; None where there is none."""

    def policy(self) -> str:
        """Whom a stranger has to trust to verify this party's bundles (tlog-policy)."""

    def gather(
        self, audience: Audience, study: str | None, since: str, until: str, officer: str
    ) -> "Evidence":
        """Everything that may be shown to an audience."""

    def checkpoint(self, wait_s: float) -> Note:
        """A checkpoint over all that is logged now, with the cosignatures that come in time."""

    def entries(self, evidence: "Evidence", size: int) -> tuple["Entry", ...]:
        """Those of the evidence and what was logged since, up to `size`, by the same rules."""

    def log_files(self, evidence: "Evidence", note: Note) -> dict[str, bytes]:
        """The files of the bundle's `log/` folder, besides the events and their leaves."""


def open_party(directory: Path) -> Party:
    """Open a site's or coordinator's directory.

    Raises:
        UsageError: it is neither, or its role is not installed here.
    """
    role = next((role for file, role in FILES.items() if (directory / file).exists()), None)
    if role is None:
        raise UsageError(f"{directory} is neither a site's nor a coordinator's directory")
    for point in entry_points(group="cohortium.parties", name=role):
        return cast(Party, point.load()(directory))
    raise UsageError(f"this is a {role}'s directory: install cohortium[{role}] to read it")
