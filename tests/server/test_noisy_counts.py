"""A study whose counts leave with noise: paid once, exact nowhere, and a report all the same."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tests.asking import Asker
from tests.federation import FULL, Federation, approve, federate, write_study

from cohortium.client.lost import accept
from cohortium.client.results import Results
from cohortium.client.withdrawal import usage
from cohortium.common.envelope import unseal
from cohortium.common.errors import ProtocolError
from cohortium.common.fairness.audit import audit
from cohortium.common.fairness.verdicts import FairnessAudit
from cohortium.common.messages import Evaluated, Refusal
from cohortium.common.metrics.noisy import EARLIER, NOISY, WITHOUT_NOISE, evaluate
from cohortium.common.metrics.tallies import BinaryTally, SiteEvaluation
from cohortium.common.privacy import accounting
from cohortium.common.privacy.plan import planned_at, planned_noise
from cohortium.common.study import Study
from cohortium.server.config import CoordinatorConfig
from cohortium.server.coordinator import run_study
from cohortium.server.outcome import Evidence, publish
from cohortium.server.plausible_evaluation import check_evaluation
from cohortium.server.progress import describe
from cohortium.server.store import RoundRecord

NOISE = """
[evaluation]
noise_epsilon = 0.5
"""
STUDY = FULL + NOISE


@dataclass(frozen=True)
class Ran:
    study: Study
    federation: Federation
    last: RoundRecord

    def found(self, site: str) -> SiteEvaluation:
        return self.last.evaluations[site]


def crossed(root: Path, *parts: str) -> Study:
    """The study, with sex by age as a table of its own."""
    study = write_study(root, *parts)
    fairness = study.fairness.model_copy(update={"intersections": (("sex", "age"),)})
    return study.model_copy(update={"fairness": fairness})


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """Sites b and c train, a only evaluates; 4 families of counts."""
    root = tmp_path_factory.mktemp("noisy")
    study = crossed(root, STUDY)
    sites = study.sites.model_copy(update={"evaluate_only": ("a",)})
    study = study.model_copy(update={"sites": sites})
    federation = federate(root, patients=400)
    for site in federation.sites.values():
        approve(site, study)
    run_study(study, federation.desk(study))
    last = federation.store.rounds(study.digest)[-1]
    yield Ran(study, federation, last)
    federation.close()


def test_only_the_last_evaluation_has_counts_and_none_of_them_is_exact(ran: Ran) -> None:
    *earlier, last = ran.federation.store.rounds(ran.study.digest)
    assert [record.evaluations for record in earlier] == [{}, {}]
    assert set(last.evaluations) == {"a", "b", "c"}
    noise = planned_noise(ran.study)
    assert noise is not None
    for name, found in last.evaluations.items():
        assert found.noise_std == noise.std == pytest.approx(7.04 * 2, rel=0.01)
        kept = ran.federation.sites[name].database.execute("SELECT document FROM results")
        stays = Results.model_validate_json(kept[0]["document"])
        exact = stays.models["federated"].groups
        assert set(found.groups) == {"sex", "age", "sex x age"}
        assert set(found.groups["sex x age"]) == {
            f"{sex} x {age}" for sex in ("female", "male") for age in ("<50", ">=50")
        }  # where nobody is unknown, noise makes no group of them
        off = [
            getattr(tally, cell) - getattr(exact[table][level], cell)
            for table, levels in found.groups.items()
            for level, tally in levels.items()
            for cell in ("tp", "fp", "tn", "fn")
        ]
        assert len(set(off)) > 5
        assert max(map(abs, off)) < 6 * noise.std
        for tally in (found.overall, *found.groups["sex"].values()):
            assert isinstance(tally, BinaryTally)
            counts = [tally.tp, tally.fp, tally.tn, tally.fn]
            assert tally.n == sum(count for count in counts if count is not None)
            assert None not in counts
            assert {tally.auroc, tally.mean_score, tally.bins, tally.calibration} == {None}
            assert tally.further == ()
            assert tally.reason == NOISY


def test_the_noise_is_paid_once_by_every_site_beside_training(ran: Ran) -> None:
    noise = planned_noise(ran.study)
    assert noise is not None
    for name, site in ran.federation.sites.items():
        entries = site.ledger(ran.study).entries()
        paid = [entry for entry in entries if entry.mechanism.purpose == "evaluation"]
        assert [(entry.round, entry.mechanism) for entry in paid] == [(3, noise.mechanism)]
        assert len(entries) == (1 if name == "a" else 4)
        spent = site.ledger(ran.study).balance().epsilon_spent
        plan = planned_at(ran.study, name)
        assert spent == pytest.approx(accounting.epsilon(plan, 1e-5), rel=1e-9)
        events = [e for e in site.log.events() if e.action == "privacy.spent"]
        assert [e.detail["kind"] for e in events].count("evaluation") == 1
        (event,) = [e for e in events if e.detail["kind"] == "evaluation"]
        assert float(event.detail["epsilon"]) == pytest.approx(0.5, abs=1e-6)
        assert event.detail["clip_norm"] == "2.0"  # four families
        (used,) = usage(site, "ward")
        assert used.study == ran.study.name
    assert ran.last.spent["b"].epsilon == pytest.approx(3.0, abs=1e-6)  # of training alone
    assert ran.last.spent["b"].lifetime_epsilon < 3.5


def test_asked_again_a_site_answers_the_same_and_spends_nothing(ran: Ran) -> None:
    (wire,) = [
        (request, reply)
        for name, request, reply in ran.federation.transport.wire
        if name == "b" and unseal(request, ran.federation.key.public)[0].kind == "evaluate"
    ]
    site = ran.federation.sites["b"]
    before = len(site.ledger(ran.study).entries())
    asker = Asker(ran.federation.key, site)
    site.studies.mark(ran.study.digest, "approved", "")  # it had ended
    heard = asker.deliver(wire[0])
    assert heard.body == bytes(unseal(wire[1], site.key.public)[1])
    assert isinstance(heard.message, Evaluated)
    assert isinstance(asker.evaluate(ran.study, 3).message, Refusal)  # of another model
    assert len(site.ledger(ran.study).entries()) == before


def test_no_sum_for_calibration_is_answered(ran: Ran) -> None:
    assert ran.last.calibration is not None
    assert ran.last.calibration.steps == 0
    wire, key = ran.federation.transport.wire, ran.federation.key.public
    assert "calibrate" not in {unseal(request, key)[0].kind for _, request, _ in wire}


def test_the_report_and_the_audit_are_written_from_noisy_counts(ran: Ran, tmp_path: Path) -> None:
    row = ran.federation.store.study(ran.study.name)
    assert row.state == "completed"
    evidence = Evidence(CoordinatorConfig(name="consortium", host="localhost"), "", "")
    page = publish(row, ran.federation.store, ran.federation.log, evidence, tmp_path)
    text = page.read_text()
    assert "carry noise of ε = 0.5" in " ".join(text.split())
    found = audit(ran.study, ran.last.evaluations)
    measured = {one.attribute for one in found.contrasts if one.gap is not None}
    assert {"sex", "age", "sex x age", "site"} <= measured
    clear = {s: e.model_copy(update={"noise_std": 0.0}) for s, e in ran.last.evaluations.items()}
    told, hushed = (widths(one) for one in (found, audit(ran.study, clear)))
    assert len(told) > 5
    assert all(wide > narrow for wide, narrow in zip(told, hushed, strict=True))


def widths(found: FairnessAudit) -> list[float]:
    """Of the intervals of every difference by sex."""
    shown = [one for one in found.contrasts if one.attribute == "sex"]
    return [one.high - one.low for one in shown if one.low is not None and one.high is not None]


def test_earlier_models_are_answered_with_nothing_that_is_paid_for(tmp_path: Path) -> None:
    study = crossed(tmp_path, STUDY)
    federation = federate(tmp_path, ("b",))
    site = federation.sites["b"]
    approve(site, study)
    asker = Asker(federation.key, site)
    asker.invite(study)
    heard = asker.evaluate(study, 1).message
    assert isinstance(heard, Evaluated)
    assert heard.evaluation.overall.n is None
    assert heard.evaluation.overall.reason == EARLIER
    assert site.ledger(study).entries() == []
    check_evaluation(study, heard.evaluation, last=False)
    asker.evaluate(study, 3)
    (entry,) = site.ledger(study).entries()
    assert entry.mechanism.purpose == "evaluation"
    assert [m.steps for m in site.ledger(study).reserved()[study.digest]] == [3, 0]


def test_who_cannot_pay_for_both_refuses_before_anything_is_trained(tmp_path: Path) -> None:
    study = write_study(tmp_path, STUDY)
    privacy = describe(study)[0]["privacy"]
    plan = planned_at(study, "b")
    training_alone = accounting.cap_needed(plan[:1], 1e-5)
    decisions = {}
    for cap in (training_alone, privacy["cap_needed"]):
        root = tmp_path / f"{cap:.3f}"
        root.mkdir()
        federation = federate(root, ("b",), epsilon_cap=cap)
        approve(federation.sites["b"], study)
        decisions[cap] = Asker(federation.key, federation.sites["b"]).invite(study).rule
        assert federation.sites["b"].ledger(study).entries() == []
    assert list(decisions.values()) == ["privacy.cap", ""]


def test_nothing_leaves_of_a_model_whose_patients_no_noise_would_hide(tmp_path: Path) -> None:
    study = write_study(tmp_path, STUDY)
    noise = planned_noise(study)
    assert noise is not None
    rng = np.random.default_rng(0)
    attributes = {"sex": np.full(200, -1, np.int16), "age": np.zeros(200, np.int16)}
    found = evaluate(
        rng.random(200),
        rng.integers(0, 2, 200).astype(np.float64),
        attributes,
        study,
        noise,
        ["own"],
    )
    beside = found.beside["own"]
    for one in (beside.overall, *beside.groups["sex"].values()):
        assert {one.both, one.federated_only, one.other_only, one.neither} == {None}
        assert one.reason == WITHOUT_NOISE
    assert set(found.groups["sex"]) == {"female", "male", "unknown"}  # 200 can be told from none
    assert set(found.groups["age"]) == {"<50", ">=50"}
    check_evaluation(with_own_model(study), found, last=True)


def with_own_model(study: Study) -> Study:
    evaluation = study.evaluation.model_copy(update={"own_model": True})
    return study.model_copy(update={"evaluation": evaluation})


def test_the_check_of_a_study_says_what_both_cost_together(tmp_path: Path) -> None:
    document, text = describe(write_study(tmp_path, STUDY))
    privacy = document["privacy"]
    assert 3.0 < privacy["epsilon_in_all"] < 3.5  # composed, not added
    assert privacy["cap_needed"] > privacy["epsilon_in_all"]
    assert f"{privacy['epsilon_in_all']:.2f} in all" in text
    assert "only the final model is measured" in text


def tampered(found: SiteEvaluation, **changes: object) -> SiteEvaluation:
    overall = found.overall.model_copy(update=changes)
    return found.model_copy(update={"overall": overall})


def test_the_coordinator_takes_counts_only_with_the_noise_of_the_study(ran: Ran) -> None:
    found = ran.found("b")
    check_evaluation(ran.study, found, last=True)
    plain = ran.study.model_copy(
        update={"evaluation": ran.study.evaluation.model_copy(update={"noise_epsilon": None})}
    )
    wrong = (
        (ran.study, found.model_copy(update={"noise_std": 0.0}), True),
        (ran.study, found.model_copy(update={"noise_std": 2 * found.noise_std}), True),
        (plain, found, True),
        (ran.study, tampered(found, auroc=0.0), True),
        (ran.study, tampered(found, mean_score=0.3), True),
        (ran.study, found.model_copy(update={"groups": {}, "beside": {}, "noise_std": 0.0}), False),
    )
    for study, evaluation, last in wrong:
        with pytest.raises(ProtocolError):
            check_evaluation(study, evaluation, last)


def test_with_records_lost_both_purposes_count_as_spent_and_neither_twice(tmp_path: Path) -> None:
    study = write_study(tmp_path, STUDY)
    federation = federate(tmp_path, ("b",))
    site = federation.sites["b"]
    approve(site, study)
    asker = Asker(federation.key, site)
    asker.invite(study)
    asker.train(study, 1)
    asker.evaluate(study, 3)
    site.directory.mark.write_text("{")  # damaged: nothing is known of what was answered
    accept(site, "Dr. Weiss")
    steps = {"training": 0, "evaluation": 0}
    for entry in site.ledger(study).entries():
        steps[entry.mechanism.purpose] += entry.mechanism.steps
    assert steps == {"training": 3, "evaluation": 1}
    assert site.ledger(study).balance().epsilon_spent == pytest.approx(
        accounting.epsilon(planned_at(study, "b"), 1e-5), rel=1e-6
    )
