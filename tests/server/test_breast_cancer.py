"""Breast cancer from Rotterdam to Germany: survival learnt at one place, measured at another.

Royston & Altman 2013 (BMC Med Res Methodol 13:33) validate a model of recurrence-free survival
developed on Rotterdam's patients at those of the German Breast Cancer Study Group.
"""

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lifelines import KaplanMeierFitter
from lifelines.utils import concordance_index
from numpy.typing import NDArray
from tests.federation import Federation, approve, coordinate, make_any_site, write_toml

from cohortium.client.cohort import Cohort, load_table, prepare
from cohortium.client.config import DatasetConfig
from cohortium.common import arrays
from cohortium.common.document import parse
from cohortium.common.identity import SigningKey
from cohortium.common.models.building import build_seeded
from cohortium.common.predict import predictions
from cohortium.common.study import Study
from cohortium.common.task import SurvivalTask
from cohortium.server.config import CoordinatorConfig
from cohortium.server.coordinator import run_study
from cohortium.server.outcome import Evidence, publish

FOLDER = (
    Path(os.environ.get("COHORTIUM_TEST_DATA", str(Path(__file__).parents[2] / "../shared/data")))
    / "survival"
)
pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(),
    reason="the tables are not here; COHORTIUM_TEST_DATA names the directory above survival/",
)

POLICY = {"purposes": '["GRU"]', "allow_unprotected": "true", "max_epsilon_per_study": "8.0"}
DATASET = "breast-cancer"


def number(low: float, high: float, centre: float, spread: float) -> dict[str, Any]:
    return {"kind": "number", "low": low, "high": high, "centre": centre, "spread": spread}


COLUMNS: dict[str, dict[str, Any]] = {
    "age": number(18, 100, 55, 12),
    "meno": {"kind": "flag"},
    "size": {"kind": "category", "codes": ["<=20", "20-50", ">50"]},
    "grade": {"kind": "category", "codes": ["1", "2", "3"]},
    "nodes": number(0, 60, 3, 4),
    "pgr": number(0, 6000, 100, 150),
    "er": number(0, 6000, 100, 150),
    "hormon": {"kind": "flag"},
    "days": number(0, 10_000, 1500, 1000),
    "event": {"kind": "flag"},
}
SHARED = ("age", "meno", "grade", "nodes", "pgr", "er", "hormon")


def study(how: dict[str, Any]) -> Study:
    values = {
        "name": "recurrence",
        "purpose": {
            "text": "Predict recurrence or death after breast cancer.",
            "duo": "GRU",
            "legal_basis": "public data",
        },
        "data": {"dataset": DATASET, "features": [*SHARED, "size"]},
        "data_model": {"name": DATASET, "columns": COLUMNS},
        "task": {
            "kind": "survival",
            "time": "days",
            "event": "event",
            "horizons": [365.0, 730.0, 1095.0, 1460.0, 1825.0],
        },
        "model": {"name": "logistic"},
        "split": {"test_fraction": 0.2},
        "evaluation": {"every": 100},
        "sites": {
            "names": ["rotterdam", "gbsg"],
            "min_sites": 1,
            "evaluate_only": ["gbsg"],
        },
        **how,
    }
    return parse(values, Study, "study.toml")


def rotterdam(row: dict[str, str]) -> list[str]:
    """Recurrence-free survival: until recurrence or death, whichever is first."""
    recurred = row["recur"] == "1"
    days = row["rtime"] if recurred else row["dtime"]
    event = recurred or row["death"] == "1"
    return [*(row[key] for key in SHARED), row["size"], days, str(int(event))]


def gbsg(row: dict[str, str]) -> list[str]:
    mm = float(row["size"])
    size = "<=20" if mm <= 20 else "20-50" if mm <= 50 else ">50"
    return [*(row[key] for key in SHARED), size, row["rfstime"], row["status"]]


def write_table(folder: Path, name: str) -> Path:
    rewrite = {"rotterdam": rotterdam, "gbsg": gbsg}[name]
    with (FOLDER / f"{name}.csv").open() as file:
        rows = [rewrite(row) for row in csv.DictReader(file)]
    path = folder / f"{name}.csv"
    lines = [",".join(row) for row in [[*SHARED, "size", "days", "event"], *rows]]
    path.write_text("\n".join(lines) + "\n")
    return path


