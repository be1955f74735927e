"""A disk that is full or read-only: nothing is spent or half-written, and it passes."""

import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.asking import Asker
from tests.federation import FULL, approve, make_site, write_study

from cohortium.client import halt
from cohortium.client.daemon import run
from cohortium.client.processes import Limits, Processes
from cohortium.client.site import Site, open_site
from cohortium.common import daemon
from cohortium.common.errors import CohortiumError
from cohortium.common.identity import SigningKey
from cohortium.common.messages import Update
from cohortium.common.study import Study
from cohortium.server.desk import for_good

SIZE = "size=4m"


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting a small disk needs root: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount("-t", "tmpfs", "-o", SIZE, "tmpfs", str(place))
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path, FULL)


@pytest.fixture
def asker(disk: Path, study: Study) -> Iterator[Asker]:
    """At a site on that disk that has approved the study and answered its first round."""
    key = SigningKey.generate()
    asker = Asker(key, make_site(disk / "a", "a", key.public))
    approve(asker.site, study)
    assert asker.invite(study).message.decision == "approved"
    assert isinstance(asker.train(study, 1).message, Update)
    yield asker
    asker.site.database.close()


def fill(disk: Path, leave_bytes: int = 0) -> Path:
    """Leave so much room, a whole number of pages; returns the file to delete."""
    path = disk / "filling"
    path.write_bytes(bytes(shutil.disk_usage(disk).free - leave_bytes))
    assert shutil.disk_usage(disk).free == leave_bytes
    return path


def spent(site: Site, study: Study) -> list[int]:
    return [entry.round for entry in site.ledger(study).entries()]


