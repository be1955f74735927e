"""Writing a file that is whole or absent, whatever happens."""

import os
from pathlib import Path

from cohortium.common.errors import StorageError


def write_whole(path: Path, text: str) -> None:
    """Replace a file in one step that survives a power cut; a reader never sees half of it.

    Raises:
        StorageError: the disk is full or read-only, or the directory is not ours.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror}); free some space, or let the user who "
            "runs the daemon write there"
        ) from None


def _sync(directory: Path) -> None:
    """Make a rename in a directory durable (fsync(2), NOTES)."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
