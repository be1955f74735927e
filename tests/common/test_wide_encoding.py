"""From wide columns to a row of numbers, by hand; and the loader's way to the same row."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cohortium.common.document import parse
from cohortium.common.errors import DataError, DocumentError
from cohortium.common.layout import ATOM, BOND
from cohortium.common.preprocessing import labels
from cohortium.common.preprocessing.encode import encode, encode_inputs, feature_names
from cohortium.common.preprocessing.mock import mock_table
from cohortium.common.preprocessing.recipe import BlockInput, recipe
from cohortium.common.preprocessing.reducing import Projection
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.preprocessing.wide.molecule import ELEMENTS, read_smiles
from cohortium.common.study import Study
from cohortium.common.table import Table
from cohortium.common.using.described import described, written
from cohortium.common.using.loader import Model
from cohortium.common.wide_columns import MoleculeColumn

ALL = ("age", "stage", "dna", "drug", "gene", "scan", "vital")
COLUMNS: dict[str, dict[str, Any]] = {
    "age": {"kind": "number", "low": 0.0, "high": 100.0, "not_measured": [99.0]},
    "stage": {"kind": "category", "codes": ["1", "2", "3"]},
    "ill": {"kind": "flag"},
    "dna": {"kind": "sequence", "alphabet": "dna", "length": 5},
    "states": {"kind": "sequence", "alphabet": "HEC", "length": 5},
    "touch": {"kind": "pairs", "length": 5},
    "drug": {"kind": "molecule", "atoms": 8, "bonds": 8},
    "gene": {"kind": "numbers", "names": ["a", "b"], "prefix": "g:", "low": 0.0, "high": 10.0},
    "scan": {"kind": "image", "height": 2, "width": 2},
    "vital": {
        "kind": "series",
        "channels": ["hr", "bp"],
        "length": 3,
        "until": 10.0,
        "low": [0.0, 0.0],
        "high": [200.0, 300.0],
    },
}
FUSION = {"name": "fusion"}


def study_of(*features: str, model: dict[str, Any] | None = None, **changes: Any) -> Study:
    values: dict[str, Any] = {
        "name": "wide",
        "purpose": {"text": "to test the encoding", "duo": "GRU", "legal_basis": "nobody's data"},
        "data": {"dataset": "ward", "features": list(features)},
        "data_model": {"name": "ward", "columns": COLUMNS},
        "task": {"kind": "binary", "label": "ill", "positive_codes": ["1"]},
        "model": model or FUSION,
        "split": {"test_fraction": 0.2},
        "training": {"rounds": 1, "batches": "shuffle", "batch_size": 2, "learning_rate": 0.1},
        "privacy": {"mechanism": "none"},
        "sites": {"names": ["a", "b"], "min_sites": 1},
    }
    return parse({**values, **changes}, Study, "study.toml")


def table_of(rows: int, **wide: Any) -> Table:
    return Table(
        numbers={},
        codes={"ill": (np.arange(rows) % 2).astype(np.int16)},
        patients=np.arange(rows),
        extra={},
        wide={name: np.array(values) for name, values in wide.items()},
    )


def test_letters_are_numbered_from_one_and_the_unknown_one_is_the_last() -> None:
    study = study_of("dna", model={"name": "cnn1d", "kernel": 3, "channels": [4]})
    made = encode_inputs(table_of(3, dna=["ACGTN", "T", ""]), study)
    assert made.tolist() == [[1, 1, 2, 3, 4, 5], [1, 4, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
    assert study.layout.blocks[0].levels == 6


def test_atoms_and_bonds_of_a_molecule_by_hand() -> None:
    """Acetate, C C(=O) [O-]: bonds single, double, single."""
    study = study_of("drug", model={"name": "gnn"})
    row = encode_inputs(table_of(2, drug=["CC(=O)[O-]", ""]), study)
    atoms = row[0, 1 : 1 + 8 * ATOM].reshape(8, ATOM)
    bonds = row[0, 1 + 8 * ATOM :].reshape(8, BOND)
    carbon, oxygen = 1 + ELEMENTS.index("C"), 1 + ELEMENTS.index("O")
    assert atoms[:4].tolist() == [
        [carbon, 1, 3, 3, 0, 0],
        [carbon, 3, 3, 0, 0, 0],
        [oxygen, 1, 3, 0, 0, 0],
        [oxygen, 1, 2, 0, 0, 0],
    ]
    assert bonds[:3].tolist() == [[0, 1, 1], [1, 2, 2], [1, 3, 1]]
    assert not atoms[4:].any()
    assert not bonds[3:].any()
    assert not row[1].any()


def test_a_fingerprint_is_rdkits() -> None:
    from rdkit import Chem
    from rdkit.Chem import AllChem

    study = study_of(
        "drug",
        model={"name": "logistic"},
        preprocessing={"molecules": "fingerprint", "fingerprint_bits": 64},
    )
    made = encode_inputs(table_of(1, drug=["c1ccccc1O"]), study)[0]
    molecule = Chem.MolFromSmiles("c1ccccc1O")
    old = AllChem.GetMorganFingerprintAsBitVect(molecule, 2, nBits=64)  # type: ignore[attr-defined]
    assert made[1:].tolist() == list(old)


def test_pixels_times_and_values_lie_between_minus_one_and_one() -> None:
    nan = np.nan
    study = study_of("scan", "vital")
    scan = np.array([[[[0, 255], [127.5, 51]]], [[[nan] * 2] * 2]], np.float32)
    vital = np.array([[[0, 100, nan], [5, nan, 300], [nan] * 3], [[nan] * 3] * 3], np.float32)
    made = encode_inputs(table_of(2, scan=scan, vital=vital), study)
    np.testing.assert_allclose(made[0, :5], [1, -1, 1, 0, -0.6], atol=1e-6)
    expected = [1, 0, 0, 0, 1, 0, 0.5, 0, 1, 0, 1, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(made[0, 5:], expected, atol=1e-6)
    assert not made[1].any()


def test_states_have_none_behind_the_end_and_must_fit_their_sequence() -> None:
    task = {"kind": "labelling", "label": "states", "of": "dna"}
    study = study_of("dna", task=task, model={"name": "lstm"})
    assert "dna" in study.columns_read
    table = table_of(4, dna=["ACG", "AC", "", "A"], states=["HCE", "EE", "H", ""])
    assert labels.known(table, study).tolist() == [True, True, False, False]
    found = labels.observed(table.select(np.array([0, 1])), study)
    assert found.tolist() == [[0, 2, 1, -1, -1], [1, 1, -1, -1, -1]]
    short = table_of(1, dna=["ACG"], states=["HC"])
    with pytest.raises(DataError, match='"dna"; rule: one state for each place'):
        labels.observed(short, study)


def test_contacts_are_asked_of_far_places_within_the_sequence() -> None:
    task = {"kind": "contacts", "label": "touch", "of": "dna", "apart": 2}
    study = study_of("dna", task=task, model={"name": "transformer"})
    table = table_of(3, dna=["ACGT", "ACG", "AC"], touch=["1-3 4-2", "-", ""])
    assert labels.known(table, study).tolist() == [True, True, False]
    found = labels.observed(table.select(np.array([0, 1])), study).reshape(2, 5, 5)
    assert found[0].tolist() == [
        [-1, -1, 1, 0, -1],
        [-1, -1, -1, 1, -1],
        [1, -1, -1, -1, -1],
        [0, 1, -1, -1, -1],
        [-1] * 5,
    ]
    assert (found[1] >= 0).sum() == 2
    outside = table_of(1, dna=["ACG"], touch=["1-4"])
    with pytest.raises(DataError, match="pairs of places of the sequence"):
        labels.observed(outside, study)


def test_an_outcome_along_a_sequence_that_is_not_read_is_refused() -> None:
    task = {"kind": "labelling", "label": "states", "of": "dna"}
    with pytest.raises(DocumentError, match=r"task\.of"):
        study_of("age", task=task, model={"name": "lstm"})
    with pytest.raises(DocumentError, match="which no model reads"):
        study_of("dna", "touch", model={"name": "lstm"})


def test_what_the_features_are_is_what_a_reconstruction_gives_back() -> None:
    study = study_of("gene", task={"kind": "reconstruction"}, model={"name": "autoencoder"})
    encoded = encode(mock_table(study, 12, np.random.default_rng(1)), study, "a")
    np.testing.assert_array_equal(encoded.features, encoded.labels)
    assert encoded.features.shape == (12, 3)


def test_made_up_rows_obey_the_schema_for_every_kind() -> None:
    study = study_of(*ALL)
    table = mock_table(study, 300, np.random.default_rng(2))
    assert not any(table.missing(name).any() for name in study.columns_read)
    column = study.data_model.columns["drug"]
    assert isinstance(column, MoleculeColumn)
    for text in table.wide["drug"].tolist():
        read_smiles(text, column)
    encoded = encode(table, study, "a")
    assert encoded.features.shape == (300, study.layout.inputs)
    assert len(feature_names(study)) == study.layout.inputs
    assert np.abs(encoded.features[:, study.layout.by_name["scan"].first :]).max() <= 1


ROWS: list[dict[str, Any]] = [
    {"age": "40", "stage": "2.0", "dna": "acgN", "drug": "CCO", "g:a": "3", "g:b": "",
     "vital": "0=100,;5=,300", "scan": np.array([[0, 9], [200, 255.0]])},
    {"age": "?", "stage": "", "dna": "", "drug": "", "g:a": "", "g:b": "NA", "vital": ""},
    {"age": "99", "stage": "1", "dna": "ACGTA", "drug": "c1ccccc1O", "g:a": "0", "g:b": "10",
     "vital": "1=0,0", "scan": np.full((2, 2), 7.0)},
]  # fmt: skip


def read(folder: Path, study: Study) -> Table:
    """The rows as an archive, by the site's reader."""
    from cohortium.client.data.table import read_table

    vital = np.full((3, 3, 3), np.nan)
    vital[0, :2] = [[0, 100, np.nan], [5, np.nan, 300]]
    vital[2, 0] = [1, 0, 0]
    scan = np.array([row.get("scan", np.full((2, 2), np.nan)) for row in ROWS])
    gene = np.array([[3, np.nan], [np.nan, np.nan], [0, 10]])
    text = {n: np.array([row[n] for row in ROWS]) for n in ("age", "stage", "dna", "drug")}
    np.savez(folder / "ward.npz", vital=vital, scan=scan, gene=gene, **text)  # type: ignore[arg-type]
    return read_table(folder / "ward.npz", study.data_model, study.data.features)


