"""Synthetic patients: from a private study of several sites to a table that the schema allows."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tests.any_study import federation_of, run, write_documents
from tests.federation import Federation

from cohortium.client.data.table import read_table
from cohortium.common import arrays
from cohortium.common.errors import DocumentError, UsageError
from cohortium.common.models.building import released_module
from cohortium.common.preprocessing.decode import Chance, decode
from cohortium.common.preprocessing.encode import encode_inputs
from cohortium.common.study import Study
from cohortium.common.using import loader
from cohortium.common.using.checked import checked_onnx
from cohortium.common.using.described import described, written
from cohortium.common.wide_columns import NumbersColumn
from cohortium.server.model_file import final_vector
from cohortium.server.synthetic import synthesise

SCHEMA = """
name = "ward"

[columns.age]
kind = "number"
low = 18
high = 100

[columns.stage]
kind = "category"
codes = ["i", "ii", "iii"]

[columns.ill]
kind = "flag"

[columns.gene]
kind = "numbers"
names = ["a", "b"]
prefix = "gene:"
low = -5
high = 5
"""

STUDY = """
name = "made-up"

[purpose]
text = "Synthetic patients to try programs on."
duo = "HMB"
legal_basis = "nobody's data"

[data]
schema = "schema.toml"
dataset = "ward"
features = ["age", "stage", "ill", "gene"]

[task]
kind = "generation"

[model]
name = "vae"
hidden = [16]
latent = 4
beta = 0.08

[split]
test_fraction = 0.2

[training]
rounds = 12
batches = "shuffle"
batch_size = 32
local_steps = 30
learning_rate = 0.01
optimiser = "adam"

[privacy]
mechanism = "none"

