"""Training in a process of its own: the same numbers, no network, and gone when told to go."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.federation import PLAIN, PRIVATE, approve, make_site, write_study

from cohortium.client import halt
from cohortium.client.calibration import Inquiry
from cohortium.client.processes import Limits, Processes, marker
from cohortium.client.site import Site
from cohortium.common.errors import CohortiumError, DataError, RefusedError
from cohortium.common.identity import SigningKey
from cohortium.common.metrics.calibration import EVERYBODY, START, Points
from cohortium.common.privacy.cross_check import cross_check
from cohortium.common.privacy.plan import planned
from cohortium.common.study import Study, load_study
from cohortium.server.coordinator import initial_model

GIB = 2**30
ENDLESS = PLAIN.replace("local_steps = 10", "local_steps = 100000000")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site whose training runs in confined processes."""
    opened = make_site(tmp_path / "a", "a", SigningKey.generate().public)
    workshop = processes(opened)
    yield replace(opened, workshop=workshop)
    workshop.close_all()


def processes(site: Site, memory_bytes: int = 8 * GIB) -> Processes:
    return Processes(
        site.name,
        Limits("cpu", 1, memory_bytes),
        site.directory.root,
        site.directory.load_dataset,
        halted=lambda study: halt.refusal(site, study),
        on_start=lambda study, words: None,
    )


def known(site: Site, tmp_path: Path, training: str = PLAIN) -> Study:
    study = write_study(tmp_path, training)
    approve(site, study)
    return study


def worker_pid(site: Site, study: Study) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        pid = halt.running(marker(site.directory.root, study.digest))
        if pid is not None:
            return pid
        time.sleep(0.05)
    raise AssertionError("no training process")


def train_in_background(site: Site, study: Study) -> tuple[threading.Thread, list[Exception]]:
    raised: list[Exception] = []

    def work() -> None:
        try:
            site.workshop.train(study, None, initial_model(study), 1)
        except CohortiumError as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, raised


def test_another_program_s_opinion_of_a_plan_comes_from_where_it_is_loaded(
    site: Site, tmp_path: Path
) -> None:
    study = known(site, tmp_path, PRIVATE)
    plan = planned(study, 4)
    assert plan is not None
    check = site.workshop.cross_check(study, plan, 1e-5)
    assert check == cross_check((plan,), 1e-5)
    assert check is not None
    assert check.accountant.name == "Opacus PRV"


def test_a_process_of_its_own_computes_the_same_bits(site: Site, tmp_path: Path) -> None:
    study = known(site, tmp_path)
    inline = make_site(tmp_path / "twin", "a", SigningKey.generate().public)
    start = initial_model(study)
    apart = site.workshop.train(study, None, start, 1)
    here = inline.workshop.train(study, None, start, 1)
    assert np.array_equal(apart.delta, here.delta)
    assert site.workshop.prepare(study) == inline.workshop.prepare(study)
    assert site.workshop.evaluate(study, None, start, 0) == inline.workshop.evaluate(
        study, None, start, 0
    )
    male = ("sex", "male")
    points = Points(overall=START, groups={"sex": {"male": START}})
    inquiry = Inquiry(points=points, shown=(EVERYBODY, male))
    sums = site.workshop.calibrate(study, None, start, inquiry, 0)
    assert sums == inline.workshop.calibrate(study, None, start, inquiry, 0)
    assert set(sums.groups["sex"]) == {"male"}


def test_a_broken_table_is_an_error_with_its_reason_not_a_dead_process(
    site: Site, tmp_path: Path
) -> None:
    study = known(site, tmp_path)
    table = site.directory.load_dataset("ward").path
    whole = table.read_text()
    table.write_text(whole.replace(",1\n", ",maybe\n", 1))
    with pytest.raises(DataError, match="ill") as caught:
        site.workshop.prepare(study)
    assert "maybe" not in str(caught.value)
    table.write_text(whole)
    assert site.workshop.prepare(study).patients > 0


