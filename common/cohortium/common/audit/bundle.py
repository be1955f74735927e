# placeholder of helper E, D's replaces it
"""A bundle as a zip file: manifest, log files, writing and reading."""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

from cohortium.common.audit.evidence import Entry, Evidence, Files
from cohortium.common.audit.notes import Note


def manifest(evidence: Evidence, files: Files) -> bytes:
    values = {
        "v": 1,
        "origin": evidence.origin,
        "node": evidence.node,
        "role": evidence.role,
        "audience": evidence.audience,
        "since": evidence.since,
        "until": evidence.until,
        "at": evidence.at,
        "officer": evidence.officer,
        "files": [
            {
                "path": path,
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                "class": "documentation",
                "retain_until": f"{int(evidence.at[:4]) + evidence.retention_years}-12-31",
            }
            for path, content in sorted(files.items())
        ],
    }
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def log_files(evidence_entries: Iterable[Entry], note: Note) -> dict[str, bytes]:
    lines, leaves = [], []
    for entry in evidence_entries:
        leaves.append(entry.leaf)
        if entry.line is not None:
            lines.append(f"{entry.index}\t{entry.line}\n")
    return {
        "log/events.jsonl": "".join(lines).encode(),
        "log/leaf-hashes.bin": b"".join(leaves),
        "log/checkpoint": note.text.encode(),
    }


def write(path: Path, files: Files) -> str:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    path.write_bytes(buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def read(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def own_files(evidence: Evidence) -> dict[str, bytes]:
    return {"README.txt": b"placeholder\n"}
