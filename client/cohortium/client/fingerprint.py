"""The content of a dataset as one hash, read again only where a file changed."""

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path

from cohortium.client.config import Dataset
from cohortium.common.errors import DataError
from cohortium.common.schema import Schema
from cohortium.common.wide_columns import ImageColumn

NOT_THERE = "absent"  # of an image that cannot be read, which is a broken cell and no broken table


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

    def of_dataset(self, dataset: Dataset) -> str:
        """SHA-256, hex, of all that is read of a dataset: the table's, or theirs if there are more.

        Raises:
            DataError: the table cannot be read.
        """
        table = self.of(dataset.path)
        images = image_columns(dataset.data_model)
        if not images:
            return table
        whole = hashlib.sha256(table.encode())
        for name, path in self._image_files(dataset, images):
            whole.update(f"\n{name} {self._of_image(path)}".encode())
        return whole.hexdigest()

    def _of_image(self, path: Path | None) -> str:
        try:
            return self.of(path) if path else NOT_THERE
        except DataError:
            return NOT_THERE

    def _image_files(
        self, dataset: Dataset, columns: Sequence[str]
    ) -> Sequence[tuple[str, Path | None]]:
        """Column and file of every cell that names one; none where there is no such file."""
        from cohortium.client.data.problem import Broken
        from cohortium.client.data.reader import open_reader
        from cohortium.client.data.wide import image_file

        cells = open_reader(dataset.path, dataset.data_model).read(columns).columns
        found: list[tuple[str, Path | None]] = []
        for name, texts in cells.items():
            for text in texts:
                try:
                    found.append((name, image_file(dataset.path.parent, text)))
                except Broken:
                    found.append((name, None))
        return found


def image_columns(schema: Schema) -> tuple[str, ...]:
    """The columns whose cells may name files."""
    return tuple(n for n, column in schema.columns.items() if isinstance(column, ImageColumn))