@pytest.mark.parametrize(
    "preprocessing",
    [
        {},
        {"missing_indicators": ["age", "stage"]},
        {"scaling": "none", "site_intercept": True},
        {"molecules": "fingerprint", "fingerprint_bits": 32},
        {"scaling": "federated-standard"},
        {"reduce": {"block": "gene", "method": "random", "components": 1}},
        {"reduce": {"block": "gene", "method": "pca", "components": 1}},
        {"reduce": {"block": "gene", "method": "select", "components": 1}},
    ],
    ids=str,
)
def test_the_loader_makes_the_same_inputs_from_the_exported_facts_alone(
    tmp_path: Path, preprocessing: dict[str, Any]
) -> None:
    study = study_of(*ALL, preprocessing=preprocessing)
    statistics = None
    if study.preprocessing.scaling == "federated-standard":
        statistics = Statistics(
            count=4, total=(10.0, 2.0, 1.0, 8.0, 12.0), squares=(300.0, 2.0, 1.0, 90.0, 80.0)
        )
    elif study.preprocessing.reduce and study.preprocessing.reduce.measured:
        found = Projection(rows=((0.6, 0.8),), columns=(1,))
        statistics = Statistics(count=0, total=(), squares=(), projection=found)
    (tmp_path / "study.json").write_bytes(written(described(study, statistics)))
    ours = encode_inputs(read(tmp_path, study), study, "b", statistics)
    theirs = Model(tmp_path).features(ROWS, "b")
    np.testing.assert_allclose(theirs, ours, atol=1e-6)
    widths = [one.inputs if isinstance(one, BlockInput) else 1 for one in recipe(study, statistics)]
    assert sum(widths) == study.layout.inputs


