"""What the coordinator remembers is what was said last, and is there after a restart."""

from pathlib import Path

import pytest
from tests.common.test_older_studies import OLD_DIGEST, OLD_STUDY
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


OLD_ROUND = (  # what b2de269 kept of a round; tallies said no kind then
    b'{"evaluations":{"a":{"groups":{"sex":{"female":{"auroc":0.989,"auroc_variance":0.00013,"'
    b'brier":0.191,"brier_squares":0.0531,"correct":null,"fn":null,"fp":null,"further":[],"log'
    b'_loss":0.561,"mean_score":0.367,"n":33,"positives":18,"reason":"fewer than 10 patients i'
    b'n a cell","tn":null,"tp":null,"undecided":null},"male":{"auroc":0.979,"auroc_variance":0'
    b'.000453,"brier":0.158,"brier_squares":0.0319,"correct":null,"fn":null,"fp":null,"further'
    b'":[],"log_loss":0.5,"mean_score":0.452,"n":24,"positives":13,"reason":"fewer than 10 pat'
    b'ients in a cell","tn":null,"tp":null,"undecided":null}}},"overall":{"auroc":0.973,"auroc'
    b'_variance":0.000297,"brier":0.177,"brier_squares":0.0442,"correct":40,"fn":17,"fp":0,"fu'
    b'rther":[],"log_loss":0.536,"mean_score":0.403,"n":57,"positives":31,"reason":"","tn":26,'
    b'"tp":14,"undecided":null}}},"missing":[],"received":{"a":{"evaluated":1681,"update":543}'
    b',"b":{"evaluated":1651,"update":543},"c":{"evaluated":1656,"update":543}},"refused":{},"'
    b'replied":["a","b","c"],"round":1,"seconds":2.516,"spent":{"a":{"cap_delta":1e-05,"cap_ep'
    b'silon":10.0,"delta":1e-05,"epsilon":2.9999999965953745,"lifetime_epsilon":2.999999996595'
    b'3745,"noise_multiplier":1.3905934580651302,"sample_rate":1.0,"sampler":"full-batch","ste'
    b'ps":1}},"summary":{"accuracy":{"sites":3,"unweighted":0.7710541952028019,"weighted":0.77'
    b'4869109947644},"auroc":{"sites":3,"unweighted":0.9833333333333334,"weighted":0.983837696'
    b'3350786},"groups":[{"accuracy":{"high":null,"low":null,"of":0,"sites_shown":0,"value":nu'
    b'll},"attribute":"sex","level":"female","selection_rate":{"high":null,"low":null,"of":0,"'
    b'sites_shown":0,"value":null},"sensitivity":{"high":null,"low":null,"of":0,"sites_shown":'
    b'0,"value":null},"sites":3}],"log_loss":{"sites":3,"unweighted":0.51,"weighted":0.5085340'
    b'314136126},"majority":{"sites":3,"unweighted":0.549527785595897,"weighted":0.54973821989'
    b'52879},"sites":{"a":{"accuracy":0.7017543859649122,"auroc":0.973,"log_loss":0.536,"major'
    b'ity":0.543859649122807,"n":57,"reason":""},"b":{"accuracy":0.7878787878787878,"auroc":0.'
    b'992,"log_loss":0.507,"majority":0.5606060606060606,"n":66,"reason":""},"c":{"accuracy":0'
    b'.8235294117647058,"auroc":0.985,"log_loss":0.487,"majority":0.5441176470588235,"n":68,"r'
    b'eason":""}}}}'
)


def test_a_study_kept_by_an_older_program_is_found_with_its_rounds_and_digest(
    store: Store,
) -> None:
    store.database.execute(
        "INSERT INTO studies (digest, name, canonical, state, cause, progress, stop_by, "
        "submitted_ms) VALUES (?, 'ward-study', ?, 'running', '', '', '', 1)",
        (OLD_DIGEST, OLD_STUDY),
    )
    store.database.execute("INSERT INTO rounds VALUES (?, 1, ?)", (OLD_DIGEST, OLD_ROUND.decode()))
    row = store.study("ward-study")
    assert row.study.digest == row.digest == OLD_DIGEST
    assert store.submit(row.study, 2).submitted_ms == 1  # it is known
    (kept,) = store.rounds(row.digest)
    tally = kept.evaluations["a"].overall
    assert (tally.kind, tally.n, tally.reason) == ("binary", 57, "")
