"""One daemon for a directory, and a word on it that is never older than its process."""

import threading
from pathlib import Path

import pytest

from cohortium.common import daemon
from cohortium.common.errors import CohortiumError


def test_a_second_daemon_in_a_directory_is_refused_and_the_first_stays(tmp_path: Path) -> None:
    lock = tmp_path / "site.lock"
    with daemon.only_one(lock, "a site daemon"):
        with pytest.raises(CohortiumError, match="a site daemon already runs in"):
            daemon.only_one(lock, "a site daemon").__enter__()
        assert daemon.is_running(lock)
    assert not daemon.is_running(lock)


def test_nobody_runs_where_nobody_ever_ran(tmp_path: Path) -> None:
    assert not daemon.is_running(tmp_path / "site.lock")
    assert daemon.said(tmp_path / "daemon.json") == {}


def test_asking_whether_a_daemon_runs_does_not_keep_it_from_starting(tmp_path: Path) -> None:
    lock, stop = tmp_path / "site.lock", threading.Event()
    lock.touch()

    def ask() -> None:
        while not stop.wait(0.0005):
            daemon.is_running(lock)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(200):
            with daemon.only_one(lock, "a site daemon"):
                pass
    finally:
        stop.set()
        asking.join()


def test_half_a_status_is_no_status(tmp_path: Path) -> None:
    status = tmp_path / "daemon.json"
    daemon.say(status, state="online")
    assert daemon.said(status) == {"state": "online"}
    for text in ("", '{"state": ', "[1]"):
        status.write_text(text)
        assert daemon.said(status) == {}
