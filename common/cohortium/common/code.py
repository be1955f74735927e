"""Which code runs here: one hash over every file of this installation."""

import functools
import hashlib
from importlib.metadata import version
from pathlib import Path

import cohortium

SHIPPED = {".py", ".j2", ".toml"}


@functools.cache
def code_digest() -> str:
    """SHA-256, hex, over path and content of all installed Cohortium files, in order.

    The roles that are installed are part of it: a site's code is what lies at the site.
    """
    total = hashlib.sha256()
    for root in sorted(cohortium.__path__):
        for path in sorted(Path(root).rglob("*")):
            if path.suffix in SHIPPED and path.is_file():
                name = path.relative_to(root).as_posix()
                total.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def code_version() -> str:
    """For people: release and the first digits of the hash."""
    return f"{version('cohortium')}+{code_digest()[:12]}"
