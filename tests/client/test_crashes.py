"""Power cuts and kills in the middle of a write, hundreds of them: a clean prefix every time.

What a crash can leave of a database with a rollback journal (https://sqlite.org/atomiccommit.html):
before the journal is synced, any rubbish in it, and the old file; after that the whole journal, and
in the file any mixture of old, new and torn pages; after the journal is gone, the new file.
"""

import os
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.federation import SCHEMA

from cohortium.client import ledger_rows
from cohortium.client.budget import Ledger
from cohortium.client.config import Dataset
from cohortium.client.database import open_site_database
from cohortium.client.ledger_rows import Spending
from cohortium.client.site import site_log
from cohortium.client.whole import require_whole_records
from cohortium.common.audit import merkle
from cohortium.common.audit.documents import thing_of
from cohortium.common.audit.events import Actor
from cohortium.common.audit.log import EventLog
from cohortium.common.audit.tree import Tree
from cohortium.common.database import Database
from cohortium.common.errors import CohortiumError
from cohortium.common.identity import SigningKey
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.schema import load_schema

KEY = SigningKey.generate()
SITE = Actor(type="site", id="a", auth="signature:x")
STUDY = "5" * 64
MAGIC = bytes.fromhex("d9d505f920a163d7")
NOISE = Mechanism(sampler="full-batch", sample_rate=1.0, noise_multiplier=500.0, steps=1)


class Undone(Exception):
    """Leaves a transaction."""


@dataclass
class Records:
    """A site's database, and what is written to it in one transaction."""

    path: Path
    database: Database
    log: EventLog
    ledger: Ledger

    def pay(self, luck: random.Random) -> Iterator[None]:
        """One round's records, stopping between any two writes; twenty events, so pages spill."""
        round = 1 + self.spends()
        paid = self.ledger.spend(Spending("a", STUDY, round, NOISE, 1e-5, 1.0, "flat", round))
        yield
        self.log.append(
            "privacy.spent", actor=SITE, study=STUDY, obj=(paid.thing,), detail=paid.detail
        )
        yield
        for _ in range(luck.randint(1, 20)):
            self.log.append("round.update.sent", actor=SITE, round=round, detail={"kind": "update"})
            yield
        tree = Tree(self.database, "events")
        tree.grow(tree.size())
        yield

    def spends(self) -> int:
        return len(self.ledger.entries())

    def sizes(self) -> tuple[int, int, int]:
        """Events, shared events and rows of the ledger."""
        counts = [
            self.database.execute(f"SELECT count(*) FROM {table}")[0][0]
            for table in ("events", "shared", "ledger")
        ]
        return counts[0], counts[1], counts[2]


def opened(path: Path) -> Records:
    schema = path.parent / "schema.toml"
    schema.write_text(SCHEMA)
    database = open_site_database(path)
    dataset = Dataset("ward", path, load_schema(schema), epsilon_cap=100.0, delta_cap=1e-5)
    log = site_log(database, "a", KEY, lambda: datetime.now(UTC))
    return Records(path, database, log, Ledger(database, dataset))


def require_prefix(path: Path, allowed: set[tuple[int, int, int]]) -> None:
    """The database opens, is whole, is one of the allowed prefixes, and goes on."""
    records = opened(path)
    with records.database as database:
        sizes = records.sizes()
        assert sizes in allowed
        head = records.log.verify()  # contiguous numbers, right leaves
        assert head.size == sizes[0]
        require_whole_records(database)
        for leaves in ("events", "shared"):
            tree = Tree(database, leaves)
            hashes = [
                r["leaf"] for r in database.execute(f"SELECT leaf FROM {leaves} ORDER BY seq")
            ]
            assert tree.root(len(hashes)) == merkle.root_of(hashes)
        named = [e.obj[0].h for e in records.log.about(STUDY, "privacy.spent")]
        texts = ledger_rows.texts(database)
        assert [thing_of("ledger.row", text.encode()).h for text in texts] == named
        write(records, random.Random(0))
        assert records.log.verify().size > sizes[0]
        require_whole_records(database)


