"""Several studies at one site at once: real threads, as the node has, and real processes."""

import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.asking import Asker, Heard
from tests.federation import COORDINATOR, FULL, PLAIN, approve, make_site, write_study

from cohortium.client import halt, rounds
from cohortium.client.processes import Limits, Processes, marker
from cohortium.client.site import Site
from cohortium.common.envelope import Header, seal, unseal
from cohortium.common.identity import SigningKey
from cohortium.common.messages import Close, Train, Update, pack
from cohortium.common.study import Study, load_study
from cohortium.server.coordinator import initial_model

ENDLESS = PLAIN.replace("local_steps = 10", "local_steps = 100000000")
UNPROTECTED = {"allow_unprotected": "true"}


@pytest.fixture
def asker(tmp_path: Path) -> Iterator[Asker]:
    """At a site with processes of its own, and room for one study of epsilon 3, not for two."""
    key = SigningKey.generate()
    opened = make_site(tmp_path / "a", "a", key.public, epsilon_cap=4.0, policy=UNPROTECTED)
    workshop = with_processes(opened, at_once=2)
    yield Asker(key, replace(opened, workshop=workshop))
    workshop.close_all()


def with_processes(site: Site, at_once: int) -> Processes:
    return Processes(
        site.name,
        Limits("cpu", 1, 8 * 2**30, at_once),
        site.directory.root,
        site.directory.load_dataset,
        halted=lambda study: halt.refusal(site, study),
        on_start=lambda study, words: None,
    )


def known(asker: Asker, tmp_path: Path, training: str, name: str) -> Study:
    """A study that a person at the site has approved and that may run."""
    place = tmp_path / name
    place.mkdir()
    study = write_study(place, training, name=name)
    approve(asker.site, study)
    asker.site.studies.mark(study.digest, "approved", "")
    return study


def at_the_same_time(*work: Callable[[], Heard]) -> list[Heard]:
    """Do all of it in threads that start together; what each heard, in order."""
    heard: dict[int, Heard] = {}
    gate = threading.Barrier(len(work))

    def run(place: int) -> None:
        gate.wait(10)
        heard[place] = work[place]()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [heard[i] for i in range(len(work))]


def in_background(work: Callable[[], Heard]) -> tuple[threading.Thread, list[Heard]]:
    heard: list[Heard] = []
    thread = threading.Thread(target=lambda: heard.append(work()))
    thread.start()
    return thread, heard


def worker(asker: Asker, study: Study) -> int | None:
    return halt.running(marker(asker.site.directory.root, study.digest))


