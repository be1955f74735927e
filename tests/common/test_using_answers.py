"""Exported models that say more than a few numbers: states, contacts, inputs back, rows of nobody.

For each kind ONNX Runtime agrees with the model, and the loader, which knows neither torch nor
Cohortium, writes what `cohortium predict` writes.
"""

import csv
import json
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.client.test_predict import ALONE, export, predict, study_of

from cohortium.client.data.table import read_table
from cohortium.common.models.adversarial import Adversarial
from cohortium.common.models.autoencoder import VariationalAutoencoder
from cohortium.common.models.building import study_module
from cohortium.common.preprocessing.decode import decode
from cohortium.common.preprocessing.encode import encode_inputs
from cohortium.common.study import Study
from cohortium.common.using import loader
from cohortium.common.using.answer import in_words
from cohortium.common.using.described import described
from cohortium.common.using.onnx_form import AGREEMENT, run_onnx

CHAINS = ["ACDEFGHIKLMN", "MKV", "", "wyacd", "AXA"]
WARD = ["50,1,1,1.5,-0.25", "?,2,0,-1,2", "99,3,0,,", "18,2,?,0,0"]
COLUMNS: dict[str, dict[str, Any]] = {
    "age": {"kind": "number", "low": 0.0, "high": 100.0, "unit": "years"},
    "stage": {"kind": "category", "codes": ["1", "2", "3"]},
    "ill": {"kind": "flag"},
    "rna": {"kind": "numbers", "names": ["a", "b"], "prefix": "gene:", "low": -5.0, "high": 5.0},
    "days": {"kind": "number", "low": 0.0, "high": 400.0},
}
HEADER = ["age", "stage", "ill", "gene:a", "gene:b"]


def chains(kind: str, model: dict[str, Any], **changes: Any) -> Study:
    along = {"kind": "sequence", "alphabet": "protein", "length": 12}
    columns: dict[str, dict[str, Any]] = {
        "chain": along,
        "fold": {**along, "alphabet": "HEC"},
        "touch": {"kind": "pairs", "length": 12},
        "days": {"kind": "number", "low": 0.0, "high": 9.0},
    }
    task = {"kind": kind, "label": "fold" if kind == "labelling" else "touch", "of": "chain"}
    data = {"dataset": "ward", "features": ["chain"]}
    apart = {"apart": 2} if kind == "contacts" else {}
    return study_of(columns, "days", model, task={**task, **apart}, data=data, **changes)


def ward(kind: str, name: str, **changes: Any) -> Study:
    model: dict[str, Any] = {"name": name, "hidden": [8], "latent": 3}
    training = {"rounds": 1, "batches": "shuffle", "batch_size": 2, "learning_rate": 0.1}
    if name == "gan":
        model |= {"generator_every": 2}
        training |= {"local_steps": 4}
    features = [n for n in COLUMNS if n != "days"]
    data = {"dataset": "ward", "features": features}
    given = {"task": {"kind": kind}, "data": data, "training": training, **changes}
    return study_of(COLUMNS, "days", model, **given)


