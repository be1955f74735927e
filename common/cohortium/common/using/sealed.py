"""The files of an export as they were signed: a list of SHA-256, bound to the release.

`release.json` holds two documents of the coordinator's key: the release, in which a person let this
model leave, and the list of what was written beside it. A folder is checked before it is used:
the key is the expected one -> both signatures -> the list is of that release -> each file.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from cohortium.common.continuation import Sha256
from cohortium.common.document import Document, parse_json
from cohortium.common.errors import (
    IdentityError,
    ProtocolError,
    SignatureError,
    StorageError,
)
from cohortium.common.identity import VerifyKey
from cohortium.common.using.described import (
    ADAPTERS_FILE,
    CARD_FILE,
    LOADER_FILE,
    MODEL_FILE,
    ONNX_FILE,
    RELEASE_FILE,
    STUDY_FILE,
)

RELEASE_CONTEXT: Final = b"cohortium-release-v1\n"
EXPORT_CONTEXT: Final = b"cohortium-export-v1\n"
WRITTEN: Final = (MODEL_FILE, CARD_FILE, STUDY_FILE, ONNX_FILE, LOADER_FILE, ADAPTERS_FILE)
AGAIN: Final = "ask the coordinator's operator to export the model again"

Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class Exported(Document):
    """What left with a release: the SHA-256 of each file, by name.

    release: the release's signature; study, model: as in the release.
    """

    v: Literal[1] = 1
    meaning: Literal["these files left with this release"] = "these files left with this release"
    study: Sha256
    model: Sha256
    release: Signature
    files: Mapping[FileName, Sha256]


class Signed(Document):
    """A document with the signature over `context` and its canonical JSON."""

    context: str
    document: Mapping[str, Any]
    signature: Signature
    event: str = ""


class ReleaseFile(Document):
    """`release.json`; `dispositions` are checked by whoever reads them, and used by nobody here."""

    how_to_verify: str
    coordinator: str
    key: str
    fingerprint: str
    release: Signed
    export: Signed
    dispositions: Any


def check_folder(folder: Path, signer: str = "") -> str:
    """Whether the files in a folder are those that were signed, as far as they are there.

    Args:
        signer: the fingerprint that the coordinator told; "" to believe the key in the folder.

    Returns:
        The fingerprint of the key that signed; "" where no `release.json` is there and no signer is
        asked for, as of a site's own model.

    Raises:
        SignatureError: a file, a document or the key is another one, and which.
        StorageError: a file cannot be read.
    """
    path = folder / RELEASE_FILE
    if not path.is_file():
        if signer:
            raise SignatureError(
                f"{path}: no such file, so that nobody's signature is here; {AGAIN}"
            )
        return ""
    found = _read(path)
    try:
        key = VerifyKey.from_text(found.key)
    except IdentityError:
        raise SignatureError(f"{path}: key: is no verify key; {AGAIN}") from None
    if signer and key.fingerprint != signer:
        raise SignatureError(
            f"{path}: signed by {key.fingerprint}, not by {signer}; compare the coordinator's "
            "fingerprint with somebody who knows it"
        )
    _verify(key, found.release, RELEASE_CONTEXT, f"{path}: release")
    _verify(key, found.export, EXPORT_CONTEXT, f"{path}: export")
    _check_files(folder, _listed(found, path))
    return key.fingerprint


def _read(path: Path) -> ReleaseFile:
    try:
        return parse_json(_bytes(path), ReleaseFile, str(path))
    except ProtocolError as error:
        raise SignatureError(
            f"{error}; was it changed, or exported by another version? {AGAIN}"
        ) from None


def _verify(key: VerifyKey, signed: Signed, context: bytes, what: str) -> None:
    text = json.dumps(signed.document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    try:
        if signed.context.encode() != context:
            raise SignatureError("of another kind")
        key.verify(bytes.fromhex(signed.signature), context + text.encode())
    except SignatureError:
        raise SignatureError(f"{what}: is not as {key.fingerprint} signed it; {AGAIN}") from None


def _listed(found: ReleaseFile, path: Path) -> Exported:
    """The list of files, of this very release."""
    what = f"{path}: export"
    try:
        listed = parse_json(json.dumps(found.export.document).encode(), Exported, what)
    except ProtocolError as error:
        raise SignatureError(f"{error}; {AGAIN}") from None
    subject = found.release.document.get("subject")
    ours = {"study": listed.study, "model": listed.model}
    theirs = {key: subject.get(key) for key in ours} if isinstance(subject, Mapping) else {}
    same = ours == theirs and listed.files.get(MODEL_FILE) == listed.model
    if not same or listed.release != found.release.signature:
        raise SignatureError(f"{what}: is of another release than the one beside it; {AGAIN}")
    return listed


def _check_files(folder: Path, listed: Exported) -> None:
    """A file that is not there was not changed; whoever needs it says so."""
    for name in sorted({*listed.files, *WRITTEN}):
        path = folder / name
        if not path.exists():
            continue
        if name not in listed.files:
            raise SignatureError(
                f"{path}: is not among the files that {RELEASE_FILE} signs; remove it, or {AGAIN}"
            )
        if sha256_of(path) != listed.files[name]:
            raise SignatureError(
                f"{path}: was changed since it was exported: its SHA-256 is not the one that "
                f"{RELEASE_FILE} signs; {AGAIN}"
            )


def sha256_of(path: Path) -> str:
    """In hex, a piece at a time. Raises StorageError: it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path}: cannot be read ({error.strerror}); let your user read it")
