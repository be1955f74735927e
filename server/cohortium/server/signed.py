"""What persons sign about a model: dispositions of flags, and its release.

A signature is one of the coordinator's key over a document that says who, when and with which
meaning, and the hashes of what was looked at (the parts of 21 CFR 11.50 and 11.70). Rows are only
ever added; the last of its kind counts, and only while it verifies. Whoever owns the file can drop
the last row: what was signed stands in the event log too.
"""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import Field

from cohortium.common.audit.events import Text
from cohortium.common.continuation import Sha256
from cohortium.common.database import Database
from cohortium.common.document import Document, canonical, parse_json
from cohortium.common.errors import ProtocolError, SignatureError
from cohortium.common.identity import SigningKey, VerifyKey
from cohortium.common.using.sealed import EXPORT_CONTEXT, RELEASE_CONTEXT, Exported
from cohortium.server.gates import Flag
from cohortium.server.store import Store, StudyRow

MAX_REASON = 500
TAGS = b"cohortium-flag-tags-v1\n"

Decision = Literal["accept", "mitigated", "not-applicable", "reopen"]
Reason = Annotated[str, Field(min_length=3, max_length=MAX_REASON)]


class Subject(Document):
    """The one state of a study that a signature is about, by SHA-256 in hex.

    study: the document; model: the file as it is exported; evidence: all that sites sent by round;
    audit: what the fairness audit found in it.
    """

    study: Sha256
    model: Sha256
    evidence: Sha256
    audit: Sha256


class Signer(Document):
    """The printed name, and how this machine knows who signed; role: in coordinator.toml, or ""."""

    name: Text
    user: str
    auth: str
    role: str


class Disposition(Document):
    """What a person decided about one flag. `at` is RFC 3339 in UTC."""

    v: Literal[1] = 1
    meaning: Literal["disposition of this flag, having looked at the evidence"] = (
        "disposition of this flag, having looked at the evidence"
    )
    subject: Subject
    study_name: str
    flag: Flag
    decision: Decision
    reason: Reason
    signer: Signer
    at: str


class Released(Document):
    """The release of a model.

    closed, overridden: the flags that were answered for, and those that were not, by a tag that
    only this coordinator can make: the document is public, and a flag may be about a site.
    reason: why the open flags that were overridden do not hold it back; empty without any.
    """

    v: Literal[1] = 1
    meaning: Literal[
        "release of this model, every gate being closed",
        "release of this model, overriding the gates that are open",
    ]
    subject: Subject
    study_name: str
    parameters: int
    closed: tuple[Sha256, ...]
    overridden: tuple[Sha256, ...]
    reason: Annotated[str, Field(max_length=MAX_REASON)]
    signer: Signer
    at: str


D = TypeVar("D", Disposition, Released)
KINDS: dict[type[Disposition] | type[Released], str] = {
    Disposition: "disposition",
    Released: "release",
}
CONTEXTS: dict[type[Disposition] | type[Released], bytes] = {
    Disposition: b"cohortium-disposition-v1\n",
    Released: RELEASE_CONTEXT,
}


@dataclass(frozen=True)
class Kept(Generic[D]):
    """A stored document that verifies, its bytes and signature, and the event that records it."""

    document: D
    raw: bytes
    signature: bytes
    event: str


def sha256(document: Document) -> str:
    return hashlib.sha256(canonical(document)).hexdigest()


class Signatures:
    """The table of signed documents; `key` is asked for only where something was signed."""

    def __init__(self, database: Database, key: Callable[[], SigningKey]) -> None:
        self._database = database
        self._key = key

    @property
    def public(self) -> VerifyKey:
        """What outsiders verify with."""
        return self._key().public

    def tag(self, flag: Flag) -> str:
        """A flag's name in public documents, hex: nobody else can guess which flag it is."""
        secret = self._key().sign(TAGS)  # Ed25519 gives the same each time, and to us alone
        return hmac.new(secret, flag.digest.encode(), "sha256").hexdigest()

    def add(self, document: Disposition | Released, event: str) -> None:
        """Sign and keep (in the caller's transaction)."""
        flag = document.flag.digest if isinstance(document, Disposition) else ""
        kind, raw = type(document), canonical(document)
        self._database.execute(
            "INSERT INTO signed (study, kind, flag, document, signature, event) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                document.subject.study,
                KINDS[kind],
                flag,
                raw,
                self._key().sign(CONTEXTS[kind] + raw),
                event,
            ),
        )

    def sign_export(self, document: Exported) -> bytes:
        """The signature over what left; not kept, as the same files are signed the same again."""
        return self._key().sign(EXPORT_CONTEXT + canonical(document))

    def disposition(self, flag: Flag) -> Kept[Disposition] | None:
        """The last word about a flag.

        Raises:
            SignatureError: it was changed since it was signed.
        """
        kept = self._last(flag.study, flag.digest, Disposition)
        if kept is not None and kept.document.flag != flag:
            raise SignatureError(f"the stored disposition of {flag.id} is of another flag")
        return kept

    def release(self, study: str) -> Kept[Released] | None:
        """A study's last release, whether it still holds or not.

        Raises:
            SignatureError: it was changed since it was signed.
        """
        return self._last(study, "", Released)

    def _last(self, study: str, flag: str, kind: type[D]) -> Kept[D] | None:
        rows = self._database.execute(
            "SELECT document, signature, event FROM signed WHERE study = ? AND kind = ? "
            "AND flag = ? ORDER BY seq DESC LIMIT 1",
            (study, KINDS[kind], flag),
        )
        if not rows:
            return None
        what = f"{self._database.path}: the stored {KINDS[kind]}"
        raw, signature = bytes(rows[0]["document"]), bytes(rows[0]["signature"])
        try:
            self.public.verify(signature, CONTEXTS[kind] + raw)
            document = parse_json(raw, kind, what)
        except (ProtocolError, SignatureError):
            raise SignatureError(
                f"{what} is not as it was signed by this coordinator's key; "
                "restore the file from a backup, or sign it again"
            ) from None
        if document.subject.study != study:
            raise SignatureError(f"{what} is of another study; restore the file from a backup")
        return Kept(document, raw, signature, rows[0]["event"])


def known_as(row: StudyRow, store: Store, signatures: Signatures) -> str:
    """What a study's state is called: `released` if its evidence is that of a signed release."""
    if row.state != "completed":
        return row.state
    try:
        kept = signatures.release(row.digest)
    except SignatureError:
        return row.state
    fresh = kept is not None and kept.document.subject.evidence == store.evidence(row.digest)
    return "released" if fresh else row.state
