"""An exported model on patients whom nobody trained on: by the command, and by the loader alone."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.torch import save_file

from cohortium.client.predicted import cells
from cohortium.common.cli import main
from cohortium.common.document import parse
from cohortium.common.models.building import study_module
from cohortium.common.study import Study
from cohortium.common.table import Table
from cohortium.common.using import loader
from cohortium.common.using.checked import checked_onnx
from cohortium.common.using.described import described, written

DATA = Path(
    os.environ.get("COHORTIUM_TEST_DATA", str(Path(__file__).parents[2] / "../shared/data"))
)
needs_data = pytest.mark.skipif(
    not (DATA / "dna").is_dir(),
    reason="public data are not here; COHORTIUM_TEST_DATA names the directory above dna/",
)
ROWS = 60  # of each file


def study_of(
    columns: dict[str, dict[str, Any]], label: str, model: dict[str, Any], **changes: Any
) -> Study:
    kind = "regression" if columns[label]["kind"] == "number" else "multiclass"
    values = {
        "name": "exported",
        "purpose": {"text": "to test predictions", "duo": "GRU", "legal_basis": "public data"},
        "data": {"dataset": "ward", "features": [name for name in columns if name != label]},
        "data_model": {
            "name": "ward",
            "table": {"patient_key": "patient"} if "gene" in columns else {},
            "columns": columns,
        },
        "task": {"kind": kind, "label": label},
        "model": model,
        "split": {"test_fraction": 0.3},
        "training": {"rounds": 1, "batches": "shuffle", "batch_size": 2, "learning_rate": 0.1},
        "privacy": {"mechanism": "none"},
        "sites": {"names": ["a", "b"], "min_sites": 1},
        **changes,
    }
    return parse(values, Study, "study.toml")


def splice() -> Study:
    columns: dict[str, dict[str, Any]] = {
        "sequence": {"kind": "sequence", "alphabet": "dna", "length": 60},
        "junction": {"kind": "category", "codes": ["n", "ei", "ie"]},
    }
    model = {"name": "cnn1d", "channels": [8], "kernel": 5, "hidden": [8]}
    return study_of(columns, "junction", model)


def molecules() -> Study:
    columns: dict[str, dict[str, Any]] = {
        "smiles": {"kind": "molecule", "atoms": 64, "bonds": 72},
        "solubility": {"kind": "number", "low": -15.0, "high": 5.0},
    }
    return study_of(columns, "solubility", {"name": "gnn", "width": 8, "layers": 2})


def omics() -> Study:
    """Two blocks, one of which the test patients lack."""
    with (DATA / "breast_tcga/train.csv").open(encoding="utf-8") as file:
        header = next(csv.reader(file))
    columns: dict[str, dict[str, Any]] = {
        name: {
            "kind": "numbers",
            "prefix": f"{prefix}:",
            "names": [h.split(":", 1)[1] for h in header if h.startswith(f"{prefix}:")],
            "low": -20.0,
            "high": 30.0,
        }
        for name, prefix in (("gene", "mrna"), ("protein", "protein"))
    }
    columns["subtype"] = {"kind": "category", "codes": ["Basal", "Her2", "LumA"]}
    return study_of(columns, "subtype", {"name": "fusion"})


CASES = {
    "dna/splice_junctions.csv": splice,
    "molecules/delaney-processed.csv": molecules,
    "breast_tcga/test.csv": omics,
}


def export(study: Study, out: Path) -> None:
    """As the coordinator does, of a model that nobody trained."""
    module = study_module(study).eval()
    out.mkdir()
    save_file(dict(module.named_parameters()), out / "model.safetensors")
    (out / "study.json").write_bytes(written(described(study, None)))
    graph = checked_onnx(study, module, None)
    assert graph is not None
    (out / "model.onnx").write_bytes(graph)
    (out / "load_model.py").write_text(Path(loader.__file__).read_text())


def predict(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["predict", *map(str, words)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def numbers(lines: list[list[str]], first: int) -> NDArray[np.float64]:
    return np.array([[float(cell) for cell in line[first:]] for line in lines[1:]])


@needs_data
@pytest.mark.parametrize(
    "file",
    [
        "breast_tcga/test.csv",
        pytest.param("dna/splice_junctions.csv", marks=pytest.mark.slow),
        pytest.param("molecules/delaney-processed.csv", marks=pytest.mark.slow),
    ],
)
def test_the_command_and_the_loader_alone_predict_the_same(file: str, tmp_path: Path) -> None:
    study, model = CASES[file](), tmp_path / "model"
    lines = (DATA / file).read_text(encoding="utf-8").splitlines()[: ROWS + 1]
    table, out = tmp_path / "patients.csv", tmp_path / "out.csv"
    table.write_text("\n".join(lines) + "\n")
    export(study, model)
    assert predict(model, "--table", table, "--out", out) == 0
    ours = list(csv.reader(out.read_text().splitlines()))
    alone = [sys.executable, "-c", ALONE, str(model / "load_model.py"), str(table)]
    ran = subprocess.run(alone, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    theirs = list(csv.reader(ran.stdout.splitlines()))
    assert ours[0] == theirs[0] == [ours[0][0], *described(study, None).outputs]
    assert [line[0] for line in ours] == [line[0] for line in theirs]
    assert len(ours) == len(theirs) == ROWS + 1
    np.testing.assert_allclose(numbers(ours, 1), numbers(theirs, 1), rtol=1e-4, atol=2e-5)
    assert np.ptp(numbers(ours, 1), axis=0).max() > 1e-4  # they do depend on the patient
    if "gene" in study.data.features:
        assert ours[0][0] == "patient"
        assert ours[1][0] == lines[1].split(",")[0]


# What runs load_model.py as a person without Cohortium would: importing it is an error.
ALONE = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("cohortium", "torch"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def ward(**preprocessing: Any) -> Study:
    columns: dict[str, dict[str, Any]] = {
        "age": {"kind": "number", "low": 0.0, "high": 100.0},
        "stage": {"kind": "category", "codes": ["1", "2", "3"]},
        "days": {"kind": "number", "low": 0.0, "high": 400.0},
    }
    return study_of(columns, "days", {"name": "linear"}, preprocessing=preprocessing)


def test_a_row_that_training_would_not_have_used_has_no_prediction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(ward(missing="exclude"), tmp_path / "model")
    table, out = tmp_path / "new.csv", tmp_path / "out.csv"
    table.write_text("stage,age\n1,50\n2,?\n")
    assert predict(tmp_path / "model", "--table", table, "--out", out) == 0
    assert "1 lack an input" in capsys.readouterr().out
    _, first, second = list(csv.reader(out.read_text().splitlines()))
    assert (float(first[1]) > -1e6, second[1]) == (True, "")
    rows = [{"stage": "1", "age": "50"}, {"stage": "2", "age": "?"}]
    found = loader.Model(tmp_path / "model").predict(rows)
    np.testing.assert_allclose(found[0, 0], float(first[1]), rtol=1e-5)
    assert np.isnan(found[1, 0])
    assert predict(tmp_path / "model", "--table", table, "--out", out) == 2  # there already


def test_what_cannot_be_predicted_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, table, out = tmp_path / "model", tmp_path / "new.csv", tmp_path / "out.csv"
    table.write_text("stage,age\n1,50\n")
    words = (model, "--table", table, "--out", out)
    export(ward(site_intercept=True), model)

    def refused(*more: str) -> str:
        assert predict(*words, *more) != 0
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert not list(tmp_path.glob("*out.csv*"))
        return said

    assert "give --site, one of a, b" in refused()
    assert "give --site" in refused("--site", "c")
    table.write_text("stage,age\n1,Kowalska1953\n")
    assert "Kowalska" not in refused("--site", "a")
    table.write_text("stage,age\n1,50\n")
    (model / "model.safetensors").write_bytes(b"cut off")
    assert "is damaged" in refused("--site", "a")
    other = ward()
    save_file(dict(study_module(other).named_parameters()), model / "model.safetensors")
    assert "is another model" in refused("--site", "a")
    (model / "study.json").write_text("{}")
    assert "exported by another version" in refused("--site", "a")
    (model / "study.json").unlink()
    assert "no such file" in refused()


def test_states_and_contacts_are_written_as_a_schema_would_read_them() -> None:
    along = {"kind": "sequence", "alphabet": "protein", "length": 4}
    columns: dict[str, dict[str, Any]] = {
        "chain": along,
        "fold": {**along, "alphabet": "HEC"},
        "touch": {"kind": "pairs", "length": 4},
        "days": {"kind": "number", "low": 0.0, "high": 9.0},
    }
    base = {"data": {"dataset": "ward", "features": ["chain"]}}
    labelling = {"kind": "labelling", "label": "fold", "of": "chain"}
    contacts = {"kind": "contacts", "label": "touch", "of": "chain", "apart": 2}
    table = Table({}, {}, np.arange(2), {}, {"chain": np.array(["ACD", ""])})
    states = study_of(columns, "days", {"name": "lstm"}, task=labelling, **base)
    none = np.zeros((2, 0), np.float32)
    likely = np.zeros((2, 4, 3))
    likely[0, :, 1] = likely[0, 1, 2] = 0.4
    likely[0, 1, 1] = 0.3
    assert list(cells(described(states, None), table, none, likely)) == [["ECE"], [""]]
    touching = study_of(columns, "days", {"name": "transformer"}, task=contacts, **base)
    maps = np.zeros((2, 4, 4))
    maps[0, 0, 2] = maps[0, 0, 1] = maps[0, 1, 3] = 0.9  # near by, and beyond the end
    assert list(cells(described(touching, None), table, none, maps.reshape(2, 16))) == [
        ["1-3"],
        [""],
    ]
    assert next(cells(described(touching, None), table, none, np.zeros((2, 16)))) == ["-"]
