"""Writing a file that is whole or absent, whatever happens."""

import os
from pathlib import Path

from cohortium.common.errors import StorageError


def write_whole(path: Path, content: str | bytes, *, private: bool = False) -> None:
    """Replace a file in one step that survives a power cut; a reader never sees half of it.

    Args:
        private: only its owner may read it.

    Raises:
        StorageError: the disk is full or read-only, or the directory is not ours.
    """
    draft = path.with_name(f".{path.name}.draft")
    raw = content.encode() if isinstance(content, str) else content
    flags, mode = os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if private else 0o666
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, flags, mode), "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync(path.parent)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror}); free some space, or let the user who "
            "runs the daemon write there"
        ) from None


def sync(directory: Path) -> None:
    """Make a rename in a directory durable (fsync(2), NOTES)."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
