"""Sites that train on nobody, and sites that hold out nobody: each does the other half."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.asking import Asker
from tests.federation import FULL as THREE
from tests.federation import Federation, approve, federate, set_policy, write_study
from tests.server.test_coordinator import LOOSE, SHORT

from cohortium.client.approvals import leaves
from cohortium.client.cohort import load_table, prepare
from cohortium.client.site import Site
from cohortium.common.document import parse
from cohortium.common.envelope import unseal
from cohortium.common.study import Study
from cohortium.server.coordinator import run_study
from cohortium.server.desk import StudyFailed
from cohortium.server.store import RoundRecord
from cohortium.server.successor import without

PATIENTS = 60
FULL = THREE.replace("rounds = 3", "rounds = 2")


def changed(study: Study, part: str, **values: Any) -> Study:
    document = study.model_dump()
    document[part] |= values
    return parse(document, Study, "study.toml")


def only_c_evaluates(root: Path, how: str = FULL, **sites: Any) -> tuple[Study, Federation]:
    """A study in which a and b train and c does not; nobody has approved it yet."""
    root.mkdir(exist_ok=True)
    study = changed(write_study(root, how, round_deadline=1.0), "sites", evaluate_only=("c",))
    return changed(study, "sites", **sites), federate(root, policy=LOOSE, patients=PATIENTS)


def run(study: Study, federation: Federation) -> tuple[np.ndarray, list[RoundRecord]]:
    for site in federation.sites.values():
        approve(site, study)
    model = run_study(study, federation.desk(study))
    return model, federation.store.rounds(study.digest)


def asked(federation: Federation, name: str) -> set[str]:
    """The kinds of request that reached a site."""
    requests = [raw for site, raw, _ in federation.transport.wire if site == name]
    return {unseal(raw, federation.key.public)[0].kind for raw in requests}


def rewrite(site: Site, rows: list[str]) -> None:
    """Another table of the ward at a site."""
    path = site.directory.load_dataset("ward").path
    path.write_text("\n".join(["age,sex,marker,ill", *rows]) + "\n")


def test_it_is_asked_at_every_evaluation_never_to_train_and_spends_nothing(tmp_path: Path) -> None:
    study, federation = only_c_evaluates(tmp_path)
    _, records = run(study, federation)
    assert [record.replied for record in records] == [("a", "b")] * 2
    assert [record.missing for record in records] == [()] * 2
    assert all(set(record.evaluations) == {"a", "b", "c"} for record in records)
    assert records[-1].evaluations["c"].overall.n == PATIENTS
    assert asked(federation, "a") - asked(federation, "c") == {"train"}
    assert federation.store.consents(study.digest)["c"].patients == "50-99"
    site = federation.sites["c"]
    assert site.ledger(study).entries() == []
    assert not [event for event in site.log.events() if event.action.startswith("privacy.")]
    assert set(records[-1].spent) == {"a", "b"}


def test_the_model_is_the_one_that_the_others_train_without_it(tmp_path: Path) -> None:
    with_it, federation = only_c_evaluates(tmp_path / "with", SHORT)
    model, _ = run(with_it, federation)
    alone, others = only_c_evaluates(tmp_path / "alone", SHORT, names=("a", "b"), evaluate_only=())
    assert run(alone, others)[0].tobytes() == model.tobytes()


def test_a_coordinator_that_asks_it_to_train_is_refused(tmp_path: Path) -> None:
    study, federation = only_c_evaluates(tmp_path)
    asker = Asker(federation.key, federation.sites["c"])
    approve(asker.site, study)
    assert asker.invite(study).message.decision == "approved"
    assert asker.train(study, 1).rule == "study.evaluate_only"
    assert leaves(study, "c") == ("evaluated",)


def test_the_quorum_is_of_sites_that_train(tmp_path: Path) -> None:
    study, federation = only_c_evaluates(tmp_path)
    set_policy(federation.sites["b"].directory.config, {"purposes": "[]"})
    with pytest.raises(StudyFailed, match="1 of the 2 sites that the study needs approved it"):
        run(study, federation)


def test_its_patients_do_not_make_up_for_those_that_nobody_trains_on(tmp_path: Path) -> None:
    study, federation = only_c_evaluates(tmp_path, min_patients=2 * 50 + 1)
    with pytest.raises(StudyFailed, match="of the 101 patients needed"):
        run(study, federation)


def test_too_few_patients_to_hide_in_are_too_few_to_evaluate_on(tmp_path: Path) -> None:
    study, federation = only_c_evaluates(tmp_path)
    rewrite(federation.sites["c"], [f"{30 + i},1,5,{i % 2}" for i in range(15)])
    _, records = run(study, federation)
    assert federation.store.consents(study.digest)["c"].rule == "policy.minimum_patients"
    assert set(records[-1].evaluations) == {"a", "b"}


def test_a_clinic_that_sees_only_the_ill_can_evaluate(tmp_path: Path) -> None:
    study, federation = only_c_evaluates(tmp_path)
    rewrite(federation.sites["c"], [f"{30 + i},1,5,1" for i in range(30)])
    _, records = run(study, federation)
    tally = records[-1].evaluations["c"].overall
    assert tally.n == 30
    assert tally.reason == "every patient has the outcome"


def test_rules_about_training_do_not_keep_a_site_from_evaluating(tmp_path: Path) -> None:
    study, federation = only_c_evaluates(tmp_path, SHORT)
    strict = {"allow_unprotected": "false", "may_leave": '["evaluated"]'}
    set_policy(federation.sites["c"].directory.config, strict)
    _, records = run(study, federation)
    assert set(records[-1].evaluations) == {"a", "b", "c"}


def test_scaling_by_all_sites_is_by_those_that_train(tmp_path: Path) -> None:
    study, federation = only_c_evaluates(tmp_path, SHORT)
    study = changed(study, "preprocessing", scaling="federated-standard")
    _, records = run(study, federation)
    assert set(records[-1].evaluations) == {"a", "b", "c"}
    assert "measure" not in asked(federation, "c")
    kept = federation.store.statistics(study.digest)
    assert kept is not None
    assert kept.count < 2 * PATIENTS


def test_it_needs_no_column_that_says_who_is_held_out(tmp_path: Path) -> None:
    study, federation = only_c_evaluates(tmp_path)
    study = changed(study, "split", column="fold", test_fraction=None)
    site = federation.sites["c"]
    dataset = site.directory.load_dataset("ward")
    cohort = prepare(load_table(study, dataset, "c"), study, "c")
    assert (len(cohort.labels), len(cohort.test_labels)) == (0, PATIENTS)
    assert cohort.patients == PATIENTS


def test_who_trains_again_without_a_site_keeps_the_others_roles(tmp_path: Path) -> None:
    study, federation = only_c_evaluates(tmp_path)
    row = federation.store.submit(study, 0)
    after = without(row, "a", 1, federation.store)
    assert (after.sites.names, after.sites.evaluate_only) == (("b", "c"), ("c",))
    assert after.sites.min_sites == 1
    assert without(row, "c", 1, federation.store).sites.evaluate_only == ()


def test_a_site_that_holds_out_nobody_trains_and_is_said_not_to_be_measured(
    tmp_path: Path,
) -> None:
    study = changed(write_study(tmp_path, FULL), "split", test_fraction=0.1, seed=257)
    federation = federate(tmp_path, policy=LOOSE, patients=PATIENTS)
    rewrite(federation.sites["c"], [f"{30 + i},{i % 2},5,{i % 2}" for i in range(25)])
    held_out = {
        name: len(prepare(load_table(study, data, name), study, name).test_labels)
        for name, site in federation.sites.items()
        for data in [site.directory.load_dataset("ward")]
    }
    assert held_out["c"] == 0
    assert held_out["a"] > 0
    _, records = run(study, federation)
    assert all(record.replied == ("a", "b", "c") for record in records)
    tally = records[-1].evaluations["c"].overall
    assert tally.n == 0
    assert tally.reason.startswith("no patients")
    assert records[-1].evaluations["a"].overall.n == held_out["a"]
