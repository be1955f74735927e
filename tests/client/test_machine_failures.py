"""Memory, devices and processes that fail: named, nothing spent, and the next round works."""

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.asking import Asker, Heard
from tests.client.test_several_studies import wait_for_worker
from tests.federation import FULL, approve, make_site, write_study

from cohortium.client import halt
from cohortium.client.processes import Limits, Processes
from cohortium.client.workbench import _failure
from cohortium.common.identity import SigningKey
from cohortium.common.messages import Update
from cohortium.common.study import Study, load_study
from cohortium.server.desk import for_good

MIB = 2**20


@pytest.fixture
def asker(tmp_path: Path) -> Asker:
    key = SigningKey.generate()
    return Asker(key, make_site(tmp_path / "a", "a", key.public))


@pytest.fixture
def started(asker: Asker) -> Iterator[list[Processes]]:
    """The workshops that a test starts, ended with it."""
    workshops: list[Processes] = []
    yield workshops
    for workshop in workshops:
        workshop.close_all()


def confined(asker: Asker, limits: Limits, started: list[Processes]) -> Asker:
    """The same site with training in processes within these limits."""
    site = asker.site
    workshop = Processes(
        site.name,
        limits,
        site.directory.root,
        site.directory.load_dataset,
        halted=lambda study: halt.refusal(site, study),
        on_start=lambda study, words: None,
    )
    started.append(workshop)
    return Asker(asker.key, replace(site, workshop=workshop))


def approved(asker: Asker, tmp_path: Path, training: str, *, name: str, model: str = "") -> Study:
    place = tmp_path / name
    place.mkdir()
    write_study(place, training, name=name)
    text = (
        (place / "study.toml")
        .read_text()
        .replace('name = "logistic"', model or 'name = "logistic"')
    )
    (place / "study.toml").write_text(text)
    study = load_study(place / "study.toml")
    approve(asker.site, study)
    asker.site.studies.mark(study.digest, "approved", "")
    return study


def assert_nothing_spent(asker: Asker, study: Study, heard: Heard) -> None:
    """The coordinator may ask again, and what was set aside is there for it."""
    assert not for_good(f"{heard.rule}: ")
    ledger = asker.site.ledger(study)
    assert ledger.entries() == []
    *_, event = asker.site.log.events()
    assert (event.action, event.reason) == ("round.refused", heard.rule)
    assert event.detail["correlation"] == heard.message.correlation_id


def test_a_study_too_large_for_the_memory_is_refused_by_name_and_a_smaller_one_runs(
    asker: Asker, tmp_path: Path, started: list[Processes]
) -> None:
    large = approved(
        asker, tmp_path, FULL, name="large", model='name = "mlp"\nhidden = [20000, 1000]'
    )
    small = approved(asker, tmp_path, FULL, name="small")
    site = confined(asker, Limits("cpu", 1, 400 * MIB), started)
    heard = site.train(large, 1)
    assert heard.rule == "site.memory"
    assert "site.toml memory_gib" in heard.message.explanation
    assert_nothing_spent(site, large, heard)
    assert large.digest in site.site.ledger(large).reserved()
    assert started[0]._workers == {}  # its memory is free again
    assert isinstance(site.train(small, 1).message, Update)


def test_a_device_that_is_not_there_is_refused_by_name(
    asker: Asker, tmp_path: Path, started: list[Processes]
) -> None:
    """The driver was updated under a running daemon, say: the site stays up, and comes back."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    study = approved(asker, tmp_path, FULL, name="one")
    site = confined(asker, Limits("cuda", 1, 8192 * MIB), started)
    for _ in range(2):
        heard = site.train(study, 1)
        assert heard.rule == "site.device"
        assert "torch finds only cpu here" in heard.message.explanation
        assert_nothing_spent(site, study, heard)
    assert started[0]._workers == {}
    there_again = confined(asker, Limits("cpu", 1, 8192 * MIB), started)
    assert isinstance(there_again.train(study, 1).message, Update)


def test_a_training_process_killed_from_outside_is_a_refusal_and_the_next_one_trains(
    asker: Asker, tmp_path: Path, started: list[Processes]
) -> None:
    study = approved(asker, tmp_path, FULL, name="one")
    site = confined(asker, Limits("cpu", 1, 8192 * MIB), started)
    heard: list[Heard] = []
    thread = threading.Thread(target=lambda: heard.append(site.train(study, 1)))
    thread.start()
    os.kill(wait_for_worker(site, study), signal.SIGKILL)
    thread.join(20)
    assert heard[0].rule == "site.training"
    assert "exit status -9" in heard[0].message.explanation
    assert_nothing_spent(site, study, heard[0])
    assert isinstance(site.train(study, 1).message, Update)


@pytest.mark.parametrize(
    ("error", "rule"),
    [
        (MemoryError(), "site.memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), "site.memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "site.memory"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "site.device"),
        (RuntimeError("CUDA error: GPU is lost"), "site.device"),
        (RuntimeError("Jane Doe does not fit"), ""),
    ],
)
def test_what_libraries_say_of_memory_and_devices_becomes_a_rule(
    error: Exception, rule: str
) -> None:
    done = _failure(error)
    assert done.rule == rule
    assert "Jane" not in done.text
    assert "20.00 GiB" not in done.text