def survival_of(chosen: Study, model: NDArray[np.float32], cohort: Cohort) -> NDArray[np.float64]:
    """(patients, horizons) probability to stay without event until then."""
    module = build_seeded(chosen.model, chosen.layout, chosen.outputs, 0)
    arrays.load_into(module, model)
    with torch.no_grad():
        return predictions(chosen, module(torch.tensor(cohort.test_features)))


def concordance(survival: NDArray[np.float64], cohort: Cohort) -> float:
    """Harrell's C of the probability to stay without event to the last horizon, by lifelines."""
    days, event = cohort.test_labels.T
    return float(concordance_index(days, survival[:, -1], event))


PLAIN = {
    "training": {
        "rounds": 4,
        "batches": "shuffle",
        "batch_size": 64,
        "local_steps": 80,
        "learning_rate": 0.3,
        "momentum": 0.9,
    },
    "privacy": {"mechanism": "none"},
}
PRIVATE = {
    "training": {"rounds": 20, "batches": "full"},
    "strategy": {"name": "fedavgm", "learning_rate": 1.0, "momentum": 0.8},
    "privacy": {"mechanism": "gaussian", "epsilon": 3.0, "delta": 1e-5, "clip_norm": 1.0},
}


# Cox's model of the same inputs, fitted by lifelines to Rotterdam without privacy: 0.657.
@pytest.mark.parametrize(
    ("how", "least"), [(PLAIN, 0.66), (PRIVATE, 0.61)], ids=["plain", "private"]
)
def test_what_rotterdam_learns_ranks_the_patients_of_germany(
    tmp_path: Path, how: dict[str, Any], least: float
) -> None:
    chosen, key = study(how), SigningKey.generate()
    schema = write_toml(tmp_path / "schema.toml", chosen.data_model)
    sites = {}
    for name in chosen.sites.names:
        table = write_table(tmp_path, name)
        dataset = DatasetConfig(path=table, schema_file=schema, epsilon_cap=5.0, delta_cap=1e-5)
        sites[name] = make_any_site(tmp_path / name, name, key.public, {DATASET: dataset}, POLICY)
        approve(sites[name], chosen)
    federation = coordinate(tmp_path, key, sites)
    model = run_study(chosen, federation.desk(chosen))
    abroad = sites["gbsg"]
    dataset_here = abroad.directory.load_dataset(DATASET)
    cohort = prepare(load_table(chosen, dataset_here, "gbsg"), chosen, "gbsg")
    assert (len(cohort.labels), len(cohort.test_labels)) == (0, 686)
    assert cohort.test_labels[:, 1].sum() == 299
    survival = survival_of(chosen, model, cohort)
    assert concordance(survival, cohort) > least
    assert abroad.ledger(chosen).balance().epsilon_spent == 0
    assert federation.store.consents(chosen.digest)["gbsg"].patients == "500-999"
    validated_abroad(federation, chosen, tmp_path, cohort, survival)
    federation.close()


def validated_abroad(
    federation: Federation,
    chosen: Study,
    folder: Path,
    cohort: Cohort,
    survival: NDArray[np.float64],
) -> None:
    """The report has Germany's concordance, and its calibration at each horizon."""
    row = federation.store.study(chosen.name)
    evidence = Evidence(CoordinatorConfig(name="consortium", host="127.0.0.1"), "TLSv1.3", "ab")
    publish(row, federation.store, federation.log, evidence, folder / "report")
    found = json.loads((folder / "report" / "report.json").read_text())["performance"]
    (ranked,) = [one for one in found if one["measure"] == "concordance"]
    c = concordance(survival, cohort)
    assert ranked["sites"]["gbsg"]["value"] == pytest.approx(c, abs=6e-4)  # of 3 decimals
    days, event = cohort.test_labels.T
    watched = KaplanMeierFitter().fit(days, event)
    observed = {one["horizon"]: one for one in found if one["measure"] == "observed_risk"}
    expected = {one["horizon"]: one for one in found if one["measure"] == "observed_to_expected"}
    assert isinstance(chosen.task, SurvivalTask)
    for place, horizon in enumerate(chosen.task.horizons):
        risk, predicted = 1 - float(watched.predict(horizon)), 1 - survival[:, place].mean()
        assert observed[horizon]["sites"]["gbsg"]["value"] == pytest.approx(risk, abs=6e-4)
        ratio = expected[horizon]["sites"]["gbsg"]["value"]
        assert ratio == pytest.approx(risk / predicted, rel=2e-2)
