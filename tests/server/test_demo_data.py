"""The demonstration's data: every patient used once, every file loadable, every study winnable."""

import builtins
import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cohortium.client import local_round
from cohortium.client.cohort import Cohort, prepare
from cohortium.client.config import Policy
from cohortium.client.data.table import check_table, read_table
from cohortium.common import arrays
from cohortium.common.errors import CohortiumError, UsageError
from cohortium.common.metrics.summary import summarise
from cohortium.common.models.building import build_seeded
from cohortium.common.schema import NumberColumn, load_schema
from cohortium.common.study import Study, load_study
from cohortium.server.aggregation.optimizer import ServerState, final_model, step
from cohortium.server.demo.data import (
    DIABETES_COLUMNS,
    DemoData,
    Hospital,
    deal,
    write_diabetes,
    write_heart,
)

REAL_DATA = Path(
    os.environ.get("COHORTIUM_TEST_DATA", str(Path(__file__).parents[2] / "../shared/data"))
)
needs_heart = pytest.mark.skipif(
    not (REAL_DATA / "heart").is_dir(),
    reason="the UCI heart files are not here; COHORTIUM_TEST_DATA names the directory above heart/",
)


FIRST_ROWS = {
    "northgate": "northgate-001 36 2 22 90 160 99.6 50 3 3.9512 82 138",
    "riverside": "riverside-001 59 2 32.1 101 157 93.2 38 4 4.8598 87 151",
    "st-anne": "st-anne-001 24 1 25.3 84 198 131.4 40 5 4.8903 89 206",
    "harbour": "harbour-001 34 2 24.7 118 254 184.2 39 7 5.037 81 171",
}


def cohorts(data: DemoData, study: Study) -> dict[str, Cohort]:
    return {
        site: prepare(read_table(path, study.data_model, study.columns_read), study, site)
        for site, path in data.csv.items()
    }


def federated(study: Study, patients: Mapping[str, Cohort]) -> np.ndarray[Any, Any]:
    """The study's whole training, in this process and without a coordinator."""
    state = ServerState.start(arrays.flatten(build_seeded(study.model, study.layout, 1, seed=0)))
    weights = {site: local_round.weight(study, cohort) for site, cohort in patients.items()}
    for number in range(1, study.training.rounds + 1):
        deltas = [
            weights[site] * local_round.train(study, cohort, state.model, number, site, "cpu").delta
            for site, cohort in patients.items()
        ]
        mean = np.sum(deltas, axis=0) / np.float32(sum(weights.values()))
        state = step(state, mean, study.strategy, number, study.training.rounds)
    return final_model(state)


def accuracy_and_majority(data: DemoData, study: Study) -> tuple[float, float]:
    """Weighted over the sites; the accuracy is the mean of three trainings, as noise is random."""
    patients = cohorts(data, study)
    models = [federated(study, patients) for _ in range(3)]
    summaries = [
        summarise(
            {
                site: local_round.evaluate(study, patients[site], model, 0).leaves
                for site in patients
            }
        )
        for model in models
    ]
    accuracies = [summary.accuracy.weighted or 0.0 for summary in summaries]
    return sum(accuracies) / 3, summaries[0].majority.weighted or 1.0


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


@pytest.fixture
def diabetes(tmp_path: Path) -> DemoData:
    pytest.importorskip("sklearn")
    return write_diabetes(tmp_path / "diabetes")


@pytest.fixture
def heart(tmp_path: Path) -> DemoData:
    return write_heart(REAL_DATA / "heart", tmp_path / "heart")


def test_every_diabetes_patient_is_at_exactly_one_hospital(diabetes: DemoData) -> None:
    from sklearn.datasets import load_diabetes

    found = load_diabetes(scaled=False)
    original = sorted(
        (*inputs, outcome)
        for inputs, outcome in zip(found.data.tolist(), found.target.tolist(), strict=True)
    )
    dealt = [rows(path) for path in diabetes.csv.values()]
    assert [len(table) for table in dealt] == [177, 124, 88, 53]
    values = sorted(tuple(float(cell) for cell in row[1:]) for table in dealt for row in table)
    assert values == original
    assert len({row[0] for table in dealt for row in table}) == 442


