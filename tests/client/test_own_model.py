"""A site's own models are what their papers say, and as good as a site could do without us."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from tests.federation import FULL, PLAIN, write_study

from cohortium.client.cohort import Cohort
from cohortium.client.own_model import recipe, train_own, train_personal
from cohortium.client.recalibration import apply, recalibrate
from cohortium.client.scoring import scores
from cohortium.common.study import Study

BETA = np.array([1.5, -1.0, 0.5])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cohort(n: int, seed: int = 0, scale: float = 1.0) -> Cohort:
    """n patients to train on and 500 held out, of a logistic model."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n + 500, 3)).astype(np.float32)
    y = (rng.random(n + 500) < expit(x @ BETA)).astype(np.float32)
    x *= np.float32(scale)
    return Cohort(x[:n], y[:n], x[n:], y[n:], {}, nominal=n, band="")


@pytest.fixture
def private(tmp_path: Path) -> Study:
    return write_study(tmp_path, FULL)


def with_ditto(study: Study, pull: float) -> Study:
    return study.model_copy(
        update={"mitigation": study.mitigation.model_copy(update={"ditto": pull})}
    )


def model(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array(values, np.float32)


# ------------------------------------------------------------------ own


@pytest.mark.parametrize("n", [30, 60, 400])
def test_the_own_model_is_not_worse_than_what_a_site_would_fit_itself(
    private: Study, n: int
) -> None:
    patients = cohort(n)
    own, _ = train_own(private, patients.features, patients.labels)
    ours = roc_auc_score(patients.test_labels, scores(private, own, patients.test_features))
    oracle = LogisticRegression().fit(patients.features, patients.labels)
    theirs = roc_auc_score(patients.test_labels, oracle.predict_proba(patients.test_features)[:, 1])
    assert ours > theirs - (0.03 if n < 50 else 0.01)


def test_the_own_model_is_the_same_each_time(private: Study) -> None:
    patients = cohort(80)
    first, fit = train_own(private, patients.features, patients.labels)
    again, _ = train_own(private, patients.features.copy(), patients.labels.copy())
    assert again.tobytes() == first.tobytes()
    assert 1 <= fit.passes <= 100
    assert fit.learning_rate in (0.05, 0.0125)


def test_a_plain_study_trains_its_own_model_at_its_own_rate(tmp_path: Path) -> None:
    how = recipe(write_study(tmp_path, PLAIN), "cpu")
    assert (how.batch_size, how.optimiser.learning_rate, how.optimiser.momentum) == (16, 0.2, 0.0)


def test_inputs_that_nobody_scaled_only_slow_it_down(private: Study) -> None:
    patients = cohort(200, scale=100.0)
    own, fit = train_own(private, patients.features, patients.labels)
    said = scores(private, own, patients.test_features)
    assert roc_auc_score(patients.test_labels, said) > 0.8
    assert fit.learning_rate < 0.05


def test_inputs_beyond_all_bounds_are_an_error_that_says_what_to_do(private: Study) -> None:
    patients = replace(cohort(200), features=np.full((200, 3), 3e38, np.float32))
    own, fit = train_own(private, patients.features, patients.labels)
    assert fit.passes == 0
    assert np.isfinite(own).all()


@pytest.mark.parametrize("labels", [0.0, 1.0])
def test_a_site_with_few_patients_or_one_outcome_still_has_a_model(
    private: Study, labels: float
) -> None:
    patients = cohort(5)
    own, fit = train_own(private, patients.features, np.full(5, labels, np.float32))
    assert fit.passes == 20
    assert np.isfinite(own).all()
    assert (scores(private, own, patients.features).mean() > 0.5) == (labels == 1.0)


# ------------------------------------------------------------------ Ditto


def test_a_personal_step_is_that_of_algorithm_1(private: Study) -> None:
    """v - rate (mean gradient + lambda (v - w)), worked out with numpy: one batch is one step."""
    patients, pull = cohort(30), 0.5
    v, w = model(0.3, -0.2, 0.1, 0.05), model(1.0, 1.0, -1.0, 0.0)
    after = train_personal(with_ditto(private, pull), patients, v, w, 1, "cpu")
    x = np.column_stack([patients.features, np.ones(30)]).astype(np.float64)
    gradient = x.T @ (expit(x @ v) - patients.labels) / 30
    rate = 0.05 / (1 - 0.9)
    np.testing.assert_allclose(after, v - rate * (gradient + pull * (v - w)), rtol=1e-5)


def test_a_strong_pull_gives_the_federated_model_and_does_not_overshoot(private: Study) -> None:
    patients, w = cohort(200), model(1.0, 1.0, -1.0, 0.0)
    far = train_personal(with_ditto(private, 1000.0), patients, model(9, 9, 9, 9), w, 1, "cpu")
    np.testing.assert_allclose(far, w, atol=0.01)


def test_a_personal_model_that_diverges_stays_what_it_was(private: Study) -> None:
    wild = replace(cohort(30), features=np.full((30, 3), 3e38, np.float32))
    v = model(3e38, -3e38, 0.1, 0.0)  # infinity minus infinity is no number
    after = train_personal(with_ditto(private, 0.1), wild, v, v, 1, "cpu")
    assert after.tobytes() == v.tobytes()


# ------------------------------------------------------------------ recalibration


def test_recalibration_maximises_its_penalised_likelihood() -> None:
    rng = np.random.default_rng(1)
    p = rng.uniform(0.01, 0.99, 80)
    y = (rng.random(80) < p**2).astype(np.float32)
    fit = recalibrate(p, y)
    z = np.log(p / (1 - p))

    def loss(beta: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        eta = beta[0] + beta[1] * z
        ridge = (beta[0] ** 2 + (beta[1] - 1) ** 2) / 2
        return float((np.logaddexp(0, eta) - y * eta).sum() + ridge)

    oracle = minimize(loss, [0.0, 1.0], tol=1e-12).x
    assert (fit.intercept, fit.slope) == pytest.approx(tuple(oracle), abs=1e-4)


def test_with_many_patients_the_true_line_is_found_and_undone() -> None:
    rng = np.random.default_rng(2)
    truth = rng.uniform(0.02, 0.98, 20_000)
    y = (rng.random(20_000) < truth).astype(np.float32)
    shown = expit((np.log(truth / (1 - truth)) - 0.7) / 2)  # two times too timid, and too low
    fit = recalibrate(shown, y)
    assert (fit.intercept, fit.slope) == pytest.approx((0.7, 2.0), abs=0.1)
    np.testing.assert_allclose(apply(fit, shown), truth, atol=0.02)


@pytest.mark.parametrize(
    ("p", "y"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]),
        ([0.4, 0.5], [1, 1]),
        ([0.0, 1.0], [1, 0]),
        ([0.5], [0]),
    ],
)
def test_few_or_parted_patients_give_a_finite_line_near_none(p: list[float], y: list[int]) -> None:
    fit = recalibrate(np.array(p), np.array(y, np.float32))
    assert abs(fit.intercept) < 2
    assert abs(fit.slope - 1) < 2
    assert np.isfinite(apply(fit, np.array([0.0, 0.3, 1.0]))).all()
