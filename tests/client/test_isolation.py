"""What a training process can still do: read its table, write its scratch, and nothing else."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.federation import PLAIN, approve, make_site, write_study

from cohortium.client import nvidia
from cohortium.client.examine_machine import examine_isolation
from cohortium.client.processes import Limits, Processes
from cohortium.common.identity import SigningKey

HOST, NOBODY = "127.0.0.1", 65534
TABLE, KEY = "age\n63\n", "-----BEGIN PRIVATE KEY-----"

PROGRAM = """
import json, os, socket, sys
from pathlib import Path
from cohortium.client import isolation, namespaces

root, port, user, without = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
loopback = bool(sys.argv[5])
if without:
    namespaces.enter = lambda libc: (False, False)
socket.create_connection(("127.0.0.1", port), timeout=2).close()  # and Python loads what it needs
if user:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
os.chdir(root / "site" / "scratch")
table, key = root / "ward.csv", root / "site" / "keys" / "signing.key"
deeds = {
    "reach somebody": lambda: socket.create_connection(("127.0.0.1", port), timeout=2).close(),
    "read the table": table.read_text,
    "change the table": lambda: table.write_text("age\\n64\\n"),
    "cut the table": lambda: os.truncate(table, 0),
    "delete the table": table.unlink,
    "rename the table": lambda: table.rename(root / "other.csv"),
    "link it elsewhere": lambda: os.link(table, root / "link.csv"),
    "write beside it": lambda: (root / "new.csv").write_text("x"),
    "write into /tmp": lambda: Path("/tmp", f"cohortium-{os.getpid()}").write_text("x"),
    "write the database": lambda: (root / "site" / "site.db").write_text("x"),
    "read the key": key.read_text,
    "read the key through the parent":
        lambda: Path(f"/proc/{os.getppid()}/root", *key.parts[1:]).read_text(),
    "put a key there": lambda: key.with_name("mine.key").write_text("x"),
    "write scratch": lambda: Path("draft").write_text("x"),
    "write scratch by its name": lambda: (root / "site" / "scratch" / "two").write_text("x"),
    "write a device": lambda: Path("/dev/null").write_text("x"),
    "unmount": lambda: os.system("umount " + str(key.parent) + " 2>/dev/null") and os.stat("/?"),
}
words, done = isolation.confine(8 * 2**30, 1, Path.cwd(), key.parent, loopback=loopback), []
for name, deed in deeds.items():
    try:
        deed()
        done.append(name)
    except OSError:
        pass
print(json.dumps([words, done]))
"""
ALLOWED = {
    "read the table",
    "write scratch",
    "write scratch by its name",
    "write a device",
}
KEYS = {"read the key"}


@dataclass
class Place:
    """A table, and a site's directory with a key, for a process to try itself at."""

    root: Path
    port: int

    def confined(
        self, user: int = 0, without: str = "", loopback: str = ""
    ) -> tuple[str, set[str]]:
        """How a program was confined, and what it could do then."""
        arguments = [str(self.root), str(self.port), str(user), without, loopback]
        ran = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert ran.returncode == 0, ran.stderr
        words, done = json.loads(ran.stdout)
        assert (self.root / "ward.csv").read_text() == TABLE
        return words, set(done)