[sites]
names = ["a", "b"]
min_sites = 2
"""

HEADER = ["age", "stage", "ill", "gene:a", "gene:b"]


def write_table(path: Path, seed: int, patients: int = 300) -> Path:
    """The old are ill more often and at a later stage; gene b follows gene a."""
    rng = np.random.default_rng(seed)
    age = rng.integers(20, 95, patients)
    ill = (rng.uniform(size=patients) < (age - 20) / 75).astype(int)
    later = np.minimum(2, (age - 18) // 35 + ill)
    stage = np.array(["i", "ii", "iii"])[later]
    gene = rng.normal(0, 1, patients).clip(-4, 4)
    other = (gene + rng.normal(0, 0.2, patients)).clip(-5, 5)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        both = zip(gene.round(3), other.round(3), strict=True)
        rows = zip(age, stage, ill, both, strict=True)
        writer.writerows((*row, *genes) for *row, genes in rows)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Federation, Path]:
    root = tmp_path_factory.mktemp("synthetic")
    study = write_documents(root, SCHEMA, STUDY)
    tables = {name: write_table(root / f"{name}.csv", seed) for seed, name in enumerate("ab")}
    federation = federation_of(root, study, tables)
    run(study, federation)
    return study, federation, root


def test_rows_obey_the_schema_and_know_what_goes_with_what(
    made: tuple[Study, Federation, Path], tmp_path: Path
) -> None:
    study, federation, _ = made
    out = tmp_path / "synthetic.csv"
    row = federation.store.study(study.name)
    about = json.loads(synthesise(row, federation.store, 2000, 7, out).read_text())
    assert (about["rows"], about["epsilon"], about["protected"]) == (2000, None, False)
    table = read_table(out, study.data_model, study.columns_read)
    assert table.rows == 2000
    genes = table.wide["gene"]
    assert np.isfinite(genes).mean() > 0.95  # nobody lacks the block
    genes = genes[np.isfinite(genes[:, 0])]
    assert np.corrcoef(genes[:, 0], genes[:, 1])[0, 1] > 0.75
    assert 0.8 < genes[:, 0].std() < 1.2  # of patients it is 1
    ill = table.codes["ill"] == 1
    assert 0.2 < ill.mean() < 0.8
    assert table.numbers["age"][ill].mean() > table.numbers["age"][~ill].mean() + 4


def test_the_loader_of_the_exported_model_draws_rows_like_the_coordinators(
    made: tuple[Study, Federation, Path], tmp_path: Path
) -> None:
    study, federation, _ = made
    row, module = federation.store.study(study.name), released_module(study)
    arrays.load_into(module, final_vector(row, federation.store))
    graph = checked_onnx(study, module, None)
    assert graph is not None
    (tmp_path / "model.onnx").write_bytes(graph)
    (tmp_path / "study.json").write_bytes(written(described(study, None)))
    theirs = loader.Model(tmp_path).draw(2000, 7)
    synthesise(row, federation.store, 2000, 7, tmp_path / "ours.csv")
    with (tmp_path / "ours.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert list(theirs) == list(lines[0]) == HEADER
    for name, codes in (("stage", ("i", "ii", "iii")), ("ill", ("0", "1"))):
        for code in codes:
            ours = sum(line[name] == code for line in lines) / 2000
            assert theirs[name].count(code) / 2000 == pytest.approx(ours, abs=0.05)
    for name in ("age", "gene:a", "gene:b"):
        here = np.array([float(line[name] or "nan") for line in lines])
        there = np.array([float(cell or "nan") for cell in theirs[name]])
        assert np.nanmean(there) == pytest.approx(np.nanmean(here), abs=0.15 * np.nanstd(here))
        assert np.nanstd(there) == pytest.approx(np.nanstd(here), rel=0.1)


def test_the_same_seed_gives_the_same_rows_and_no_file_is_overwritten(
    made: tuple[Study, Federation, Path], tmp_path: Path
) -> None:
    study, federation, _ = made
    row, store = federation.store.study(study.name), federation.store
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        synthesise(row, store, 50, seed, tmp_path / f"{name}.csv")
    one, again, two = ((tmp_path / f"{n}.csv").read_text() for n in ("one", "again", "two"))
    assert one == again != two
    with pytest.raises(UsageError, match="not overwritten"):
        synthesise(row, store, 50, 1, tmp_path / "one.csv")


def test_decoding_undoes_encoding(made: tuple[Study, Federation, Path], tmp_path: Path) -> None:
    study, _, root = made
    table = read_table(root / "a.csv", study.data_model, study.columns_read)
    cells = decode(encode_inputs(table, study), study)
    assert list(cells) == HEADER
    with (root / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert cells["stage"] == [row["stage"] for row in rows]
    assert cells["ill"] == [row["ill"] for row in rows]
    for name in ("age", "gene:a"):
        ours = [float(cell) for cell in cells[name]]
        np.testing.assert_allclose(ours, [float(row[name]) for row in rows], atol=0.02)


def test_a_gap_of_a_column_in_front_of_a_block_is_its_own(tmp_path: Path) -> None:
    text = STUDY.replace("[split]", '[preprocessing]\nmissing_indicators = ["age"]\n\n[split]')
    study = write_documents(tmp_path, SCHEMA, text)
    path = tmp_path / "gaps.csv"
    path.write_text("age,stage,ill,gene:a,gene:b\n50,i,1,1,1\n,ii,0,-1,-1\n")
    table = read_table(path, study.data_model, study.columns_read)
    cells = decode(encode_inputs(table, study), study)
    assert [cell == "" for cell in cells["age"]] == [False, True]


def test_of_means_codes_are_drawn_as_often_as_they_say_and_numbers_about_them(
    made: tuple[Study, Federation, Path],
) -> None:
    study, _, _ = made
    # age; stage ii and iii; ill; gene: there in 3 of 4, a, b
    means = np.array([[0.0, -0.3, 0.1, 0.5, 0.75, 0.0, 1.0]], np.float32).repeat(4000, axis=0)
    assert means.shape[1] == study.layout.inputs
    cells = decode(means, study, Chance(0.1, np.random.default_rng(0)))
    stages = [cells["stage"].count(code) / 4000 for code in ("i", "ii", "iii")]
    assert stages == pytest.approx([0.2, 0.2, 0.6], abs=0.03)
    assert set(cells["ill"]) == {"1"}
    there = np.array([cell != "" for cell in cells["gene:a"]])
    assert there.mean() == pytest.approx(0.75, abs=0.03)
    column = study.data_model.columns["gene"]
    assert isinstance(column, NumbersColumn)
    centre, spread = column.scale
    ours = np.array([float(cell) for cell in cells["gene:b"] if cell])
    assert ours.mean() == pytest.approx(centre + spread, abs=0.02 * spread)
    assert ours.std() == pytest.approx(0.1 * spread, rel=0.1)
    assert set(decode(means, study)["stage"]) == {"iii"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "vae"', 'name = "autoencoder"', "makes none"),
        ("[split]", '[preprocessing]\nscaling = "none"\n\n[split]', "turned into patients"),
    ],
)
def test_a_study_that_can_make_nobody_is_refused(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    with pytest.raises(DocumentError, match=said):
        write_documents(tmp_path, SCHEMA, STUDY.replace(old, new).replace("beta = 0.08", ""))