def alone(model: Path, *words: str) -> list[list[str]]:
    """What load_model.py prints where neither torch nor Cohortium can be imported."""
    ran = subprocess.run(
        [sys.executable, "-c", ALONE, str(model / "load_model.py"), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return list(csv.reader(ran.stdout.splitlines()))


def both(study: Study, text: str, root: Path) -> list[list[str]]:
    """The command's lines, after those of the loader were found to be the same but for rounding."""
    table, out, model = root / "new.csv", root / "out.csv", root / "model"
    table.write_text(text)
    export(study, model)
    assert predict(model, "--table", table, "--out", out) == 0
    ours = list(csv.reader(out.read_text().splitlines()))
    theirs = alone(model, str(table))
    assert [len(line) for line in ours] == [len(line) for line in theirs]
    cells = zip(chain.from_iterable(ours), chain.from_iterable(theirs), strict=True)
    for our, their in cells:
        assert our == their or float(our) == pytest.approx(float(their), rel=1e-4, abs=1e-5)
    return ours


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("labelling", {"name": "cnn1d", "kernel": 3, "channels": [8]}),
        ("labelling", {"name": "gru"}),
        ("contacts", {"name": "cnn1d", "kernel": 3, "channels": [8]}),
        ("contacts", {"name": "transformer"}),
    ],
)
def test_states_and_contacts_of_the_loader_are_those_of_the_command(
    kind: str, model: dict[str, Any], tmp_path: Path
) -> None:
    study = chains(kind, model)
    lines = both(study, "\n".join(["chain", *(f'"{c}"' for c in CHAINS)]) + "\n", tmp_path)
    said = [line[1] for line in lines[1:]]
    assert said[2] == ""  # without a sequence
    if kind == "labelling":
        assert [len(text) for text in said] == [len(text) for text in CHAINS]
        assert set("".join(said)) <= set("HEC")
    else:
        assert said[0] != said[1]
    graph = (tmp_path / "model/model.onnx").read_bytes()
    found = read_table(tmp_path / "new.csv", study.data_model, study.data.features)
    features = encode_inputs(found, study)
    with torch.no_grad():
        logits = study_module(study).eval()(torch.from_numpy(features))
    shape = (len(CHAINS), 12, 3) if kind == "labelling" else (len(CHAINS), 144)
    ours = logits.reshape(shape).softmax(2) if kind == "labelling" else logits.sigmoid()
    np.testing.assert_allclose(run_onnx(graph, features), ours.numpy(), atol=AGREEMENT)


@pytest.mark.parametrize("name", ["autoencoder", "vae"])
@pytest.mark.parametrize("scaling", ["public-range", "none"])
def test_inputs_are_given_back_in_their_own_units_with_an_error(
    name: str, scaling: str, tmp_path: Path
) -> None:
    study = ward("reconstruction", name, preprocessing={"scaling": scaling})
    lines = both(study, "\n".join([",".join(HEADER), *WARD]) + "\n", tmp_path)
    assert lines[0] == ["row", *HEADER, "reconstruction_error"]
    table = read_table(tmp_path / "new.csv", study.data_model, study.data.features)
    features = encode_inputs(table, study)
    with torch.no_grad():
        found = study_module(study).eval()(torch.from_numpy(features)).numpy()[:, :7]
    error = ((found - features) ** 2).mean(axis=1)
    np.testing.assert_allclose([float(line[6]) for line in lines[1:]], error, rtol=1e-4)
    ages = found[:, 0] if scaling == "none" else 50 + 20 * found[:, 0]  # a fifth of the range is 20
    np.testing.assert_allclose([float(line[1]) for line in lines[1:]], ages, rtol=1e-4)
    genes = found[:, 6] if scaling == "none" else 2 * found[:, 6]
    np.testing.assert_allclose([float(line[5]) for line in lines[1:]], genes, rtol=1e-4)
    assert {line[2] for line in lines[1:]} <= {"1", "2", "3"}
    graph = (tmp_path / "model/model.onnx").read_bytes()
    np.testing.assert_allclose(run_onnx(graph, features), found, atol=AGREEMENT)


def test_inputs_given_back_exactly_are_the_patients_own_cells_without_error() -> None:
    study = ward("reconstruction", "autoencoder")
    found = described(study, None)
    columns = json.loads(study.data_model.model_dump_json())["columns"]
    # age 70; stage 3; ill; gene there, a 1, b -2; then a patient of stage 1 without the block
    rows = np.array([[1, -0.5, 0.5, 0.5, 1, 0.5, -1], [0, -0.5, -0.5, -0.5, 0, 0, 0]], np.float32)
    assert loader.given_back(found.recipe, columns, rows, rows) == [
        ["70", "3", "1", "1", "-2", "0"],
        ["50", "1", "0", "0", "0", "0"],
    ]
    (one, _) = loader.given_back(found.recipe, columns, rows, rows + np.float32(0.1))
    assert one == ["72", "3", "1", "1.2", "-1.8", "0.01"]


