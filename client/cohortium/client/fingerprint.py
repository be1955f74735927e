"""The content of a dataset as one hash, read again only where a file changed."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

from cohortium.client.config import Dataset
from cohortium.common.errors import DataError
from cohortium.common.schema import Schema
from cohortium.common.wide_columns import ImageColumn

Cells = dict[str, list[str]]

NOT_THERE = "absent"  # of an image that cannot be read, which is a broken cell and no broken table


class Fingerprints:
    """Remembers hashes by path, size and time of change; a table is read by one thread only."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int, int, int], str] = {}
        self._cells: dict[tuple[str, tuple[str, ...]], Cells] = {}  # that name images, by table

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
        for name, path in self._image_files(dataset, table, images):
            whole.update(f"\n{name} {self._of_image(path)}".encode())
        return whole.hexdigest()

    def _of_image(self, path: Path | None) -> str:
        try:
            return self.of(path) if path else NOT_THERE
        except DataError:
            return NOT_THERE

    def _image_files(
        self, dataset: Dataset, table: str, columns: tuple[str, ...]
    ) -> Iterator[tuple[str, Path | None]]:
        """Column and file of every cell; no file where it names none."""
        from cohortium.client.data.problem import Broken
        from cohortium.client.data.reader import open_reader
        from cohortium.client.data.wide import image_file

        with self._lock:
            if (table, columns) not in self._cells:
                reader = open_reader(dataset.path, dataset.data_model)
                self._cells[table, columns] = reader.read(columns).columns
            cells = self._cells[table, columns]
        for name, texts in cells.items():
            for text in texts:
                try:
                    yield name, image_file(dataset.path.parent, text)
                except Broken:
                    yield name, None


def image_columns(schema: Schema) -> tuple[str, ...]:
    """The columns whose cells may name files."""
    return tuple(n for n, column in schema.columns.items() if isinstance(column, ImageColumn))