def test_what_is_exported_of_a_blinded_study_names_no_site_and_counts_nobody() -> None:
    study = study_of(
        "age",
        model={"name": "logistic"},
        evaluation={"blinded": True},
        preprocessing={"scaling": "federated-standard", "site_intercept": True},
        sites={"names": ["Aachen", "Basel"], "min_sites": 1, "evaluate_only": []},
    )
    statistics = Statistics(count=1234, total=(61700.0,), squares=(3208400.0,))
    found = described(study, statistics)
    text = written(found).decode()
    assert "Aachen" not in text
    assert "1234" not in text
    assert json.loads(text)["study"]["sites"]["names"] == ["site-1", "site-2"]
    assert found.statistics is not None
    np.testing.assert_allclose(found.statistics.mean, statistics.mean)
    np.testing.assert_allclose(found.statistics.deviation, statistics.deviation)


def test_the_self_tests_patients_are_reduced_like_any_others() -> None:
    from cohortium.client.selftest.synthetic import patients

    study = study_of(
        "gene",
        model={"name": "logistic"},
        preprocessing={
            "reduce": {"block": "gene", "method": "pca", "components": 1, "epsilon": 1.0}
        },
        privacy={"mechanism": "gaussian", "epsilon": 2.0, "delta": 1e-5, "clip_norm": 1.0},
        training={
            "rounds": 1,
            "batches": "poisson",
            "sample_rate": 0.1,
            "local_steps": 1,
            "learning_rate": 0.1,
        },
    )
    features, found = patients(study, 20, np.random.default_rng(1))
    assert features.shape == (20, 2)
    assert np.isfinite(features).all()
    assert set(found.tolist()) == {0.0, 1.0}
