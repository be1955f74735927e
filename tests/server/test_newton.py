"""Newton's method over sites: after a few rounds, the fit of one table with all their rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from lifelines.utils import concordance_index
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from tests.federation import Federation, approve, coordinate, make_any_site, write_toml

from cohortium.client import policy
from cohortium.client.cohort import Cohort, load_table, prepare
from cohortium.client.config import DatasetConfig, Policy
from cohortium.client.review import sheet
from cohortium.common.document import parse
from cohortium.common.errors import DocumentError, RefusedError
from cohortium.common.identity import SigningKey
from cohortium.common.metrics.tallies import SurvivalTally
from cohortium.common.newton import join, split
from cohortium.common.study import Study
from cohortium.common.training import Strategy
from cohortium.server.aggregation import newton
from cohortium.server.aggregation.optimizer import ServerState, step
from cohortium.server.config import CoordinatorConfig
from cohortium.server.coordinator import run_study
from cohortium.server.outcome import Evidence, publish

POLICY = {
    "purposes": '["HMB"]',
    "allow_unprotected": "true",
    "allow_exact_counts": "true",
    "minimum_cell": "0",
}
SIZES = {"a": 150, "b": 90, "c": 240}
COLUMNS: dict[str, dict[str, Any]] = {
    "age": {"kind": "number", "low": 0.0, "high": 100.0, "centre": 50.0, "spread": 20.0},
    "marker": {"kind": "number", "low": 0.0, "high": 10.0, "centre": 5.0, "spread": 2.5},
    "sex": {"kind": "flag"},
    "ill": {"kind": "flag"},
    "sugar": {"kind": "number", "low": 0.0, "high": 200.0, "centre": 100.0, "spread": 20.0},
    "days": {"kind": "number", "low": 0.0, "high": 400.0},
    "dead": {"kind": "flag"},
}
SURVIVAL = {"kind": "survival", "time": "days", "event": "dead", "horizons": [50.0, 150.0]}
COX = {**SURVIVAL, "likelihood": "cox"}
TASKS: dict[str, dict[str, Any]] = {
    "cox": COX,
    "logistic": {"kind": "binary", "label": "ill", "positive_codes": ["1"]},
    "linear": {"kind": "regression", "label": "sugar"},
}


def made(fit: str, rounds: int = 7, **changes: Any) -> Study:
    values = {
        "name": "newton",
        "purpose": {"text": "Fit what one table would.", "duo": "HMB", "legal_basis": "made up"},
        "data": {"dataset": "ward", "features": ["age", "marker", "sex"]},
        "data_model": {"name": "ward", "columns": COLUMNS},
        "task": TASKS[fit],
        "model": {"name": fit},
        "split": {"test_fraction": 0.2},
        "training": {"rounds": rounds, "batches": "full"},
        "strategy": {"name": "newton"},
        "privacy": {"mechanism": "none"},
        "evaluation": {"every": 100},
        "sites": {"names": list(SIZES), "min_sites": 2},
    }
    return parse({**values, **changes}, Study, "study.toml")


def write_table(path: Path, seed: int, n: int) -> Path:
    """Whole days, so that many events share one; each site with a baseline of its own."""
    rng = np.random.default_rng(seed)
    age, marker, sex = rng.uniform(10, 90, n), rng.uniform(0, 10, n), rng.integers(0, 2, n)
    x = (age - 50) / 20 - (marker - 5) / 5 + 0.5 * sex
    dies, leaves = rng.exponential((60 + 40 * seed) * np.exp(-x)), rng.uniform(5, 300, n)
    columns = {
        "age": age.round(1),
        "marker": marker.round(2),
        "sex": sex,
        "ill": (x + rng.logistic(0, 1, n) > 0).astype(int),
        "sugar": np.clip(100 + 15 * x + rng.normal(0, 9, n), 0, 200).round(1),
        "days": np.ceil(np.minimum(dies, leaves)).clip(1, 400).astype(int),
        "dead": (dies <= leaves).astype(int),
    }
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def federation(root: Path, study: Study) -> Federation:
    key, sites = SigningKey.generate(), {}
    schema = write_toml(root / "schema.toml", study.data_model)
    for seed, (name, size) in enumerate(SIZES.items(), start=1):
        table = write_table(root / f"{name}.csv", seed, size)
        dataset = DatasetConfig(path=table, schema_file=schema, epsilon_cap=1.0, delta_cap=1e-5)
        sites[name] = make_any_site(root / name, name, key.public, {"ward": dataset}, POLICY)
        approve(sites[name], study)
    return coordinate(root, key, sites)


def cohorts(here: Federation, study: Study) -> dict[str, Cohort]:
    return {
        name: prepare(load_table(study, site.directory.load_dataset("ward"), name), study, name)
        for name, site in here.sites.items()
    }


def pooled(model: str, parts: dict[str, Cohort]) -> NDArray[np.float64]:
    """What another program fits to all training rows: weights, then the intercept."""
    x = np.concatenate([part.features for part in parts.values()]).astype(np.float64)
    y = np.concatenate([part.labels for part in parts.values()]).astype(np.float64)
    if model == "cox":
        site = np.repeat(np.arange(len(parts)), [len(part.labels) for part in parts.values()])
        frame = pd.DataFrame(np.column_stack([x, y, site]))
        frame.columns = pd.Index([*"xyz", "days", "dead", "site"])
        fitted = CoxPHFitter().fit(
            frame, "days", "dead", strata=["site"], fit_options={"precision": 1e-12}
        )
        return np.asarray(fitted.params_, np.float64)
    if model == "logistic":
        one = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12).fit(x, y)
        return np.append(one.coef_[0], one.intercept_)
    fitted, *_ = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)
    return np.asarray(fitted, np.float64)


@pytest.mark.parametrize("model", TASKS)
@pytest.mark.parametrize("weighting", ["bands", "exact"])
def test_the_model_is_that_of_all_sites_rows_in_one_table(
    tmp_path: Path, model: str, weighting: str
) -> None:
    study = made(model, strategy={"name": "newton", "weighting": weighting})
    here = federation(tmp_path, study)
    found = run_study(study, here.desk(study))
    expected = pooled(model, cohorts(here, study))
    assert found == pytest.approx(expected, abs=1e-6)
    assert np.abs(expected[:3]).min() > 0.05
    here.close()


def test_a_hazard_ratio_is_ranked_at_each_site_and_claims_no_risk(tmp_path: Path) -> None:
    study = made("cox")
    here = federation(tmp_path, study)
    model = run_study(study, here.desk(study))
    last = here.store.rounds(study.digest)[-1]
    assert last.summary is not None
    for name, part in cohorts(here, study).items():
        tally = last.evaluations[name].overall
        assert isinstance(tally, SurvivalTally)
        days, dead = part.test_labels.T
        risk = part.test_features @ model
        if tally.concordant is not None and tally.pairs:
            expected = concordance_index(days, -risk, dead)
            assert tally.concordant / tally.pairs == pytest.approx(expected, abs=1e-3)
    assert last.summary.headline["concordance"].sites >= 1
    row = here.store.study(study.name)
    evidence = Evidence(CoordinatorConfig(name="consortium", host="127.0.0.1"), "TLSv1.3", "ab")
    publish(row, here.store, here.log, evidence, tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "a hazard ratio alone gives no risk by a time" in (
        (tmp_path / "report" / "report.json").read_text()
    )
    assert "Concordance" in page
    here.close()


def test_a_network_learns_cox_s_likelihood_by_gradients_alone(tmp_path: Path) -> None:
    study = made(
        "cox",
        rounds=30,
        model={"name": "mlp", "hidden": [8], "activation": "tanh"},
        strategy={"name": "fedadam", "learning_rate": 0.05},
    )
    here = federation(tmp_path, study)
    run_study(study, here.desk(study))
    summary = here.store.rounds(study.digest)[-1].summary
    assert summary is not None
    assert (summary.headline["concordance"].unweighted or 0) > 0.65
    here.close()


# ------------------------------------------------------------------ the step


def test_halves_of_a_matrix_go_there_and_back() -> None:
    square = np.arange(16.0).reshape(4, 4)
    square = square + square.T
    gradient, information = split(join(np.arange(4.0), square), 4)
    assert gradient.tolist() == [0, 1, 2, 3]
    assert information.tolist() == square.tolist()


def test_what_no_patient_says_anything_about_stays_as_it_is() -> None:
    """A column that is always 0, and one that is the sum of two others."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 2)) * [1.0, 1e4]
    x = np.column_stack([x, np.zeros(50), x.sum(axis=1)])
    information = split(join(np.zeros(4), x.T @ x), 4)[1]
    y = x[:, :2] @ [0.5, 2e-4]
    found = newton.solve(information, x.T @ y)
    assert found[2] == 0
    assert x @ found == pytest.approx(y, abs=1e-3)


