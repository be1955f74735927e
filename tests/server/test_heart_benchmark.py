"""The published benchmark through the whole federation in one process: every figure once."""

import os
from pathlib import Path
from statistics import fmean

import pytest
from benchmarks.federations import Tables, in_process
from benchmarks.heart import PUBLISHED, SEEDS
from benchmarks.heart_studies import POLICY_A, POLICY_B, study_a, study_b, tables

FOLDER = (
    Path(os.environ.get("COHORTIUM_TEST_DATA", str(Path(__file__).parents[2] / "../shared/data")))
    / "heart_flamby"
)
pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(),
    reason="the hospitals' files are not here; COHORTIUM_TEST_DATA names the directory above "
    "heart_flamby/",
)


@pytest.fixture
def data() -> Tables:
    return tables(FOLDER)


def test_published_fedavg_is_repeated_to_the_last_patient(data: Tables) -> None:
    found = in_process(study_a("fedavg", 42), data, POLICY_A)
    assert found.accuracy == pytest.approx(0.691492, abs=1e-6)
    assert found.majority == pytest.approx(0.7207, abs=5e-5)
    assert found.epsilon == 0


@pytest.mark.slow
def test_a_true_epsilon_of_one_still_beats_the_majority_class(data: Tables) -> None:
    found = [in_process(study_b(1.0), data, POLICY_B) for _ in range(3)]
    assert fmean(outcome.accuracy for outcome in found) >= 0.76  # one draw: .82, deviation .016
    assert all(0.999 < outcome.epsilon <= 1.0 for outcome in found)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "published"), PUBLISHED.items())
def test_a_strategy_is_not_the_published_one(strategy: str, published: float, data: Tables) -> None:
    found = [in_process(study_a(strategy, seed), data, POLICY_A).accuracy for seed in SEEDS]
    assert f"{fmean(found):.4f}" == f"{published:.4f}"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_noise_of_epsilon_one_costs_more_than_it_should(data: Tables) -> None:
    found = [in_process(study_b(1.0), data, POLICY_B) for _ in range(50)]
    assert fmean(outcome.accuracy for outcome in found) >= 0.80
    assert max(outcome.epsilon for outcome in found) <= 1.0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_epsilon_one_does_well_only_on_the_split_it_was_tuned_on(data: Tables) -> None:
    studies = [study_b(1.0, seed) for seed in range(20) for _ in range(5)]
    found = [in_process(study, data, POLICY_B).accuracy for study in studies]
    assert fmean(found) >= 0.79