@pytest.mark.slow  # the same with real daemons: tests/e2e/test_site_decides.py
@pytest.mark.parametrize("stopped_first", [False, True])
def test_the_kill_switch_ends_training_that_hangs_within_five_seconds(
    site: Site, tmp_path: Path, stopped_first: bool
) -> None:
    study = known(site, tmp_path, ENDLESS)
    thread, raised = train_in_background(site, study)
    pid = worker_pid(site, study)
    time.sleep(6)  # it has begun to train
    if stopped_first:
        os.kill(pid, signal.SIGSTOP)  # a process that reacts to nothing
    halted = halt.stop(site, site.studies.by_digest(study.digest), "Dr. Weiss")
    assert halted.processes == 1, raised
    assert halted.seconds < 5
    thread.join(60)
    assert not Path(f"/proc/{pid}").exists()
    assert not thread.is_alive()
    (error,) = raised
    assert isinstance(error, RefusedError)
    assert error.rule == "study.stopped"
    assert not (site.directory.root / "scratch" / study.digest[:16]).exists()


def test_a_pause_ends_training_and_a_resume_lets_it_begin_anew(site: Site, tmp_path: Path) -> None:
    endless = known(site, tmp_path, ENDLESS)
    thread, raised = train_in_background(site, endless)
    worker_pid(site, endless)
    assert halt.pause(site, "Dr. Weiss").processes == 1
    thread.join(60)
    assert [type(error) for error in raised] == [RefusedError]
    study = known(site, tmp_path)
    assert halt.refusal(site, study.digest) is not None
    halt.resume(site, "Dr. Weiss")
    assert halt.refusal(site, study.digest) is None
    assert site.workshop.prepare(study).patients > 0


def test_a_process_that_is_killed_is_an_error_and_the_next_round_gets_a_new_one(
    site: Site, tmp_path: Path
) -> None:
    study = known(site, tmp_path, ENDLESS)
    thread, raised = train_in_background(site, study)
    os.kill(worker_pid(site, study), signal.SIGKILL)
    thread.join(60)
    assert "training process ended" in str(raised[0])
    assert site.workshop.prepare(study).patients > 0


def test_a_process_that_ended_between_two_rounds_is_replaced_and_nobody_notices(
    site: Site, tmp_path: Path
) -> None:
    study = known(site, tmp_path)
    site.workshop.prepare(study)
    assert halt.pause(site, "Dr. Weiss").processes == 1
    halt.resume(site, "Dr. Weiss")
    assert site.workshop.prepare(study).patients > 0


def test_a_study_that_needs_too_much_memory_fails_and_says_so(tmp_path: Path) -> None:
    opened = make_site(tmp_path / "a", "a", SigningKey.generate().public)
    workshop = processes(opened, memory_bytes=300 * 2**20)
    write_study(tmp_path, PLAIN)
    text = (tmp_path / "study.toml").read_text()
    wide = 'name = "mlp"\nhidden = [60000, 1000]'
    (tmp_path / "study.toml").write_text(text.replace('name = "logistic"', wide))
    study = load_study(tmp_path / "study.toml")
    approve(opened, study)
    try:
        with pytest.raises(CohortiumError):
            workshop.train(study, None, initial_model(study), 1)
    finally:
        workshop.close_all()


@pytest.mark.slow
def test_own_and_personal_models_are_made_there_the_same(tmp_path: Path) -> None:
    text = "[evaluation]\nown_model = true\n[mitigation]\nrecalibrate = true\nditto = 0.5\n"
    study = write_study(tmp_path, PLAIN, text)
    site = make_site(tmp_path / "a", "a", SigningKey.generate().public)
    approve(site, study)
    workshop, start = processes(site), initial_model(study)
    try:
        before = start + np.float32(0.25)
        personal = workshop.personalise(study, None, start, before, 1)
        found = workshop.evaluate(study, None, start, 0, True, personal)
    finally:
        workshop.close_all()
    inline = site.workshop
    assert inline.personalise(study, None, start, before, 1).tobytes() == personal.tobytes()
    here = inline.evaluate(study, None, start, 0, True, personal)
    assert found.stays is not None
    assert here.stays is not None
    assert set(found.stays.models) == {"federated", "own", "recalibrated", "personal"}
    assert found.stays.own == here.stays.own
    for name, there in found.leaves.beside.items():
        mine = here.leaves.beside[name].overall
        assert there.overall.both == mine.both
        assert there.overall.log_loss == pytest.approx(mine.log_loss)