def write(records: Records, luck: random.Random) -> None:
    """One transaction."""
    with records.database.transaction():
        for _ in records.pay(luck):
            pass


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    """Eight rounds paid."""
    (tmp_path / "live").mkdir()
    made = opened(tmp_path / "live" / "site.db")
    luck = random.Random(1)
    for _ in range(8):
        write(made, luck)
    yield made
    made.database.close()


def copy(records: Records, to: Path) -> tuple[Path, Path]:
    to.mkdir()
    here = to / "site.db"
    journal = records.path.with_name("site.db-journal")
    shutil.copy(records.path, here)
    if journal.exists():
        shutil.copy(journal, to / "site.db-journal")
    return here, to / "site.db-journal"


# ------------------------------------------------------------------ before the journal is synced


def die_before_sync(records: Records, luck: random.Random, to: Path) -> tuple[Path, Path]:
    """A copy taken at a random statement of a transaction; then the live one is undone."""
    steps = luck.randint(1, 6)
    try:
        with records.database.transaction():
            for number, _ in enumerate(records.pay(luck), start=1):
                if number == steps:
                    break
            taken = copy(records, to)
            raise Undone
    except Undone:
        return taken


def spoil(path: Path, first: int, luck: random.Random) -> None:
    """Cut a file somewhere after `first`, or put rubbish there, or both."""
    raw = bytearray(path.read_bytes())
    if len(raw) <= first:
        return
    how, at = luck.choice(("cut", "rubbish", "both", "zeros")), luck.randrange(first, len(raw))
    end = len(raw) if how == "both" else min(len(raw), at + luck.randint(1, 5000))
    if how in ("rubbish", "both"):
        raw[at:end] = luck.randbytes(end - at)
    if how == "zeros":
        raw[at:end] = bytes(end - at)
    if how == "cut":
        del raw[at:]
    if how == "both":
        del raw[luck.randrange(at, len(raw)) :]
    path.write_bytes(raw)


def cut_before_sync(records: Records, luck: random.Random, to: Path) -> None:
    before = records.sizes()
    here, journal = die_before_sync(records, luck, to)
    assert journal.stat().st_size > 512
    spoil(journal, 0, luck)
    require_prefix(here, {before})


# ------------------------------------------------------------------ after it is synced


def journaled(raw: bytes) -> tuple[int, int, set[int]]:
    """Page size, pages of the old file, and those that a whole journal holds (file format, 3)."""
    at, pages, first = 0, set[int](), (0, 0)
    while raw[at : at + 8] == MAGIC:
        count, _, old, sector, size = struct.unpack(">IIIII", raw[at + 8 : at + 28])
        first = first if at else (size, old)
        at += sector
        for _ in range(count):
            pages.add(struct.unpack(">I", raw[at : at + 4])[0])
            at += 8 + size
        at += -at % sector
    return (*first, pages)


def torn(old: bytes, new: bytes, raw: bytes, luck: random.Random) -> bytes:
    """The file while it is being written: each page old, new or half of each; its end anywhere."""
    size, count, pages = journaled(raw)
    assert pages, "the journal was not synced"
    file = bytearray(new)
    for page in pages:
        at = (page - 1) * size
        was, now = old[at : at + size], new[at : at + size]
        edge = luck.randint(0, size)
        file[at : at + size] = luck.choice(
            (was, now, now[:edge] + was[edge:], luck.randbytes(size))
        )
    grown = len(file) - count * size
    if grown > 0:
        keep = count * size + luck.randint(0, grown)
        file[keep:] = luck.choice((b"", luck.randbytes(len(file) - keep)))
    return bytes(file)


def cut_after_sync(records: Records, luck: random.Random, to: Path) -> None:
    """The final journal is caught by a second name for it: SQLite removes the first."""
    records.database.execute(f"PRAGMA cache_size = {luck.choice((-2000, 5))}")
    to.mkdir()
    old, before = records.path.read_bytes(), records.sizes()
    caught = to / "site.db-journal"
    with records.database.transaction():
        for number, _ in enumerate(records.pay(luck)):
            if number == 0:
                os.link(records.path.with_name("site.db-journal"), caught)
    raw, new, here = caught.read_bytes(), records.path.read_bytes(), to / "site.db"
    here.write_bytes(torn(old, new, raw, luck))
    require_prefix(here, {before})
    shutil.copy(records.path, to / "done.db")  # after the journal is gone
    require_prefix(to / "done.db", {records.sizes()})


