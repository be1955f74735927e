"""What the coordinator remembers is what was said last, and is there after a restart."""

from pathlib import Path

import pytest
from tests.federation import PLAIN, write_study

from cohortium.common.errors import UsageError
from cohortium.common.messages import Consent
from cohortium.common.study import Study
from cohortium.server.database import open_coordinator_database
from cohortium.server.store import RoundRecord, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(open_coordinator_database(tmp_path / "coordinator.db"))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path, PLAIN)


def other(folder: Path, name: str) -> Study:
    (folder / name).mkdir()
    return write_study(folder / name, PLAIN, name=name)


def record(number: int) -> RoundRecord:
    return RoundRecord(
        round=number,
        seconds=0.1,
        received={"a": {"update": 10}},
        replied=("a",),
        missing=(),
        refused={},
        spent={},
        evaluations={},
        summary=None,
    )


def test_submitting_twice_is_submitting_once(store: Store, study: Study) -> None:
    store.submit(study, 1)
    store.begin(study.digest)
    again = store.submit(study, 2)
    assert (again.state, again.submitted_ms) == ("running", 1)
    assert len(store.studies()) == 1


def test_another_study_cannot_take_a_name(store: Store, study: Study, tmp_path: Path) -> None:
    store.submit(study, 1)
    (tmp_path / "twin").mkdir()
    twin = write_study(tmp_path / "twin", PLAIN.replace("rounds = 4", "rounds = 5"))
    with pytest.raises(UsageError, match='another study is named "ward-study"'):
        store.submit(twin, 2)
    assert store.study("ward-study").digest == study.digest


def test_a_study_is_found_by_name_or_eight_digits_and_by_nothing_less(
    store: Store, study: Study
) -> None:
    store.submit(study, 1)
    for name in (study.name, study.digest, study.digest[:8]):
        assert store.study(name).digest == study.digest
    for name in (study.digest[:7], "", "%", "________", study.digest[:4] + "____", "%" * 8):
        with pytest.raises(UsageError, match=r"no study .* known: ward-study"):
            store.study(name)


def test_a_study_named_like_anothers_digest_is_the_one_that_is_meant(
    store: Store, study: Study, tmp_path: Path
) -> None:
    store.submit(study, 1)
    if not study.digest[0].isalpha():
        study = next(s for i in range(99) if (s := other(tmp_path, f"s{i}")).digest[0].isalpha())
        store.submit(study, 1)
    impostor = other(tmp_path, study.digest[:8])
    store.submit(impostor, 2)
    assert store.study(study.digest[:8]).digest == impostor.digest


def test_the_last_word_of_a_site_counts(store: Store, study: Study) -> None:
    store.submit(study, 1)
    store.decide(study.digest, "b", Consent(decision="waiting"), 1)
    store.decide(study.digest, "a", Consent(decision="approved", approvers=("A",)), 2)
    store.decide(study.digest, "b", Consent(decision="refused", rule="policy.models"), 3)
    found = store.consents(study.digest)
    assert {name: consent.decision for name, consent in found.items()} == {
        "a": "approved",
        "b": "refused",
    }


def test_rounds_are_there_after_a_restart_and_one_run_again_replaces_itself(
    store: Store, study: Study
) -> None:
    store.submit(study, 1)
    store.record(study.digest, record(1).model_copy(update={"seconds": 9.0}))
    store.record(study.digest, record(1))
    store.record(study.digest, record(2))
    again = Store(open_coordinator_database(store.database.path))
    assert [item.round for item in again.rounds(study.digest)] == [1, 2]
    assert [item.round for item in again.rounds(study.digest, after=1)] == [2]
    assert again.rounds(study.digest)[0] == record(1)


def test_a_study_without_a_round_has_none(store: Store, study: Study) -> None:
    store.submit(study, 1)
    assert store.rounds(study.digest) == []
    assert store.consents(study.digest) == {}


def test_the_first_who_asked_to_stop_is_remembered(store: Store, study: Study) -> None:
    store.submit(study, 1)
    assert store.stop_requested(study.digest) == ""
    store.ask_to_stop(study.digest, "first")
    store.ask_to_stop(study.digest, "second")
    assert store.stop_requested(study.digest) == "first"
    assert store.stop_requested("0" * 64) == ""


def test_an_ended_study_says_why_and_since_when(store: Store, study: Study) -> None:
    store.submit(study, 1)
    assert not store.study(study.name).ended
    store.say(study.digest, "round 1 of 4")
    assert store.study(study.name).progress == "round 1 of 4"
    store.end(study.digest, "failed", "nobody came", "invite more", 99)
    row = store.study(study.name)
    assert (row.state, row.cause, row.progress, row.ended_ms) == ("failed", "nobody came", "", 99)
    assert row.next_step == "invite more"
    assert row.ended
    assert row.study == study


def test_who_decided_is_told_of_the_end_until_it_has_heard(store: Store, study: Study) -> None:
    store.submit(study, 1)
    store.decide(study.digest, "a", Consent(decision="approved", approvers=("A",)), 1)
    store.decide(study.digest, "b", Consent(decision="waiting"), 1)
    assert store.untold(study.digest) == ("a", "b")
    store.told(study.digest, "a", 2)
    store.told(study.digest, "a", 3)
    assert store.untold(study.digest) == ("b",)


def test_a_resumed_study_is_as_new_but_for_its_rounds(store: Store, study: Study) -> None:
    store.submit(study, 1)
    store.decide(study.digest, "a", Consent(decision="approved", approvers=("A",)), 1)
    store.record(study.digest, record(1))
    store.record(study.digest, record(2))
    store.ask_to_stop(study.digest, "somebody")
    store.end(study.digest, "stopped", "stopped by somebody", "resume", 9)
    store.told(study.digest, "a", 9)
    store.resume(study.digest)
    row = store.study(study.name)
    assert (row.state, row.cause, row.next_step, row.stop_by) == ("submitted", "", "", "")
    assert (row.resumed_after, row.ended_ms) == (2, None)
    assert store.consents(study.digest) == {}
    assert store.untold(study.digest) == ()
    assert len(store.rounds(study.digest)) == 2


def test_studies_are_listed_in_the_order_of_submission(store: Store, tmp_path: Path) -> None:
    for at, name in enumerate(("zeta", "alpha", "mid")):
        store.submit(other(tmp_path, name), at)
    assert [row.study.name for row in store.studies()] == ["zeta", "alpha", "mid"]