def test_an_input_and_a_column_of_one_name_are_not_taken_for_each_other() -> None:
    columns = {name: COLUMNS[name] for name in ("stage", "days")}
    columns["stage_2"] = COLUMNS["age"]
    image = {"kind": "image", "height": 1, "width": 2}
    data = {"dataset": "ward", "features": ["stage", "stage_2", "scan"]}
    study = study_of(
        {**columns, "scan": image},
        "days",
        {"name": "autoencoder"},
        task={"kind": "reconstruction"},
        data=data,
    )
    found = described(study, None)
    assert found.outputs == ("stage", "stage_2", "reconstruction_error")  # pixels have no column
    # stage 2; 70; the image is there, and has two pixels
    row = np.array([[0.5, -0.5, 1, 1, 0.2, 0.3]], np.float32)
    shown = json.loads(study.data_model.model_dump_json())["columns"]
    assert loader.given_back(found.recipe, shown, row, row) == [["2", "70", "0"]]


def test_a_column_that_a_table_lacks_leaves_the_line_empty_where_gaps_are_excluded(
    tmp_path: Path,
) -> None:
    study = chains("labelling", {"name": "rnn"}, preprocessing={"missing": "exclude"})
    lines = both(study, 'chain\n"MKV"\n"?"\n', tmp_path)
    assert len(lines[1][1]) == 3
    assert lines[2] == ["2", ""]


@pytest.mark.parametrize("name", ["vae", "gan"])
def test_of_a_generator_the_graph_makes_rows_from_codes(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, model = ward("generation", name), tmp_path / "model"
    export(study, model)
    module = study_module(study).eval()
    assert isinstance(module, VariationalAutoencoder | Adversarial)
    codes = np.random.default_rng(3).standard_normal((9, 3)).astype(np.float32)
    with torch.no_grad():
        ours = module.decode(torch.from_numpy(codes)).numpy()
    assert ours.shape == (9, study.layout.inputs)
    graph = (model / "model.onnx").read_bytes()
    np.testing.assert_allclose(run_onnx(graph, codes), ours, atol=AGREEMENT)
    assert np.ptp(ours, axis=0).max() > 1e-3
    assert "`codes` (n, 3), drawn from a standard normal" in in_words(study)

    lines = alone(model, "30", "5")
    assert lines == alone(model, "30", "5") != alone(model, "30", "6")
    assert (lines[0], len(lines)) == (HEADER, 31)
    (tmp_path / "made.csv").write_text("\n".join(map(",".join, lines)) + "\n")
    assert read_table(tmp_path / "made.csv", study.data_model, study.data.features).rows == 30
    table = tmp_path / "new.csv"
    table.write_text("\n".join([",".join(HEADER), *WARD]) + "\n")
    assert predict(model, "--table", table, "--out", tmp_path / "out.csv") == 2
    assert "load_model.py beside it draws such rows" in capsys.readouterr().err
    with pytest.raises(ValueError, match="makes rows of nobody"):
        loader.Model(model).cells([{"age": "50"}])


def test_rows_are_drawn_as_the_coordinator_decodes_them() -> None:
    """Without chance to the cell; with it codes come as often as means say, numbers about them."""
    study = ward("generation", "vae")
    recipe = described(study, None).recipe
    columns = json.loads(study.data_model.model_dump_json())["columns"]
    rows = np.random.default_rng(1).normal(0, 0.8, (200, 7)).astype(np.float32)
    found = loader.drawn(recipe, columns, rows, 0.0, np.random.default_rng(0))
    assert found == decode(rows, study)

    means = np.array([[0, -0.3, 0.1, 0.5, 0.75, 0, 1]], np.float32).repeat(4000, axis=0)
    many = loader.drawn(recipe, columns, means, 0.1, np.random.default_rng(0))
    shares = [many["stage"].count(code) / 4000 for code in "123"]
    assert shares == pytest.approx([0.2, 0.2, 0.6], abs=0.03)
    there = [cell != "" for cell in many["gene:a"]]
    assert np.mean(there) == pytest.approx(0.75, abs=0.03)
    assert there == [cell != "" for cell in many["gene:b"]]
    genes = np.array([float(cell) for cell in many["gene:b"] if cell])
    assert (genes.mean(), genes.std()) == pytest.approx((2.0, 0.2), abs=0.02)