def wait_for_worker(asker: Asker, study: Study) -> int:
    deadline = time.monotonic() + 60
    while (pid := worker(asker, study)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return pid


def test_the_same_round_asked_for_by_four_threads_is_trained_once(
    asker: Asker, tmp_path: Path
) -> None:
    """The noise is fresh each time: equal bytes come from one training."""
    study = known(asker, tmp_path, FULL, "one")
    heard = at_the_same_time(*[lambda: asker.train(study, 1)] * 4)
    assert all(isinstance(one.message, Update) for one in heard)
    assert len({one.body for one in heard}) == 1
    assert [entry.round for entry in asker.site.ledger(study).entries()] == [1]


def test_two_studies_with_room_for_one_never_overspend(asker: Asker, tmp_path: Path) -> None:
    studies = [known(asker, tmp_path, FULL, name) for name in ("one", "two")]
    for round in (1, 2, 3):
        heard = at_the_same_time(
            lambda: asker.train(studies[0], round),  # noqa: B023  done before the next round
            lambda: asker.train(studies[1], round),  # noqa: B023
        )
        assert sorted(one.rule for one in heard) == ["", "privacy.cap"]
    ledger = asker.site.ledger(studies[0])
    assert [entry.round for entry in ledger.entries()] == [1, 2, 3]
    assert len({entry.study for entry in ledger.entries()}) == 1
    assert ledger.balance().epsilon_spent <= 4.0


def test_each_update_says_what_was_spent_before_it_by_all_studies(
    tmp_path: Path,
) -> None:
    """Two rounds at once: one is the first row and one the second, and both say so."""
    key = SigningKey.generate()
    asker = Asker(key, make_site(tmp_path / "a", "a", key.public))
    studies = [known(asker, tmp_path, FULL, name) for name in ("one", "two")]
    heard = at_the_same_time(*[lambda s=s: asker.train(s, 1) for s in studies])
    said = sorted(one.message.spent.lifetime_epsilon for one in heard)
    ledger = asker.site.ledger(studies[0])
    assert said[0] < said[1] == ledger.balance().epsilon_spent


def test_a_long_training_holds_no_other_study_up_and_the_farewell_ends_it(
    asker: Asker, tmp_path: Path
) -> None:
    endless = known(asker, tmp_path, ENDLESS, "endless")
    short = known(asker, tmp_path, PLAIN, "short")
    thread, heard = in_background(lambda: asker.train(endless, 1))
    pid = wait_for_worker(asker, endless)
    assert isinstance(asker.train(short, 1).message, Update)
    assert worker(asker, endless) == pid
    assert asker.ask(endless, Close(outcome="stopped")).rule == ""
    thread.join(10)
    assert [one.rule for one in heard] == ["study.ended"]
    assert not Path(f"/proc/{pid}").exists()
    assert (
        asker.site.database.execute("SELECT * FROM replies WHERE study = ?", (endless.digest,))
        == []
    )


def test_only_so_many_processes_work_at_once_and_the_others_wait(tmp_path: Path) -> None:
    key = SigningKey.generate()
    opened = make_site(tmp_path / "a", "a", key.public, policy=UNPROTECTED)
    workshop = with_processes(opened, at_once=1)
    asker = Asker(key, replace(opened, workshop=workshop))
    endless = known(asker, tmp_path, ENDLESS, "endless")
    short = known(asker, tmp_path, PLAIN, "short")
    unwanted = known(asker, tmp_path, PLAIN, "unwanted")
    try:
        first, ended = in_background(lambda: asker.train(endless, 1))
        wait_for_worker(asker, endless)
        second, waiting = in_background(lambda: asker.train(unwanted, 1))
        third, done = in_background(lambda: asker.train(short, 1))
        halt.stop(opened, opened.studies.by_digest(unwanted.digest), "Dr. Weiss")
        second.join(10)  # who waits hears the kill switch, too
        assert [one.rule for one in waiting] == ["study.stopped"]
        assert worker(asker, short) is None
        assert third.is_alive()
        halt.stop(opened, opened.studies.by_digest(endless.digest), "Dr. Weiss")
        for thread in (first, third):
            thread.join(60)
        assert [one.rule for one in ended] == ["study.stopped"]
        assert isinstance(done[0].message, Update)
    finally:
        workshop.close_all()


def test_a_large_model_is_held_less_than_three_times(asker: Asker, tmp_path: Path) -> None:
    """The model that came, the one that was trained, the reply: never all of them at once."""
    place = tmp_path / "large"
    place.mkdir()
    write_study(place, PLAIN, name="large")
    wide = 'name = "mlp"\nhidden = [2000, 2000]'
    text = (place / "study.toml").read_text().replace('name = "logistic"', wide)
    (place / "study.toml").write_text(text)
    study = load_study(place / "study.toml")
    approve(asker.site, study)
    asker.site.studies.mark(study.digest, "approved", "")
    model = initial_model(study)
    assert model.nbytes > 16e6
    header = Header(
        kind="train",
        study=study.digest,
        round=1,
        message_id="0" * 32,
        sender=COORDINATOR,
        recipient="a",
        sent_ms=0,
    )
    requests = [seal(header, pack(Train(), model), asker.key)]
    peaks = []
    tracemalloc.start()
    try:
        for again in range(2):  # trained, then from the store
            requests.append(bytes(bytearray(requests[0])))
            before = tracemalloc.get_traced_memory()[0] - model.nbytes
            tracemalloc.reset_peak()
            reply = rounds.answer(requests.pop(), asker.site)
            peaks.append((tracemalloc.get_traced_memory()[1] - before) / model.nbytes)
            assert unseal(reply, asker.site.key.public)[0].kind == "update", again
            del reply
    finally:
        tracemalloc.stop()
    assert max(peaks) < 3, peaks


def test_a_process_outlives_the_thread_that_asked_for_it(asker: Asker, tmp_path: Path) -> None:
    study = known(asker, tmp_path, PLAIN, "one")
    thread, heard = in_background(lambda: asker.train(study, 1))
    thread.join(60)
    assert isinstance(heard[0].message, Update)
    pid = worker(asker, study)
    time.sleep(0.2)
    assert isinstance(asker.train(study, 2).message, Update)
    assert worker(asker, study) == pid
    assert pid != os.getpid()


def test_a_study_that_ended_goes_on_when_it_is_proposed_again(asker: Asker, tmp_path: Path) -> None:
    """Its data are read before it is approved again: the kill switch must let that pass."""
    study = known(asker, tmp_path, FULL, "one")
    assert isinstance(asker.train(study, 1).message, Update)
    assert asker.ask(study, Close(outcome="failed")).rule == ""
    assert asker.invite(study).message.decision == "approved"
    assert isinstance(asker.train(study, 2).message, Update)