def test_a_step_that_went_too_far_is_taken_back_by_half_until_it_did_not() -> None:
    """log cosh w from w = 1.5: whole Newton steps from there go ever further away."""
    state, strategy = ServerState.start(np.array([1.5], np.float32)), Strategy(name="newton")
    whole, passed = 1.5, []
    for number in range(1, 13):
        whole -= np.sinh(min(whole, 300)) * np.cosh(min(whole, 300)) if abs(whole) < 300 else 0
        w = state.model.astype(np.float64)
        told = join(np.tanh(w), np.array([1 / np.cosh(w) ** 2]))
        state = step(state, told, strategy, number, 12)
        passed.append(abs(float(state.model[0])))
    assert abs(whole) > 100
    assert passed[-1] < 1e-6


# ------------------------------------------------------------------ what is refused


GAUSSIAN = {"mechanism": "gaussian", "epsilon": 3.0, "delta": 1e-5, "clip_norm": 1.0}
SHUFFLE = {"rounds": 1, "batches": "shuffle", "batch_size": 8, "learning_rate": 0.1}


@pytest.mark.parametrize(
    ("model", "changes", "said"),
    [
        ("cox", {"privacy": GAUSSIAN, "strategy": {}}, 'use likelihood = "discrete"'),
        ("cox", {"training": SHUFFLE, "strategy": {}}, "other risk sets"),
        ("cox", {"strategy": {"name": "qfedavg", "q": 1.0}}, "qfedavg"),
        ("logistic", {"privacy": GAUSSIAN}, "not bounded by clipping"),
        ("logistic", {"training": SHUFFLE}, 'needs training.batches = "full"'),
        ("logistic", {"model": {"name": "mlp", "hidden": [4]}}, "fits cox, logistic"),
        (
            "logistic",
            {"strategy": {"name": "newton", "weighting": "equal"}},
            "every patient counts",
        ),
        ("linear", {"strategy": {"name": "newton", "weight_decay": 0.1}}, "every row as it is"),
        ("linear", {"strategy": {"name": "newton", "average_last": 0.5}}, "every row as it is"),
    ],
)
def test_what_cannot_be_fitted_so_is_refused_with_the_reason(
    model: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(DocumentError, match=said):
        made(model, **changes)


def test_a_site_says_yes_to_an_information_matrix_knowing_what_it_tells() -> None:
    study = made("cox")
    said = sheet(study, None)
    assert "information matrix" in said
    assert "WITHOUT PRIVACY" in said
    assert max(map(len, said.splitlines())) < 110
    open_to_all = Policy(purposes=("HMB",), allow_unprotected=True, allow_exact_counts=True)
    policy.check(study, open_to_all)
    for key in ("allow_unprotected", "allow_exact_counts"):
        with pytest.raises(RefusedError) as caught:
            policy.check(study, open_to_all.model_copy(update={key: False}))
        assert caught.value.rule == f"policy.{key}"
