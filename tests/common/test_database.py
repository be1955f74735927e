"""One SQLite file per role: what must never be half-written, shared wrongly or explained badly."""

import os
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from cohortium.common.database import Database, open_database
from cohortium.common.errors import CohortiumError

NUMBERS = "CREATE TABLE numbers (value INTEGER PRIMARY KEY) STRICT;"


def values(path: Path) -> list[int]:
    with open_database(path, [NUMBERS]) as database:
        return [row["value"] for row in database.execute("SELECT value FROM numbers")]


def test_others_on_the_machine_cannot_read_it(tmp_path: Path) -> None:
    path = tmp_path / "site.db"
    path.touch(mode=0o666)
    open_database(path, [NUMBERS]).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_every_commit_reaches_the_disk_and_no_wal_is_used(tmp_path: Path) -> None:
    with open_database(tmp_path / "site.db", [NUMBERS]) as database:
        pragmas = {
            name: database.execute(f"PRAGMA {name}")[0][0]
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {
        "journal_mode": "delete",
        "synchronous": 3,
        "foreign_keys": 1,
        "busy_timeout": 30_000,
    }


def insert(database: Database, *numbers: int) -> None:
    for number in numbers:
        database.execute("INSERT INTO numbers VALUES (?)", (number,))


def insert_and_fail(database: Database, number: int, error: type[BaseException]) -> None:
    with database.transaction():
        insert(database, number)
        raise error


def insert_nested_and_fail(database: Database, number: int) -> None:
    with database.transaction():
        with database.transaction():
            insert(database, number)
        raise KeyError


def test_an_error_inside_a_transaction_leaves_nothing_behind(tmp_path: Path) -> None:
    with open_database(tmp_path / "site.db", [NUMBERS]) as database:
        with pytest.raises(KeyboardInterrupt):
            insert_and_fail(database, 1, KeyboardInterrupt)
        assert database.execute("SELECT * FROM numbers") == []


def test_an_inner_block_is_not_durable_before_the_outer_one_ends(tmp_path: Path) -> None:
    path = tmp_path / "site.db"
    with open_database(path, [NUMBERS]) as database, pytest.raises(KeyError):
        insert_nested_and_fail(database, 1)
    assert values(path) == []


def test_an_inner_block_that_fails_does_not_leave_half_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "site.db"
    with open_database(path, [NUMBERS]) as database, database.transaction():
        insert(database, 1)
        with pytest.raises(KeyError):
            insert_and_fail(database, 2, KeyError)
        insert(database, 3)
    assert values(path) == [1, 3]


def test_two_threads_do_not_mix_their_transactions(tmp_path: Path) -> None:
    path = tmp_path / "site.db"

    def work(start: int) -> None:
        for value in range(start, start + 20):
            with database.transaction():
                database.execute("INSERT INTO numbers VALUES (?)", (value,))
                if value % 2:
                    database.execute("DELETE FROM numbers WHERE value = ?", (value,))

    with open_database(path, [NUMBERS]) as database:
        threads = [threading.Thread(target=work, args=(start,)) for start in (0, 100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert values(path) == [*range(0, 20, 2), *range(100, 120, 2)]


def test_a_migration_runs_once_and_a_failing_one_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "site.db"
    open_database(path, [NUMBERS]).close()
    broken = "CREATE TABLE more (value TEXT) STRICT; CREATE TABLE numbers (value TEXT) STRICT;"
    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        open_database(path, [NUMBERS, broken])
    with open_database(path, [NUMBERS]) as database:
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master")]
        assert tables == ["numbers"]
    with open_database(path, [NUMBERS, "ALTER TABLE numbers ADD COLUMN unit TEXT;"]) as database:
        assert database.execute("SELECT unit FROM numbers") == []


def test_an_older_program_does_not_touch_a_newer_database(tmp_path: Path) -> None:
    path = tmp_path / "site.db"
    open_database(path, [NUMBERS, "CREATE TABLE more (value TEXT) STRICT;"]).close()
    with pytest.raises(CohortiumError, match=r"site\.db: written by a newer Cohortium"):
        open_database(path, [NUMBERS])


def test_a_missing_directory_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(CohortiumError, match=r"absent/site\.db: cannot be created \(No such file"):
        open_database(tmp_path / "absent" / "site.db", [NUMBERS])


def test_a_directory_in_its_place_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CohortiumError, match="cannot be opened"):
        open_database(tmp_path, [NUMBERS])


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "site.db"
    path.write_text("patients and their diseases\n" * 100)
    with pytest.raises(CohortiumError, match="is no database") as caught:
        open_database(path, [NUMBERS])
    assert "patients" not in str(caught.value)
    assert path.read_text().startswith("patients")


def insert_blobs(database: Database, *blobs: bytes) -> None:
    with database.transaction():
        for blob in blobs:
            database.execute("INSERT INTO blobs VALUES (?)", (blob,))


def test_a_full_disk_is_one_line_and_undoes_the_transaction(tmp_path: Path) -> None:
    path = tmp_path / "site.db"
    with open_database(path, ["CREATE TABLE blobs (value BLOB) STRICT;"]) as database:
        database.execute("PRAGMA max_page_count = 20")
        with pytest.raises(CohortiumError, match="disk is full"):
            insert_blobs(database, b"x", bytes(200_000))
        assert database.execute("SELECT * FROM blobs") == []


def test_a_value_that_breaks_a_constraint_is_not_repeated(tmp_path: Path) -> None:
    with open_database(tmp_path / "site.db", [NUMBERS]) as database:
        database.execute("INSERT INTO numbers VALUES (12345)")
        with pytest.raises(CohortiumError, match=r"numbers\.value") as caught:
            database.execute("INSERT INTO numbers VALUES (12345)")
        assert "12345" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_directory_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CohortiumError, match="cannot be created"):
        open_database(tmp_path / "site.db", [NUMBERS])