CUTS = (cut_before_sync, cut_after_sync)


@pytest.mark.parametrize("number", range(2))
def test_a_power_cut_at_a_random_moment_leaves_a_clean_prefix(
    records: Records, tmp_path: Path, number: int
) -> None:
    for seed in range(15):
        CUTS[number](records, random.Random(seed), tmp_path / f"cut-{seed}")


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2))
def test_300_power_cuts_at_random_moments_leave_a_clean_prefix_every_time(
    records: Records, tmp_path: Path, number: int
) -> None:
    for seed in range(1000, 1150):
        CUTS[number](records, random.Random(seed), tmp_path / "cut")
        shutil.rmtree(tmp_path / "cut")


# ------------------------------------------------------------------ kill -9

MOTHER = """
import os, random, sys
from pathlib import Path
from tests.client.test_crashes import opened

for line in sys.stdin:  # one child each, for the libraries are slow to load
    seed, path = line.split()
    child = os.fork()
    if child == 0:
        records, luck = opened(Path(path)), random.Random(int(seed))
        records.database.execute("PRAGMA cache_size = 5")
        while True:
            with records.database.transaction():
                for _ in records.pay(luck):
                    pass
            print("paid", *records.sizes(), flush=True)
    print("child", child, flush=True)
    os.waitpid(child, 0)
    print("dead", flush=True)
"""


