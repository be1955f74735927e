"""Studies of every kind of outcome, from invitation to model, in one process: they learn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.federation import Federation, approve, coordinate, make_any_site, write_toml

from cohortium.client.config import DatasetConfig
from cohortium.common import arrays
from cohortium.common.document import parse
from cohortium.common.identity import SigningKey
from cohortium.common.layout import table_layout
from cohortium.common.models.building import build_seeded
from cohortium.common.predict import predictions
from cohortium.common.study import Study
from cohortium.server.coordinator import run_study

POLICY = {
    "purposes": '["HMB"]',
    "allow_unprotected": "true",
    "max_epsilon_per_study": "8.0",
    "minimum_cell": "0",
}
SITES = ("a", "b")
COLUMNS: dict[str, dict[str, Any]] = {
    "age": {"kind": "number", "low": 0.0, "high": 100.0, "centre": 50.0, "spread": 20.0},
    "marker": {"kind": "number", "low": 0.0, "high": 10.0, "centre": 5.0, "spread": 2.5},
    "stage": {"kind": "category", "codes": ["I", "II", "III"]},
    "pain": {"kind": "flag"},
    "fever": {"kind": "flag"},
    "sugar": {"kind": "number", "low": 0.0, "high": 200.0, "centre": 100.0, "spread": 20.0},
    "days": {"kind": "number", "low": 0.0, "high": 1000.0},
    "dead": {"kind": "flag"},
}
TASKS: dict[str, dict[str, Any]] = {
    "multiclass": {"kind": "multiclass", "label": "stage"},
    "multilabel": {"kind": "multilabel", "labels": ["pain", "fever"]},
    "regression": {"kind": "regression", "label": "sugar"},
    "survival": {
        "kind": "survival",
        "time": "days",
        "event": "dead",
        "horizons": [50.0, 100.0, 200.0, 400.0],
    },
}
PLAIN: dict[str, Any] = {
    "training": {
        "rounds": 3,
        "batches": "shuffle",
        "batch_size": 20,
        "local_steps": 30,
        "learning_rate": 0.3,
        "momentum": 0.5,
    },
    "privacy": {"mechanism": "none"},
}
GAUSSIAN = {"mechanism": "gaussian", "epsilon": 8.0, "delta": 1e-5, "clip_norm": 1.0}
FULL: dict[str, Any] = {
    "training": {"rounds": 12, "batches": "full"},
    "strategy": {"name": "fedavgm", "learning_rate": 1.0, "momentum": 0.7},
    "privacy": GAUSSIAN,
}
POISSON: dict[str, Any] = {
    "training": {
        "rounds": 3,
        "batches": "poisson",
        "sample_rate": 0.2,
        "local_steps": 10,
        "learning_rate": 0.5,
    },
    "privacy": GAUSSIAN,
}
HOW = {"plain": PLAIN, "full": FULL, "poisson": POISSON}


def patients(seed: int, n: int) -> dict[str, NDArray[Any]]:
    """Age and marker decide, with noise, everything else."""
    rng = np.random.default_rng(seed)
    age, marker = rng.uniform(10, 90, n), rng.uniform(0, 10, n)
    x, y = (age - 50) / 20, (marker - 5) / 2.5
    dies = rng.exponential(150 * np.exp(-1.2 * x))
    leaves = rng.uniform(20, 900, n)
    return {
        "age": age,
        "marker": marker,
        "stage": np.digitize(x + y + rng.normal(0, 0.4, n), [-1.0, 1.0]),
        "pain": (2 * x + rng.logistic(0, 0.5, n) > 0).astype(int),
        "fever": (-2 * y + rng.logistic(0, 0.5, n) > 0).astype(int),
        "sugar": np.clip(100 + 15 * x - 10 * y + rng.normal(0, 5, n), 0, 200),
        "days": np.minimum(dies, leaves),
        "dead": (dies <= leaves).astype(int),
    }


def write_table(path: Path, rows: dict[str, NDArray[Any]]) -> Path:
    stages = np.array(COLUMNS["stage"]["codes"])[rows["stage"]]
    columns = {**rows, "stage": stages}
    lines = [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join([",".join(columns), *lines]) + "\n")
    return path


def made(kind: str, how: str, **changes: Any) -> Study:
    values = {
        "name": "outcomes",
        "purpose": {"text": "Learn every kind of outcome.", "duo": "HMB", "legal_basis": "made up"},
        "data": {"dataset": "ward", "features": ["age", "marker"]},
        "data_model": {"name": "ward", "columns": COLUMNS},
        "task": TASKS[kind],
        "model": {"name": "linear" if kind == "regression" else "logistic"},
        "split": {"test_fraction": 0.2},
        "evaluation": {"every": 100},
        "sites": {"names": SITES, "min_sites": 2},
        **HOW[how],
    }
    return parse({**values, **changes}, Study, "study.toml")


def federation(root: Path, study: Study, sizes: dict[str, int]) -> Federation:
    """A site for each name, with so many patients, that has approved the study."""
    key = SigningKey.generate()
    schema = write_toml(root / "schema.toml", study.data_model)
    sites = {}
    for number, (name, size) in enumerate(sizes.items()):
        table = write_table(root / f"{name}.csv", patients(number, size))
        dataset = DatasetConfig(path=table, schema_file=schema, epsilon_cap=20.0, delta_cap=1e-5)
        sites[name] = make_any_site(root / name, name, key.public, {"ward": dataset}, POLICY)
        approve(sites[name], study)
    return coordinate(root, key, sites)


def predicted(study: Study, model: NDArray[np.float32], rows: dict[str, NDArray[Any]]) -> Any:
    """What the final model says of patients whom no site has seen."""
    module = build_seeded(study.model, table_layout(2), study.outputs, 0)
    arrays.load_into(module, model)
    inputs = np.column_stack([(rows["age"] - 50) / 20, (rows["marker"] - 5) / 2.5])
    with torch.no_grad():
        return predictions(study, module(torch.tensor(inputs, dtype=torch.float32)))


def quality(study: Study, model: NDArray[np.float32]) -> float:
    """Accuracy, the worse label's accuracy, R2, or the area under the curve at the 2nd horizon."""
    rows = patients(99, 2000)
    said = predicted(study, model, rows)
    if study.task.kind == "multiclass":
        return float((said.argmax(axis=1) == rows["stage"]).mean())
    if study.task.kind == "multilabel":
        truth = np.column_stack([rows["pain"], rows["fever"]])
        return float(((said > 0.5) == truth).mean(axis=0).min())
    if study.task.kind == "regression":
        return float(1 - np.mean((said - rows["sugar"]) ** 2) / rows["sugar"].var())
    risk, dead = 1 - said[:, 1], (rows["days"] <= 100) & (rows["dead"] == 1)
    alive = rows["days"] > 100
    return float((risk[dead][:, None] > risk[alive]).mean())


@pytest.mark.parametrize(
    ("kind", "how", "least"),
    [
        ("multiclass", "plain", 0.8),
        ("multiclass", "full", 0.7),
        ("multilabel", "plain", 0.85),
        ("multilabel", "full", 0.8),
        ("regression", "plain", 0.85),
        ("regression", "full", 0.7),
        ("survival", "plain", 0.78),
        ("survival", "full", 0.7),
        ("survival", "poisson", 0.7),
    ],
)
def test_a_federation_learns_every_kind_of_outcome_privately_and_not(
    tmp_path: Path, kind: str, how: str, least: float
) -> None:
    study = made(kind, how)
    here = federation(tmp_path, study, dict.fromkeys(SITES, 400))
    model = run_study(study, here.desk(study))
    records = here.store.rounds(study.digest)
    assert all(record.replied == SITES for record in records)
    assert quality(study, model) > least
    spent = [site.ledger(study).balance().epsilon_spent for site in here.sites.values()]
    assert all(7.9 < epsilon <= 8.0 if how != "plain" else epsilon == 0 for epsilon in spent)
    here.close()