def assert_refuses_and_recovers(
    asker: Asker, study: Study, disk: Path, leave_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    full = fill(disk, leave_bytes)
    for _ in range(2):
        heard = asker.train(study, 2)
        assert heard.rule == "site.cannot"
        assert not for_good(f"{heard.rule}: ")
        assert "disk" not in heard.message.explanation
    assert asker.train(study, 1).rule in ("", "site.cannot")  # the stored reply needs no room
    assert "full; free some space" in caplog.text or "No space left" in caplog.text
    full.unlink()
    first, second = asker.train(study, 2), asker.train(study, 2)
    assert isinstance(first.message, Update)
    assert first.body == second.body
    assert spent(asker.site, study) == [1, 2]
    assert asker.site.log.verify().size > 0
    asker.site.watermark.check()


@pytest.mark.parametrize("leave_bytes", [0, 4096, 8192])
def test_on_a_full_disk_a_round_is_refused_and_answered_once_there_is_room(
    asker: Asker, study: Study, disk: Path, leave_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert_refuses_and_recovers(asker, study, disk, leave_bytes, caplog)


def test_at_no_point_does_a_disk_that_fills_up_leave_half_a_round(
    asker: Asker, study: Study, disk: Path
) -> None:
    """Page by page: whichever write fails, a round is spent and answered, or neither."""
    refused = 0
    for pages in range(24):
        full = fill(disk, pages * 4096)
        heard = asker.train(study, 2)
        rows, replies = spent(asker.site, study), stored(asker, study)
        assert rows in ([1], [1, 2])
        assert replies[-1] == rows[-1]
        full.unlink()
        if heard.rule:
            refused += 1
            assert heard.rule == "site.cannot"
            continue
        assert rows == [1, 2]
        break
    assert refused > 0
    assert isinstance(asker.train(study, 2).message, Update)
    assert spent(asker.site, study) == [1, 2]


def stored(asker: Asker, study: Study) -> list[int]:
    rows = asker.site.database.execute(
        "SELECT round FROM replies WHERE study = ? ORDER BY round", (study.digest,)
    )
    return [row["round"] for row in rows]


@contextmanager
def nothing_can_be_written(directory: Path) -> Iterator[None]:
    """As after a disk error; the file system itself is busy while a database is open on it."""
    done = subprocess.run(["chattr", "+i", str(directory)], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("making a directory immutable needs root and a file system that can")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", str(directory)], check=True)


def test_where_nothing_can_be_written_a_round_is_refused_and_answered_later(
    asker: Asker, study: Study, caplog: pytest.LogCaptureFixture
) -> None:
    with nothing_can_be_written(asker.site.directory.root):
        assert asker.train(study, 2).rule == "site.cannot"
    assert (
        "site.db: cannot be opened; check that its directory exists and is writable" in caplog.text
    )
    assert spent(asker.site, study) == [1]
    assert isinstance(asker.train(study, 2).message, Update)
    assert spent(asker.site, study) == [1, 2]


def test_on_a_read_only_disk_a_daemon_does_not_start_and_says_why(asker: Asker, disk: Path) -> None:
    asker.site.database.close()
    mount("-o", f"remount,ro,{SIZE}", str(disk))
    with pytest.raises(CohortiumError, match=r"cannot be written \(Read-only file system\)"):
        run(asker.site.directory.root, lambda state: None)


def test_a_full_scratch_directory_starts_no_training_and_leaves_no_process(
    asker: Asker, study: Study, disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The database lies on a disk with room; `scratch/`, `workers/` and the log do not."""
    workshop = Processes(
        "a",
        Limits("cpu", 1, 8 * 2**30),
        disk / "small",
        asker.site.directory.load_dataset,
        halted=lambda study: halt.refusal(asker.site, study),
        on_start=lambda study, words: None,
    )
    busy = Asker(asker.key, replace(asker.site, workshop=workshop))
    (disk / "small").mkdir()
    full = fill(disk)
    try:
        assert busy.train(study, 2).rule == "site.cannot"
        assert "no training process can be started (No space left on device)" in caplog.text
        assert workshop._workers == {}
        full.unlink()
        assert isinstance(busy.train(study, 2).message, Update)
    finally:
        workshop.close_all()


def test_the_kill_switch_works_where_nothing_can_be_written(asker: Asker, study: Study) -> None:
    """It cannot be recorded, and says so; the process is gone all the same."""
    workshop = Processes(
        "a",
        Limits("cpu", 1, 8 * 2**30),
        asker.site.directory.root,
        asker.site.directory.load_dataset,
        halted=lambda study: halt.refusal(asker.site, study),
        on_start=lambda study, words: None,
    )
    try:
        workshop.prepare(study)
        pid = workshop._workers[study.digest].pid
        known = asker.site.studies.by_digest(study.digest)
        with nothing_can_be_written(asker.site.directory.root):
            with pytest.raises(CohortiumError, match="cannot be opened"):
                halt.stop(asker.site, known, "Dr. Weiss")
            assert workshop._workers[study.digest].wait(5) is not None
        assert not Path(f"/proc/{pid}").exists()
    finally:
        workshop.close_all()


def test_a_daemon_says_in_one_line_that_it_cannot_write_its_log(tmp_path: Path) -> None:
    site = make_site(tmp_path / "a", "a", SigningKey.generate().public)
    site.database.close()
    (site.directory.root / "site.log").mkdir()
    with pytest.raises(CohortiumError, match=r"site\.log: cannot be written \(Is a directory\)"):
        run(site.directory.root, lambda state: None)


def test_a_log_on_a_full_disk_goes_to_standard_error_and_ends_nothing(
    disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("cohortium")
    before = (list(logger.handlers), logger.level, logger.propagate)
    daemon.log_to(disk / "site.log")
    full = fill(disk)
    (handler,) = [h for h in logger.handlers if h not in before[0]]
    try:
        for _ in range(200):
            logger.error("x" * 100)
        said = capsys.readouterr().err
        assert "x" * 100 in said
        assert "Traceback" not in said
        full.unlink()
        logger.error("there is room again")
        assert "there is room again" in (disk / "site.log").read_text()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[1])
        logger.propagate = before[2]
        handler.close()


def test_a_mark_that_cannot_be_written_holds_the_answer_back(
    asker: Asker, study: Study, tmp_path: Path
) -> None:
    """The round is paid, but nothing leaves that the mark does not know."""
    draft = asker.site.directory.mark.with_name(".site.mark.draft")
    draft.mkdir()
    assert asker.train(study, 2).rule == "site.cannot"
    assert spent(asker.site, study) == [1, 2]
    os.rmdir(draft)
    assert isinstance(asker.train(study, 2).message, Update)
    assert spent(asker.site, study) == [1, 2]
    open_site(asker.site.directory.root).watermark.check()
