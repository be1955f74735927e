"""`examples/survival` over TLS, against lifelines on the rows of both sites in one table."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from lifelines.utils import concordance_index
from numpy.typing import NDArray
from safetensors.torch import load_file
from tests.e2e.deployment import Running, assert_nothing_runs

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/survival"
DATA = Path(os.environ.get("COHORTIUM_TEST_DATA", str(ROOT / "../shared/data"))).resolve()
SITES = ("rotterdam", "germany")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (DATA / "survival").is_dir(),
        reason="the tables are not here; COHORTIUM_TEST_DATA names the directory above survival/",
    ),
]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("survival") / "tables"
    prepare = (sys.executable, ROOT / "examples/prepare.py", "survival")
    subprocess.run([*prepare, "--data", DATA, "--out", out], check=True, timeout=60)
    return out


def rows(tables: Path) -> pd.DataFrame:
    """Everybody, with inputs as the schema's public centres and spreads have them.

    What is further from the centre than 2.5 spreads counts as 2.5, as in every study.
    """
    found = pd.concat([pd.read_csv(tables / f"{name}.csv").assign(site=name) for name in SITES])
    return pd.DataFrame(
        {
            "age": ((found["age"] - 55) / 12).clip(-2.5, 2.5),
            "meno": found["meno"],
            "middle": (found["size"] == "20-50").astype(int),
            "large": (found["size"] == ">50").astype(int),
            "two": (found["grade"] == 2).astype(int),
            "three": (found["grade"] == 3).astype(int),
            "hormon": found["hormon"],
            "nodes": (found["log_nodes"] - 1).clip(-2.5, 2.5),
            "pgr": ((found["log_pgr"] - 3.5) / 2).clip(-2.5, 2.5),
            "er": ((found["log_er"] - 3.5) / 2).clip(-2.5, 2.5),
            "days": found["days"],
            "relapse": found["relapse"],
            "site": found["site"],
            "split": found["split"],
        }
    ).reset_index(drop=True)


def demonstrate(place: Path, study: str, tables: Path) -> dict[str, Any]:
    arguments = ("--study", str(EXAMPLE / study), "--tables", str(tables))
    demo = Running(place, "demo", "--workdir", str(place / "demo"), *arguments)
    try:
        assert demo.wait(400) == 0, demo.stderr
    finally:
        demo.kill_group()
    assert_nothing_runs(place)
    (document,) = demo.lines
    assert document["state"] == "completed"
    return document


def measured(document: dict[str, Any], measure: str, horizon: float | None = None) -> Any:
    report = Path(document["report"])
    folder = report if report.is_dir() else report.parent
    found = json.loads((folder / "report.json").read_text())["performance"]
    (one,) = (m for m in found if (m["measure"], m["horizon"]) == (measure, horizon))
    return one


def held_out(everybody: pd.DataFrame, risk: NDArray[np.float64]) -> dict[str, float]:
    """Harrell's C of each site's test patients, by lifelines."""
    found = {}
    for name in SITES:
        here = (everybody["site"] == name) & (everybody["split"] == "test")
        days, relapse = everybody["days"][here], everybody["relapse"][here]
        found[name] = float(concordance_index(days, -risk[here.to_numpy()], relapse))
    return found


def test_the_coefficients_are_those_of_lifelines_on_the_rows_of_both_sites(
    tmp_path: Path, tables: Path
) -> None:
    everybody = rows(tables)
    trained = everybody[everybody["split"] == "train"].drop(columns="split")
    assert trained["site"].value_counts().to_dict() == {"rotterdam": 2240, "germany": 522}
    fitted = CoxPHFitter().fit(
        trained, "days", "relapse", strata=["site"], fit_options={"precision": 1e-12}
    )
    expected = fitted.params_.to_numpy()
    document = demonstrate(tmp_path, "study.toml", tables)
    (weights,) = load_file(document["model"]).values()
    found = weights.double().numpy().reshape(-1)
    assert found == pytest.approx(expected, abs=1e-6)
    inputs = everybody.iloc[:, :10].to_numpy(np.float64)
    ranked = measured(document, "concordance")["sites"]
    for name, value in held_out(everybody, inputs @ expected).items():
        assert ranked[name]["value"] == pytest.approx(value, abs=1e-3)
    brier = measured(document, "brier", 1825.0)["sites"]["rotterdam"]
    assert brier["value"] is None
    assert "no risk by a time" in brier["reason"]


def test_the_private_form_ranks_nearly_as_well_and_says_what_it_cost(
    tmp_path: Path, tables: Path
) -> None:
    document = demonstrate(tmp_path, "study-private.toml", tables)
    for site in document["sites"]:
        assert 2.9 < site["epsilon_spent"] <= 3.0
    pooled = measured(document, "concordance")["pooled"]
    assert pooled["value"] > 0.64  # lifelines without privacy: 0.685
    assert pooled["low"] < pooled["value"] < pooled["high"]
