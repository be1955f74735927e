"""Results with noise leave once, are paid for once, and nothing exact leaves beside them."""

from pathlib import Path

import numpy as np
import pytest
from tests.asking import Asker
from tests.federation import FULL, approve, federate, make_site, write_study

from cohortium.client.withdrawal import usage
from cohortium.common.errors import ProtocolError
from cohortium.common.identity import SigningKey
from cohortium.common.messages import Evaluated
from cohortium.common.metrics.tallies import BinaryTally, SiteEvaluation
from cohortium.common.privacy.plan import noise_std, planned_evaluation, whole_plan
from cohortium.common.study import Study
from cohortium.server.coordinator import run_study
from cohortium.server.plausible_evaluation import check_evaluation

NOISE = """
[evaluation]
noise_epsilon = 1.0
"""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path, FULL, NOISE)


@pytest.fixture
def asker(tmp_path: Path, study: Study) -> Asker:
    key = SigningKey.generate()
    asker = Asker(key, make_site(tmp_path / "a", "a", key.public))
    approve(asker.site, study)
    assert asker.invite(study).message.decision == "approved"
    return asker


def evaluation(asker: Asker, study: Study, round: int) -> SiteEvaluation:
    message = asker.evaluate(study, round).message
    assert isinstance(message, Evaluated)
    return message.evaluation


def test_approval_sets_training_and_results_aside(asker: Asker, study: Study) -> None:
    ledger = asker.site.ledger(study)
    assert ledger.reserved() == {study.digest: whole_plan(study, "a")}
    assert [one.steps for one in whole_plan(study, "a")] == [3, 1]
    reserved = [e for e in asker.site.log.events() if e.action == "privacy.reserved"]
    assert len(reserved) == 2


def test_a_study_whose_results_do_not_fit_the_cap_is_not_begun(tmp_path: Path) -> None:
    key = SigningKey.generate()
    asker = Asker(key, make_site(tmp_path / "b", "a", key.public, epsilon_cap=3.4))
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    noisy = write_study(tmp_path / "with", FULL, NOISE)
    approve(asker.site, noisy)
    assert asker.invite(noisy).rule == "privacy.cap"
    plain = write_study(tmp_path / "without", FULL, name="without-noise")
    approve(asker.site, plain)
    assert asker.invite(plain).message.decision == "approved"


def test_before_the_end_nothing_is_said_and_nothing_spent(asker: Asker, study: Study) -> None:
    found = evaluation(asker, study, 1)
    assert isinstance(found.overall, BinaryTally)
    assert (found.overall.n, found.overall.auroc, found.groups) == (None, None, {})
    assert "noise" in found.overall.reason
    assert asker.site.ledger(study).entries() == []
    check_evaluation(study, found, last=False)


def test_results_are_paid_once_however_often_they_are_asked_for(asker: Asker, study: Study) -> None:
    for round in (1, 2, 3):
        asker.train(study, round)
    first = asker.evaluate(study, 3)
    again = asker.evaluate(study, 3)
    assert again.body == first.body
    entries = asker.site.ledger(study).entries()
    assert [entry.round for entry in entries] == [1, 2, 3, 4]
    assert entries[-1].mechanism == planned_evaluation(study)
    spent = [e.detail for e in asker.site.log.events() if e.action == "privacy.spent"]
    assert [detail["kind"] for detail in spent] == ["training"] * 3 + ["evaluation"]
    assert all(one.steps == 0 for one in asker.site.ledger(study).reserved()[study.digest])
    (used,) = usage(asker.site, "ward")
    assert (used.trained, used.evaluated) == ((1, 2, 3), (3,))


def test_counts_follow_from_cells_and_nothing_else_is_shown(asker: Asker, study: Study) -> None:
    found = evaluation(asker, study, 3)
    assert found.noise_std == noise_std(study)
    assert list(found.groups["sex"]) == ["female", "male", "unknown"]  # whoever is there
    for one in (found.overall, *(t for g in found.groups.values() for t in g.values())):
        assert isinstance(one, BinaryTally)
        cells = (one.tp or 0, one.fp or 0, one.tn or 0, one.fn or 0)
        assert (one.n, one.positives) == (sum(cells), cells[0] + cells[3])
        assert (one.auroc, one.mean_score, one.brier, one.bins, one.further) == (
            None,
            None,
            None,
            None,
            (),
        )
    check_evaluation(study, found, last=True)
    exact = found.model_copy(update={"noise_std": 0.0})
    for wrong, last in ((exact, True), (found, False)):
        with pytest.raises(ProtocolError):
            check_evaluation(study, wrong, last=last)


def test_a_site_without_reservation_of_results_spends_nothing_on_them(
    asker: Asker, study: Study
) -> None:
    asker.site.release(study.digest)
    assert evaluation(asker, study, 3).noise_std > 0  # set aside again first, as a round is
    assert asker.site.ledger(study).entries()[-1].round == 4


def test_a_federation_with_noise_ends_with_counts_near_the_truth(tmp_path: Path) -> None:
    federation = federate(tmp_path / "f", patients=2000)
    study = write_study(tmp_path, FULL, NOISE)
    for site in federation.sites.values():
        approve(site, study)
    run_study(study, federation.desk(study))
    record = federation.store.rounds(study.digest)[-1]
    assert len(record.evaluations) == 3
    for found in record.evaluations.values():
        assert isinstance(found.overall, BinaryTally)
        n = sum(getattr(t, "n", 0) or 0 for t in found.groups["sex"].values())
        assert found.overall.n == pytest.approx(600, abs=120)
        assert n == pytest.approx(found.overall.n, abs=30 * found.noise_std)
        assert np.isfinite(found.noise_std)
    federation.close()