def test_the_split_is_the_same_on_every_machine(diabetes: DemoData) -> None:
    first = {site: rows(path)[0] for site, path in diabetes.csv.items()}
    assert {site: " ".join(row) for site, row in first.items()} == FIRST_ROWS


def test_the_hospitals_differ_as_hospitals_do(diabetes: DemoData) -> None:
    age, pressure = (1 + DIABETES_COLUMNS.index(name) for name in ("age", "blood_pressure"))
    mean = {
        (site, place): np.mean([float(row[place]) for row in rows(path)])
        for site, path in diabetes.csv.items()
        for place in (age, pressure)
    }
    assert mean["riverside", age] > mean["st-anne", age] + 10
    assert mean["harbour", pressure] > mean["northgate", pressure] + 8


def test_dealing_takes_each_row_once_and_leaves_the_rest_to_the_last() -> None:
    table: Sequence[Sequence[float]] = [[float(number)] for number in range(50)]
    hospitals = (
        Hospital("high", 10, lambda row: 1e9 if row[0] >= 40 else 1e-9),
        Hospital("rest", None, lambda row: 1.0),
    )
    assert deal(table, hospitals) == {"high": [*range(40, 50)], "rest": [*range(40)]}


def test_no_diabetes_patient_is_outside_the_schema(diabetes: DemoData) -> None:
    schema = load_schema(diabetes.schema)
    for path in diabetes.csv.values():
        summary = check_table(path, schema)
        assert summary.problems == ()
        assert set(summary.missing.values()) == {0}


@needs_heart
def test_no_row_of_the_four_real_hospitals_is_outside_the_schema(heart: DemoData) -> None:
    schema = load_schema(heart.schema)
    summaries = {site: check_table(path, schema) for site, path in heart.csv.items()}
    assert {site: summary.rows for site, summary in summaries.items()} == {
        "cleveland": 303,
        "hungarian": 294,
        "switzerland": 123,
        "va": 200,
    }
    assert all(summary.problems == () for summary in summaries.values())
    assert summaries["switzerland"].missing["chol"] == 123  # all of them "0": not measured
    assert summaries["cleveland"].missing["chol"] == 0


@pytest.mark.parametrize("kind", ["diabetes", pytest.param("heart", marks=needs_heart)])
def test_a_site_with_its_default_policy_has_enough_patients_and_budget(
    kind: str, request: pytest.FixtureRequest
) -> None:
    data: DemoData = request.getfixturevalue(kind)
    study = load_study(data.study)
    policy = Policy()
    assert study.privacy.epsilon is not None
    assert study.privacy.epsilon <= policy.max_epsilon_per_study
    assert study.training.rounds <= policy.max_rounds
    assert study.sites.names == data.sites
    for cohort in cohorts(data, study).values():
        assert cohort.patients >= policy.minimum_patients
        for labels in (cohort.labels, cohort.test_labels):
            assert 0 < labels.mean() < 1


@pytest.mark.parametrize("kind", ["diabetes", pytest.param("heart", marks=needs_heart)])
def test_inputs_are_scaled_by_public_values_near_zero(
    kind: str, request: pytest.FixtureRequest
) -> None:
    data: DemoData = request.getfixturevalue(kind)
    study = load_study(data.study)
    for name in study.data.features:
        column = study.data_model.columns[name]
        assert not isinstance(column, NumberColumn) or column.centre is not None
    pooled = np.concatenate([cohort.features for cohort in cohorts(data, study).values()])
    assert np.abs(pooled.mean(axis=0)).max() < 1.0


def test_the_private_diabetes_model_clearly_beats_the_majority_class(diabetes: DemoData) -> None:
    accuracy, majority = accuracy_and_majority(diabetes, load_study(diabetes.study))
    assert accuracy > majority + 0.08


@needs_heart
def test_the_private_heart_model_clearly_beats_the_majority_class(heart: DemoData) -> None:
    accuracy, majority = accuracy_and_majority(heart, load_study(heart.study))
    assert accuracy > majority + 0.03


def test_missing_heart_files_are_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"processed\.cleveland\.data: no such file; give the"):
        write_heart(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_scikit_learn_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UsageError, match=r"cohortium\[demo\]"):
        write_diabetes(tmp_path)


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    (tmp_path / "file").touch()
    with pytest.raises(CohortiumError, match="data cannot be written"):
        write_diabetes(tmp_path / "file")