class Mother:
    """A process that has children which write until they are killed."""

    def __init__(self) -> None:
        root = Path(__file__).parent.parent.parent
        self._process = subprocess.Popen(
            [sys.executable, "-c", MOTHER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
        )

    def kill_one(self, path: Path, seed: int) -> tuple[int, int, int]:
        """What the last child acknowledged before it was killed at a random moment."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(seed, path, file=self._process.stdin, flush=True)
        said, luck = (0, 0, 0), random.Random(seed)
        child, deadline = 0, 0.0
        for line in self._process.stdout:
            word, *numbers = line.split()
            if word == "child":
                child = int(numbers[0])
            if word == "dead":
                break
            if word == "paid":
                said = (int(numbers[0]), int(numbers[1]), int(numbers[2]))
                if child and not deadline:
                    deadline = time.monotonic() + luck.uniform(0, 0.1)
                    time.sleep(max(0.0, deadline - time.monotonic()))
                    os.kill(child, signal.SIGKILL)
        return said

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@pytest.fixture
def mother() -> Iterator[Mother]:
    made = Mother()
    yield made
    made.close()


def kills(records: Records, mother: Mother, seeds: range, folder: Path) -> int:
    """Kill a writer for each seed; returns how many died with a journal that had to be undone."""
    hot = 0
    for seed in seeds:
        here, journal = copy(records, folder / f"kill-{seed}")
        events, shared, rows = mother.kill_one(here, seed)
        hot += journal.exists()
        at_least = opened(here)
        with at_least.database:
            found = at_least.sizes()
        assert found >= (events, shared, rows)
        require_prefix(here, {found})
    return hot


def test_a_writer_killed_at_a_random_moment_loses_nothing_that_it_acknowledged(
    records: Records, mother: Mother, tmp_path: Path
) -> None:
    kills(records, mother, range(3), tmp_path)


@pytest.mark.slow
def test_100_killed_writers_lose_nothing_that_they_acknowledged(
    records: Records, mother: Mother, tmp_path: Path
) -> None:
    assert kills(records, mother, range(100, 200), tmp_path) > 0


# ------------------------------------------------------------------ what SQLite cannot see

COVERED = ("events", "shared", "documents", "ledger")


def contents(path: Path) -> list[object]:
    with sqlite3.connect(path) as reader:
        found = [reader.execute(f"SELECT * FROM {table}").fetchall() for table in COVERED]
    reader.close()
    return list(found)


def test_a_byte_that_changes_on_the_disk_is_found_or_changed_nothing(
    records: Records, tmp_path: Path
) -> None:
    """Bit rot, or an editor: of each changed byte, the start of the daemon tells."""
    whole, luck, found = contents(records.path), random.Random(3), 0
    tree = Tree(records.database, "events")
    size = tree.size()
    raw, root = records.path.read_bytes(), tree.root(size)
    for number in range(40):
        spoilt = bytearray(raw)
        spoilt[luck.randrange(100, len(raw))] ^= 1 << luck.randrange(8)
        here = tmp_path / f"rot-{number}.db"
        here.write_bytes(spoilt)
        try:
            with open_site_database(here) as database:
                require_whole_records(database)
                assert Tree(database, "events").root(size) == root
        except CohortiumError:  # and nothing else, whatever byte it is
            found += 1
            continue
        assert contents(here) == whole
    assert found > 10


EDITS = [
    ("UPDATE events SET line = replace(line, 'spent', 'saved') WHERE seq = 0", "does not match"),
    ("UPDATE events SET leaf = zeroblob(32) WHERE seq = 3", "does not match its hash"),
    ("DELETE FROM events WHERE seq = 5", "line 5 of events is missing"),
    ("DELETE FROM shared WHERE seq = 5", "line 5 of shared is missing"),
    ("DELETE FROM events WHERE seq >= (SELECT max(seq) - 1 FROM events)", "fewer events than its"),
    ("UPDATE tree SET hash = zeroblob(32) WHERE level = 1 AND position = 2", "the tree over"),
    ("DELETE FROM tree WHERE level = 1 AND position = 2", "restore it"),
    ("UPDATE documents SET text = text || ' '", "a document is not what its event names"),
    ("DELETE FROM ledger WHERE id = 8", "holds 7 rows and its events name 8"),
    ("UPDATE ledger SET round = 99 WHERE id = 2", "row 2 of the privacy ledger"),
    ("UPDATE ledger SET mechanism = replace(mechanism, '500.0', '900.0')", "row 1 of the privacy"),
    ("UPDATE ledger SET row = replace(row, '500.0', '900.0')", "row 1 of the privacy ledger"),
    ("UPDATE ledger SET row = replace(row, 'flat', 'none')", "holds 8 rows and its events name 8"),
]


@pytest.mark.parametrize(("sql", "complaint"), EDITS)
def test_an_edited_database_is_not_gone_on_with(records: Records, sql: str, complaint: str) -> None:
    editor = sqlite3.connect(records.path)
    triggers = editor.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for (name,) in triggers:
        editor.execute(f"DROP TRIGGER {name}")
    editor.execute(sql)
    editor.commit()
    editor.close()
    with pytest.raises(CohortiumError, match=complaint):
        require_whole_records(records.database)


def test_a_log_made_anew_is_not_the_one_whose_head_was_told(
    records: Records, tmp_path: Path
) -> None:
    """Who rewrites the log, leaves and tree with it, has not rewritten what was signed."""
    tree = Tree(records.database, "events")
    size = tree.size()
    told = {"size": str(size), "root": tree.root(size).hex()}
    shared = EventLog(records.database, "a", "a", lambda: datetime.now(UTC), table="shared")
    shared.append("log.checkpoint", actor=SITE, detail=told)
    require_whole_records(records.database)
    (tmp_path / "other").mkdir()
    other = opened(tmp_path / "other" / "site.db")
    write(other, random.Random(5))
    shared = EventLog(other.database, "a", "a", lambda: datetime.now(UTC), table="shared")
    shared.append("log.checkpoint", actor=SITE, detail={**told, "size": str(size)})
    with pytest.raises(CohortiumError, match=f"{size} were signed"):
        require_whole_records(other.database)
    with other.database.transaction():
        while Tree(other.database, "events").size() < size:
            other.log.append("round.task.received", actor=SITE)
    with pytest.raises(CohortiumError, match=f"not those that were signed at size {size}"):
        require_whole_records(other.database)
    other.database.close()
