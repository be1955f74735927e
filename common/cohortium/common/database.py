"""One SQLite file per role: durable, safe for several processes and threads, one line per failure.

The rollback journal, not WAL: SQLite before 3.51.3 may lose committed writes in WAL mode when
several connections write (https://sqlite.org/wal.html#walresetbug), and hospitals run older ones.
`synchronous=EXTRA` makes a commit survive a power cut. Local disks only, never a network share.
"""

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from cohortium.common import timeouts
from cohortium.common.errors import CohortiumError, StorageError

_ADVICE = {
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; check that its directory exists and is writable",
    sqlite3.SQLITE_READONLY: "is read-only; give this user write access to it and its directory",
    sqlite3.SQLITE_FULL: "cannot grow because the disk is full; free some space",
    sqlite3.SQLITE_IOERR: "cannot be read or written; check the disk",
    sqlite3.SQLITE_NOTADB: "is no database; move it away or restore it from a backup",
    sqlite3.SQLITE_CORRUPT: "is damaged; restore it from a backup",
    sqlite3.SQLITE_BUSY: f"is held by another process for more than {timeouts.LOCK_S:.0f} s; "
    "end that process",
}
_NO_TEXT = "Could not decode to UTF-8"  # Python's own words, with the value: not to be repeated
_FOR_GOOD = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


class Database:
    """One connection to one file, shared by the threads of a process through a lock.

    Outside `transaction` each statement commits by itself. Every method raises CohortiumError,
    naming the file, when the disk or the file fails or when a rule of a table forbids a write;
    other SQLite errors are mistakes in our SQL and stay what they are.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.RLock()

    def execute(
        self, sql: str, parameters: Sequence[str | int | float | bytes | None] = ()
    ) -> list[sqlite3.Row]:
        """Run one statement and return all of its rows, readable by name and by index."""
        with self._lock, _one_line_errors(self.path):
            return self._connection.execute(sql, parameters).fetchall()

    def execute_many(
        self, sql: str, rows: Iterable[Sequence[str | int | float | bytes | None]]
    ) -> None:
        """Run one statement for each row, all or none of them."""
        with self.transaction(), _one_line_errors(self.path):
            self._connection.executemany(sql, rows)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block or nothing, durable when it ends; other writers wait.

        A block inside another joins it: nothing is durable before the outermost ends, and an
        exception undoes the block that it leaves.
        """
        with self._lock:
            nested = self._connection.in_transaction
            self.execute("SAVEPOINT nested" if nested else "BEGIN IMMEDIATE")
            try:
                yield
                self.execute("RELEASE nested" if nested else "COMMIT")
            except BaseException:
                self._undo(nested)
                raise

    def _undo(self, nested: bool) -> None:
        if not self._connection.in_transaction:
            return  # SQLite itself rolls back after a full disk or an I/O error.
        if nested:
            self.execute("ROLLBACK TO nested")
            self.execute("RELEASE nested")
        else:
            self.execute("ROLLBACK")

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def attach_database(path: Path) -> Database:
    """Open a database that exists as it is, whatever its format.

    Raises:
        CohortiumError: there is none, or it cannot be opened.
    """
    if not path.exists():
        raise CohortiumError(f"{path}: no such file; check the directory")
    database = _connect(path)
    try:
        _configure(database)
    except BaseException:
        database.close()
        raise
    return database


def open_database(path: Path, migrations: Sequence[str]) -> Database:
    """Open or create a database that only its owner can read, and bring it up to date.

    Args:
        migrations: SQL scripts in the order in which they were released; each runs once, in a
            transaction of its own. Append to the list, never change what is in it.

    Raises:
        CohortiumError: cannot be opened, is no database, or was made by a newer program.
    """
    _own(path)
    database = _connect(path)
    try:
        _configure(database)
        _migrate(database, migrations)
    except BaseException:
        database.close()
        raise
    return database


def _connect(path: Path) -> Database:
    with _one_line_errors(path):
        connection = sqlite3.connect(
            path, timeout=timeouts.LOCK_S, isolation_level=None, check_same_thread=False
        )
    connection.row_factory = sqlite3.Row
    return Database(path, connection)


def _own(path: Path) -> None:
    """Make the file readable by its owner only, whether it is new or not.

    An existing file is never opened here: closing it would drop the locks that another connection
    of this process holds on it (https://sqlite.org/howtocorrupt.html, section 2.2).
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        _restrict(path)
    except OSError as error:
        raise CohortiumError(
            f"{path}: cannot be created ({error.strerror}); "
            "check that its directory exists and is writable"
        ) from None


def _restrict(path: Path) -> None:
    try:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise CohortiumError(
            f"{path}: cannot be made private ({error.strerror}); its owner must chmod it to 600"
        ) from None


def _configure(database: Database) -> None:
    for pragma in (
        "journal_mode = DELETE",
        "synchronous = EXTRA",
        "foreign_keys = ON",
        "trusted_schema = OFF",
        "secure_delete = ON",  # what is withheld or forgotten is overwritten, not only let go of
        "recursive_triggers = ON",  # else REPLACE gets past a trigger that forbids DELETE
    ):
        database.execute(f"PRAGMA {pragma}")


def _migrate(database: Database, migrations: Sequence[str]) -> None:
    for number, script in enumerate(migrations, start=1):
        with database.transaction():
            if _version(database) < number:
                for statement in _statements(script):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {number}")
    version = _version(database)
    if version > len(migrations):
        raise CohortiumError(
            f"{database.path}: written by a newer Cohortium (format {version}, this one knows "
            f"{len(migrations)}); upgrade this installation"
        )


def _version(database: Database) -> int:
    return int(database.execute("PRAGMA user_version")[0][0])


def _statements(script: str) -> Iterator[str]:
    """Split a script at the semicolons that end a statement (those in a trigger do not)."""
    statement = ""
    for part in script.split(";")[:-1]:
        statement += part + ";"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        _explain(path, error)


def _explain(path: Path, error: sqlite3.Error) -> NoReturn:
    """SQLite's own words name tables and columns, never the values in them."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if str(error).startswith(_NO_TEXT):
        code = sqlite3.SQLITE_CORRUPT
    if code in _ADVICE:
        kind = CohortiumError if code in _FOR_GOOD else StorageError
        raise kind(f"{path}: {_ADVICE[code]}") from None
    if code == sqlite3.SQLITE_CONSTRAINT:
        raise CohortiumError(f"{path}: write refused: {error}; nothing was changed") from None
    raise error
