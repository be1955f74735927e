"""The bundle of evidence: which files it has, what its manifest says, and how it is packed.

The same evidence gives the same bytes: files are sorted, times in the zip are fixed, and nothing
here reads a clock or draws a number. `verify.py` reads what is written here.
"""

import calendar
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cohortium.common.audit import verify
from cohortium.common.audit.events import timestamp
from cohortium.common.audit.evidence import Entry, Evidence, Files
from cohortium.common.audit.notes import Note
from cohortium.common.audit.rates import rates
from cohortium.common.document import canonical
from cohortium.common.errors import CohortiumError, DocumentError, UsageError

MANIFEST: Final = "manifest.json"
LOG: Final = "log/"
LARGEST = 2**31 - 1  # bytes of a file in a zip without extensions
LEVEL = 6  # of deflate: said here, so that no other default changes the bytes

RECORD, TECHNICAL = "record", "technical-documentation"
_TECHNICAL = ("annex-iv/", "model/", "pccp/", "validation/", "ro-crate-metadata.json")

README = """\
EVIDENCE OF {consortium}, FOR THE AUDIENCE "{audience}"
Exported by {node}, signed by {officer}, as of {at}.

What this is
  manifest.json    every file of this bundle with its SHA-256 and how long it is to be kept
  report/          begin with report.html; the tables are there as CSV too
  privacy/         the privacy ledger: each row is all that is needed to compute its epsilon again
  fairness/        rates by group with the counts behind them, and what is suppressed, and why
  studies/         each study as it was approved; its SHA-256 is its name in the log
  log/             the events, the hash of every event, and the checkpoint over them that the log
                   and its witnesses signed
  other folders    the same facts in the forms that other systems and rules ask for

How to verify it
  1. Get verify.py and the policy file (whose signatures count) from a place that you trust: the
     consortium's release page, or whoever introduced you to it. Never take them from a bundle.
  2. Run, with Python 3.9 or newer and nothing else installed:
         python verify.py BUNDLE.zip --policy POLICY.txt
     If you kept log/checkpoint of an earlier bundle, add --known-checkpoint FILE: it shows that
     nothing has been rewritten since. With the package dp-accounting installed, add
     --recompute-epsilon.
  3. The last line is the result. Exit code 0: verified. 1: not verified, and the first line that
     begins with FAIL says what is wrong. 2: verified, but too few witnesses have cosigned: ask for
     the bundle again after some minutes. 64: nothing was checked.

What it does not prove
  - that what was recorded is true: only that nobody changed it since, and that those who cosigned
    saw the same log. A site that runs other code than it says, or does not record what it did, is
    not found out here.
  - that all witnesses together did not agree to deceive you.
  - that counts, as in fairness/, are of real patients: they are what sites sent.
  - more about privacy than the ledger lists, for the unit that it names (a patient).
  - that any law is complied with. Tables that follow a rule help whoever must decide that.
"""


_NAMED = ("consortium", "audience", "node", "officer", "at")


def own_files(evidence: Evidence) -> dict[str, bytes]:
    """README.txt, the privacy ledger and self-tests, and the fairness rates."""
    text = README.format(**{key: getattr(evidence, key) for key in _NAMED})
    ledger = sorted(evidence.ledger, key=lambda row: row.site)  # of each site in its log's order
    tests = sorted(canonical(one) for one in evidence.selftests)
    return {
        "README.txt": text.encode(),
        "privacy/ledger.jsonl": b"".join(canonical(row) + b"\n" for row in ledger),
        "privacy/selftests.jsonl": b"".join(text + b"\n" for text in tests),
        "fairness/rates.json": _json(rates(evidence)),
    }


def manifest(evidence: Evidence, files: Files) -> bytes:
    """What the bundle holds, as canonical JSON: the bytes that the officer signs.

    Raises:
        UsageError: a name that no bundle may hold, a file of 2 GiB, or a retention of less than
            half a year.
    """
    entries = [_entry(evidence, path, content) for path, content in sorted(files.items())]
    keys = ("origin", "node", "role", "audience", "since", "until", "at", "officer")
    return _json({"v": 1, "files": entries, **{key: getattr(evidence, key) for key in keys}})


def _entry(evidence: Evidence, path: str, content: bytes) -> dict[str, Any]:
    _check(path, content)
    if path == MANIFEST or path.startswith(LOG):
        raise UsageError(f"{path}: is written after the manifest, which cannot list it")
    return {
        "path": path,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "class": TECHNICAL if path.startswith(_TECHNICAL) else RECORD,
        "retain_until": retain_until(evidence.at, evidence.retention_years),
    }


def retain_until(at: str, years: int) -> str:
    """The same day so many years later (28 February for 29), as RFC 3339 in UTC."""
    if years < 1:  # half a year is the least that any rule we know allows
        raise UsageError("evidence is kept for a year or longer; 6 and 10 are usual")
    then = datetime.fromisoformat(at).astimezone(UTC)
    last = calendar.monthrange(then.year + years, then.month)[1]
    return timestamp(then.replace(year=then.year + years, day=min(then.day, last)))


def log_files(entries: Iterable[Entry], note: Note) -> dict[str, bytes]:
    """The events that may be shown, the leaf of each event, and the checkpoint over them.

    Args:
        entries: at least the checkpoint's places, from 0 on, in order.

    Raises:
        CohortiumError: fewer, or another order.
    """
    size, count, shown, leaves = note.checkpoint.size, 0, io.BytesIO(), io.BytesIO()
    for entry in entries:
        if entry.index != count or entry.index >= size:
            break
        count += 1
        leaves.write(entry.leaf)
        if entry.line is not None:
            shown.write(b"%d\t%s\n" % (entry.index, entry.line.encode()))
    if count != size:
        raise CohortiumError(f"the log has fewer events than its checkpoint of {size}")
    return {
        "log/events.jsonl": shown.getvalue(),
        "log/leaf-hashes.bin": leaves.getvalue(),
        "log/checkpoint": note.text.encode(),
    }


def write(path: Path, files: Files) -> str:
    """Write the zip, whole or not at all; its SHA-256 in hex. The same files give the same bytes.

    Raises:
        UsageError: a name that no bundle may hold, or a file of 2 GiB.
        CohortiumError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("xb") as file:
            pack(file, files)
            file.flush()
            os.fsync(file.fileno())
        with draft.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        draft.replace(path)
    except OSError as error:
        raise CohortiumError(
            f"{path}: cannot be written ({error.strerror}); choose another place"
        ) from None
    finally:
        draft.unlink(missing_ok=True)
    return digest


def pack(file: Any, files: Files) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, allowZip64=False) as packed:
        for name in sorted(files):
            _check(name, files[name])
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            packed.writestr(entry, files[name], compresslevel=LEVEL)


def read(path: Path) -> dict[str, bytes]:
    """The files of a bundle, packed or unpacked; nothing in them is checked.

    Raises:
        DocumentError: not a bundle that could have been written here.
    """
    try:
        return verify.read_bundle(str(path))
    except (verify.Failed, verify.Unusable) as error:
        raise DocumentError(str(error)) from None


def _check(name: str, content: bytes) -> None:
    check_name(name)
    if len(content) > LARGEST:
        raise UsageError(f"{name}: is larger than 2 GiB; export a shorter time")


def check_name(name: str) -> None:
    """Raise UsageError unless a name is a relative path that leads nowhere else."""
    try:
        verify.proper_name(name)
    except verify.Failed as error:
        raise UsageError(str(error)) from None


def _json(values: Any) -> bytes:
    """Canonical JSON of plain values without fractions."""
    text = json.dumps(
        values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()
