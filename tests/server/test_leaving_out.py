"""Leave-one-site-out through a whole federation: no model knows the site that it is measured at."""

from pathlib import Path

import pytest
from tests.asking import Asker
from tests.federation import FULL, Federation, approve
from tests.server.test_checkpoints import damage, interrupted
from tests.server.test_coordinator import SHORT, approved, model_without_b, run

from cohortium.common.messages import Consent
from cohortium.common.study import Study
from cohortium.server import checkpoints
from cohortium.server.aggregation.optimizer import final_model
from cohortium.server.checkpoints import Checkpoints
from cohortium.server.coordinator import run_study
from cohortium.server.outcome import final_vector
from cohortium.server.store import of_main_model

LEFT_OUT = """
[evaluation]
leave_one_site_out = true
"""

__all__ = ["model_without_b"]  # a fixture


Ran = tuple[Study, Federation, bytes]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A finished study and the bytes of its main model."""
    study, federation = approved(tmp_path_factory.mktemp("all"), SHORT, LEFT_OUT)
    return study, federation, run(study, federation).tobytes()


def model(study: Study, federation: Federation, round: int) -> bytes:
    return final_model(Checkpoints(federation.store.database, study.digest).load(round)).tobytes()


def test_the_model_without_a_site_is_that_of_a_study_that_never_had_it(
    ran: Ran, model_without_b: bytes
) -> None:
    study, federation, main = ran
    assert model(study, federation, 6) == model_without_b != main


def test_the_main_model_is_that_of_a_study_that_leaves_nobody_out(ran: Ran, tmp_path: Path) -> None:
    assert run(*approved(tmp_path, SHORT)).tobytes() == ran[2]


def test_each_track_trains_without_its_site_and_is_measured_there(ran: Ran) -> None:
    study, federation, _ = ran
    records = federation.store.rounds(study.digest)
    assert [record.left_out for record in records] == ["", "", *"aabbcc"]
    assert [set(record.replied) for record in records[2:]] == [
        set("abc") - {record.left_out} for record in records[2:]
    ]
    assert all(record.missing == () and not record.refused for record in records)
    assert [record.round for record in records if record.evaluations] == [1, 2, 4, 6, 8]
    for record in records[3::2]:
        assert set(record.evaluations) == set("abc")
    assert [record.round for record in of_main_model(records)] == [1, 2]


def test_the_quorum_does_not_count_on_the_site_left_out(tmp_path: Path) -> None:
    study, federation = approved(tmp_path, SHORT, LEFT_OUT)
    sites = study.sites.model_copy(update={"min_sites": 3, "min_patients": 60})
    strict = study.model_copy(update={"sites": sites})
    for site in federation.sites.values():
        approve(site, strict)
    run(strict, federation)
    assert len(federation.store.rounds(strict.digest)) == 8


def test_a_site_trains_nothing_in_the_track_that_leaves_it_out(tmp_path: Path) -> None:
    study, federation = approved(tmp_path, FULL, LEFT_OUT)
    asker = Asker(federation.key, federation.sites["b"])
    assert asker.invite(study).message.decision == "approved"
    assert asker.train(study, 7).rule == "round.left_out"
    assert asker.evaluate(study, 8).rule == "round.left_out"  # only when it is finished
    assert asker.train(study, 13).rule == "study.rounds"
    assert federation.sites["b"].ledger(study).entries() == []


def test_the_promised_epsilon_holds_over_all_models(tmp_path: Path) -> None:
    study, federation = approved(tmp_path, FULL, LEFT_OUT)
    run(study, federation)
    for name, site in federation.sites.items():
        rounds = [entry.round for entry in site.ledger(study).entries()]
        assert rounds == [n for n in range(1, 13) if study.track(n).left_out != name]
        assert 2.99 < site.ledger(study).balance().epsilon_spent <= 3.0 + 1e-6


@pytest.mark.parametrize("before", [3, 6, 8])
def test_a_coordinator_killed_in_any_track_goes_on_to_the_same_models(
    ran: Ran, tmp_path: Path, before: int
) -> None:
    study, federation = approved(tmp_path, SHORT, LEFT_OUT)
    interrupted(study, federation, before=before)
    damage(federation, after=before - 2)  # and its last checkpoint with it
    assert run(study, federation).tobytes() == ran[2]
    for last in (2, 4, 6, 8):
        assert model(study, federation, last) == model(ran[0], ran[1], last)


def test_the_main_model_outlives_the_checkpoints_of_the_tracks(
    ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "KEEP_BYTES", 0)
    study, federation = approved(tmp_path, SHORT, LEFT_OUT)
    assert run(study, federation).tobytes() == ran[2]
    assert Checkpoints(federation.store.database, study.digest).rounds() == [8, 7, 2]
    row = federation.store.study(study.name)
    assert final_vector(row, federation.store).tobytes() == ran[2]


@pytest.mark.parametrize(("min_sites", "tracks"), [(1, ["", "", *"aacc"]), (2, ["", ""])])
def test_where_a_site_is_gone_the_rest_is_left_out_only_if_a_quorum_remains(
    tmp_path: Path, min_sites: int, tracks: list[str]
) -> None:
    study, federation = approved(tmp_path, SHORT, LEFT_OUT)
    sites = study.sites.model_copy(update={"min_sites": min_sites})
    study = study.model_copy(update={"sites": sites})
    for site in federation.sites.values():
        approve(site, study)
    refused = Consent(decision="refused", rule="study.rejected", explanation="")
    desk = federation.desk(study)
    federation.store.decide(study.digest, "b", refused, 0)
    run_study(study, desk)
    records = federation.store.rounds(study.digest)
    assert [record.left_out for record in records] == tracks
    assert all(record.left_out not in record.replied for record in records)
