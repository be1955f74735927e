"""What a study says to its site alone: full results, and cross-validation on its own table."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from tests.asking import Asker
from tests.client.test_staying import ALL, ALLOWED
from tests.federation import FULL, SCHEMA, STUDY, approve, make_site, write_study

from cohortium.client import own_model, withdrawal
from cohortium.client.crossvalidation import crossvalidate
from cohortium.client.results import KeptResults
from cohortium.client.site import Site
from cohortium.common.cli import main
from cohortium.common.errors import DataError, UsageError
from cohortium.common.identity import SigningKey
from cohortium.common.study import Study, load_study


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path, FULL, ALL)


@pytest.fixture
def site(tmp_path: Path, study: Study) -> Site:
    """At a site of 120 patients whose last evaluation was just made."""
    key = SigningKey.generate()
    asker = Asker(key, make_site(tmp_path / "a", "a", key.public, policy=ALLOWED, patients=120))
    approve(asker.site, study)
    asker.invite(study)
    asker.train(study, 3)
    asker.evaluate(study, 3)
    return asker.site


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    said = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, said.out, said.err


def where(site: Site) -> tuple[str, str]:
    return "--dir", str(site.directory.root)


# ------------------------------------------------------------------ results


def test_a_site_sees_every_model_in_full_and_the_lines_to_use_them_by(
    site: Site, study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "site", "results", study.name, *where(site))
    assert code == 0
    assert all(name in out for name in ("FEDERATED", "OWN", "RECALIBRATED", "PERSONAL"))
    assert "sex: female, accuracy" in out
    assert "logit(federated p)" in out
    assert "FEDERATED ONLY" in out
    assert "nothing of them is sent" in out


def test_json_holds_the_counts_that_disclosure_control_hides(
    site: Site, study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "site", "results", study.name, *where(site), "--json")
    document = json.loads(out)
    assert code == 0
    for name in ("federated", "own", "recalibrated", "personal"):
        levels = document["models"][name]["groups"]["age"]
        assert all(tally["fn"] is not None for tally in levels.values())
    assert set(document["recalibration"]) == {"intercept", "slope"}


def test_before_the_last_evaluation_and_after_withdrawal_there_are_none(
    site: Site, study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    withdrawal.withdraw(site, "ward", "Dr. Weiss")
    code, _, err = run(capsys, "site", "results", study.name, *where(site))
    assert code == 2
    assert "has no results here" in err
    assert KeptResults(site.database).of(study.digest) is None


# ------------------------------------------------------------------ cross-validation


def crossed(site: Site, study: Study, kind: Any, folds: int = 5, time: str = "") -> Any:
    dataset = site.directory.load_dataset("ward")
    return crossvalidate(study, dataset, site.name, kind, folds, time)


def test_stratified_folds_give_about_what_scikit_learn_gives(site: Site, study: Study) -> None:
    found = crossed(site, study, "stratified")
    assert (found.patients, found.scored, len(found.folds)) == (120, 120, 5)
    shares = [fold.positives / fold.n for fold in found.folds]
    assert max(shares) - min(shares) < 0.06
    raw = np.genfromtxt(site.directory.root / "ward.csv", delimiter=",", skip_header=1)
    x, y = raw[:, :3] / [50.0, 1.0, 5.0], raw[:, 3]
    said = cross_val_predict(
        LogisticRegression(C=10), x, y, cv=StratifiedKFold(5), method="predict_proba"
    )
    assert found.together.auroc == pytest.approx(roc_auc_score(y, said[:, 1]), abs=0.03)


def test_time_ordered_folds_never_train_on_the_future(
    site: Site, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    train = own_model.train_own

    def watch(study: Study, x: Any, y: Any) -> Any:
        trained.append(len(x))
        return train(study, x, y)

    monkeypatch.setattr("cohortium.client.crossvalidation.train_own", watch)
    found = crossed(site, study, "time-ordered", 3, "age")  # age stands for time
    raw = np.genfromtxt(site.directory.root / "ward.csv", delimiter=",", skip_header=1)
    ages = np.sort(raw[:, 0])
    assert trained == sorted(trained)
    for n, fold in zip(trained, found.folds, strict=True):
        assert ages[n - 1] < ages[n]  # who shares a time is on one side
        assert fold.n > 0
    assert found.scored == 120 - trained[0]


def test_leave_one_out_scores_each_patient_once(tmp_path: Path, study: Study) -> None:
    site = make_site(tmp_path / "small", "a", SigningKey.generate().public, patients=24)
    found = crossed(site, study, "leave-one-out")
    assert (found.scored, found.folds, found.together.n) == (24, (), 24)


def test_a_column_that_the_study_does_not_read_may_order_patients(
    site: Site, tmp_path: Path
) -> None:
    text = STUDY.replace('features = ["age", "sex", "marker"]', 'features = ["sex", "marker"]')
    text = text.split("[fairness]")[0] + text[text.index("[sites]") :]
    (tmp_path / "schema.toml").write_text(SCHEMA)
    (tmp_path / "study.toml").write_text(text + FULL)
    found = crossed(site, load_study(tmp_path / "study.toml"), "time-ordered", 2, "age")
    assert len(found.folds) == 2


@pytest.mark.parametrize(
    ("kind", "folds", "time", "error", "says"),
    [
        ("stratified", 500, "", DataError, "patients have the rarer outcome"),
        ("stratified", 1, "", UsageError, "--folds 1: two or more"),
        ("stratified", 5, "age", UsageError, "--time-column and --kind time-ordered go together"),
        ("time-ordered", 5, "", UsageError, "--time-column and --kind time-ordered go together"),
        ("time-ordered", 5, "admitted", DataError, 'has no column "admitted"'),
        ("time-ordered", 2, "sex", UsageError, '"sex" is no number column'),
        ("time-ordered", 100, "age", DataError, "share a time"),
    ],
)
def test_what_cannot_be_split_so_is_refused_with_what_to_change(
    site: Site, study: Study, kind: str, folds: int, time: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        crossed(site, study, kind, folds, time)


def test_the_command_prints_folds_and_sends_nothing(
    site: Site, study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(list(site.log.events()))
    arguments = ("site", "crossvalidate", study.name, "--folds", "2", *where(site))
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert "120 of 120 patients scored" in out
    code, out, _ = run(capsys, *arguments, "--json")
    assert len(json.loads(out)["folds"]) == 2
    assert len(list(site.log.events())) == before