@pytest.fixture
def place() -> Iterator[Place]:
    """Not below pytest's own folder, which no other user may pass."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux confines a process")
    with tempfile.TemporaryDirectory() as folder, socket.create_server((HOST, 0)) as server:
        yield Place(furnished(Path(folder)), server.getsockname()[1])


def furnished(root: Path) -> Path:
    for part in ("site/keys", "site/scratch"):
        (root / part).mkdir(parents=True)
    (root / "ward.csv").write_text(TABLE)
    (root / "site/keys/signing.key").write_text(KEY)
    (root / "site/site.db").write_text("")
    return root


def give_to(root: Path, user: int) -> None:
    """Let a user own everything below `root`."""
    for path in (root, *root.rglob("*")):
        os.chown(path, user, user)


def test_a_loopback_of_its_own_leads_a_process_to_nobody_else(place: Place) -> None:
    words, done = place.confined(loopback="own")
    if "no network but between its own processes, files read-only, no keys" not in words:
        pytest.skip(f"this system allows no namespaces: {words}")
    assert done == ALLOWED


def test_a_confined_process_reaches_nobody_and_writes_only_its_scratch(place: Place) -> None:
    words, done = place.confined()
    if "no network, files read-only, no keys" not in words:
        pytest.skip(f"this system allows no namespaces: {words}")
    assert done == ALLOWED


def test_an_ordinary_users_process_is_confined_as_well_where_namespaces_are_allowed(
    place: Place,
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    give_to(place.root, NOBODY)
    words, done = place.confined(NOBODY)
    if "no network, files read-only, no keys" not in words:
        pytest.skip(f"this system allows no namespaces: {words}")
    assert done == ALLOWED


@pytest.mark.parametrize("user", [0, NOBODY])
def test_without_namespaces_files_are_read_only_all_the_same_and_the_rest_is_said(
    place: Place, user: int
) -> None:
    if user and os.geteuid() != 0:
        pytest.skip("only root can become another user")
    if user:
        give_to(place.root, user)
    words, done = place.confined(user, "without namespaces")
    assert "NETWORK OPEN" in words
    assert "KEYS READABLE" in words
    if "files read-only" not in words:
        pytest.skip("this kernel has no Landlock of version 3")
    assert done == ALLOWED | KEYS | {"reach somebody"}


def test_a_studys_process_says_how_it_is_confined_and_trains_all_the_same(tmp_path: Path) -> None:
    site = make_site(tmp_path / "a", "a", SigningKey.generate().public)
    study = write_study(tmp_path, PLAIN)
    approve(site, study)
    said: list[Any] = []
    workshop = Processes(
        site.name,
        Limits("cpu", 2, 8 * 2**30),
        site.directory.root,
        site.directory.load_dataset,
        halted=lambda digest: None,
        on_start=lambda digest, words: said.append(words),
    )
    try:
        assert workshop.prepare(study).patients > 0
    finally:
        workshop.close_all()
    (words,) = said
    assert words.startswith("CPU, 2 threads")
    assert any(there in words for there in ("files read-only", "FILES WRITABLE"))
    assert len(words) < 200  # what the event `run.started` keeps


def test_the_gpus_device_files_are_made_before_privileges_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the driver's own program, on a machine that has three GPUs."""
    program, said = tmp_path / "bin" / "nvidia-modprobe", tmp_path / "said"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {said}\n')
    program.chmod(0o755)
    for gpu in ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0"):
        (tmp_path / "gpus" / gpu).mkdir(parents=True)
    monkeypatch.setenv("PATH", str(program.parent))
    nvidia.make_device_files(tmp_path / "gpus")
    assert said.read_text().splitlines() == ["-u -c 0", "-c 1", "-c 2"]
    program.unlink()
    nvidia.make_device_files(tmp_path / "gpus")
    assert len(said.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        ("no network, files read-only, no keys", "ok"),
        ("NETWORK OPEN (no namespaces here), files read-only, no keys", "warning"),
        ("", "warning"),
    ],
)
def test_the_doctor_says_beforehand_what_training_could_not_be_kept_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, verdict: str
) -> None:
    """A stand-in for Python, on a system that allows so much."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "{words}"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    finding = examine_isolation()
    assert (finding.check, finding.verdict) == ("isolation", verdict)
    assert words in finding.said
    assert (finding.advice == "") == (verdict == "ok")


def test_the_doctors_own_confinement_ends_with_the_child_that_tries_it(tmp_path: Path) -> None:
    said = examine_isolation().said
    assert "files" in said.lower()
    (tmp_path / "still").write_text("writable")
    socket.create_server((HOST, 0)).close()
