"""The content of a table as one hash, read again only when the file changed."""

import hashlib
import threading
from pathlib import Path

from cohortium.common.errors import DataError


class Fingerprints:
    """Remembers hashes by path, size and time of change; a table is read by one thread only."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int, int, int], str] = {}

    def of(self, path: Path) -> str:
        """SHA-256 of a file's bytes, hex.

        Raises:
            DataError: it cannot be read.
        """
        try:
            found = path.stat()
            key = (str(path), found.st_size, found.st_mtime_ns, found.st_ino)
            with self._lock:
                if key not in self._known:
                    with path.open("rb") as file:
                        self._known[key] = hashlib.file_digest(file, "sha256").hexdigest()
                return self._known[key]
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
