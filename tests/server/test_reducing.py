"""`preprocessing.reduce`: a projection of pooled patients that nobody pooled."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD
from tests.any_study import federation_of, run, write_documents
from tests.federation import Federation

from cohortium.client.cohort import load_table
from cohortium.common.errors import DocumentError
from cohortium.common.preprocessing.encode import reduction_sums
from cohortium.common.preprocessing.reducing import reduce
from cohortium.common.preprocessing.split import train_mask
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.privacy.plan import planned_at, planned_reduction
from cohortium.common.study import Study
from cohortium.server.progress import describe

GENES = 12
SITES = ("a", "b", "c")

SCHEMA = f"""
name = "genes"

[columns.gene]
kind = "numbers"
names = [{", ".join(f'"g{i}"' for i in range(GENES))}]
prefix = "gene:"
low = -5
high = 5

[columns.ill]
kind = "flag"
"""

STUDY = """
name = "genes"

[purpose]
text = "Tell ill from well patients by their genes."
duo = "HMB"
legal_basis = "nobody's data"

[data]
schema = "schema.toml"
dataset = "genes"
features = ["gene"]

[task]
kind = "binary"
label = "ill"
positive_codes = ["1"]

[model]
name = "logistic"

[preprocessing.reduce]
block = "gene"
method = "{method}"
components = 3
{price}

[split]
test_fraction = 0.3

[training]
rounds = 2
{training}

[sites]
names = ["a", "b", "c"]
min_sites = 2
"""

PLAIN = """
batches = "shuffle"
batch_size = 16
local_steps = 10
learning_rate = 0.2

[privacy]
mechanism = "none"
"""

PRIVATE = """
batches = "full"

[strategy]
learning_rate = 1.0

[privacy]
mechanism = "gaussian"
epsilon = 2.0
delta = 1e-5
clip_norm = 1.0
"""


def write_table(path: Path, seed: int, patients: int = 80) -> Path:
    """Genes 1 and 4 differ between the ill and the others; gene 7 varies most."""
    rng = np.random.default_rng(seed)
    ill = rng.integers(0, 2, patients)
    genes = rng.normal(0, 0.3, (patients, GENES))
    genes[:, 1] += 1.5 * ill
    genes[:, 4] -= 1.5 * ill
    genes[:, 7] = rng.normal(0, 1.4, patients)
    head = ",".join([*(f"gene:g{i}" for i in range(GENES)), "ill"])
    rows = [",".join([*(f"{v:.3f}" for v in g), str(i)]) for g, i in zip(genes, ill, strict=True)]
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def made(root: Path, method: str, training: str, price: str = "") -> tuple[Study, Federation]:
    study = write_documents(
        root, SCHEMA, STUDY.format(method=method, training=training, price=price)
    )
    tables = {name: write_table(root / f"{name}.csv", seed) for seed, name in enumerate(SITES)}
    return study, federation_of(root, study, tables)


@pytest.fixture
def pooled(tmp_path: Path) -> Iterator[tuple[Study, Federation, np.ndarray]]:
    """A completed study that reduced by `pca`, and all its training patients' scaled genes."""
    study, federation = made(tmp_path, "pca", PLAIN)
    run(study, federation)
    rows = [scaled(study, federation, name) for name in SITES]
    yield study, federation, np.vstack(rows)
    federation.close()


def scaled(study: Study, federation: Federation, name: str) -> np.ndarray:
    dataset = federation.sites[name].directory.load_dataset("genes")
    table = load_table(study, dataset, name)
    return np.clip(table.wide["gene"] / 2.0, -2.5, 2.5)[train_mask(table, study, name)]


def kept(study: Study, federation: Federation) -> Statistics:
    found = federation.store.statistics(study.digest)
    assert found is not None
    return found


def test_principal_directions_are_those_of_the_pooled_rows(
    pooled: tuple[Study, Federation, np.ndarray],
) -> None:
    study, federation, rows = pooled
    projection = kept(study, federation).projection
    assert projection is not None
    oracle = TruncatedSVD(3, algorithm="arpack").fit(rows).components_
    ours = np.array(projection.rows)
    np.testing.assert_allclose(np.abs((ours * oracle).sum(axis=1)), 1.0, atol=1e-5)
    assert study.layout.inputs == 1 + 3


def test_the_genes_that_tell_the_ill_apart_are_selected(tmp_path: Path) -> None:
    study, federation = made(tmp_path, "select", PLAIN)
    run(study, federation)
    projection = kept(study, federation).projection
    assert projection is not None
    assert {1, 4} < set(projection.columns)
    federation.close()


def test_a_random_projection_asks_nobody_and_keeps_lengths(tmp_path: Path) -> None:
    study, federation = made(tmp_path, "random", PLAIN)
    run(study, federation)
    assert federation.store.statistics(study.digest) is None
    assert not any(b'"measure"' in request[:500] for _, request, _ in federation.transport.wire)
    assert study.preprocessing.reduce is not None
    many = study.preprocessing.reduce.model_copy(update={"components": 2000})
    rows = np.random.default_rng(0).normal(size=(5, 3000))
    after = reduce(rows, many, None, seed=1)
    before = np.linalg.norm(rows, axis=1) * np.sqrt(2000 / 3000)
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), before, rtol=0.1)
    federation.close()


@pytest.mark.parametrize("method", ["pca", "select"])
def test_private_sums_are_noised_paid_for_and_bounded(tmp_path: Path, method: str) -> None:
    study, federation = made(tmp_path, method, PRIVATE, "epsilon = 1.0")
    run(study, federation)
    for name in SITES:
        entries = federation.sites[name].ledger(study).entries()
        assert [e.mechanism.purpose for e in entries] == ["measurement", "training", "training"]
        assert entries[0].mechanism == planned_reduction(study)
        federation.sites[name].log.verify()
    planned = planned_at(study, "a")
    assert [mechanism.purpose for mechanism in planned] == ["training", "measurement"]
    federation.close()


def test_one_patient_changes_the_sums_by_at_most_one(tmp_path: Path) -> None:
    for method in ("pca", "select"):
        root = tmp_path / method
        study, federation = made(root, method, PRIVATE, "epsilon = 1.0")
        dataset = federation.sites["a"].directory.load_dataset("genes")
        table = load_table(study, dataset, "a")
        whole = reduction_sums(table, study, "a")
        trains = np.flatnonzero(train_mask(table, study, "a"))[:10]
        for row in trains:
            others = np.ones(table.rows, bool)
            others[row] = False
            # without a key a patient is a row, so the split of the others must not move
            left = table.select(others)
            changed = reduction_sums(left, study, "a")
            assert np.linalg.norm(whole - changed) <= 1 + 1e-9
        federation.close()


@pytest.mark.parametrize(
    ("method", "training", "price", "said"),
    [
        ("pca", PRIVATE, "", "needs sums of patients"),
        ("random", PRIVATE, "epsilon = 1.0", "costs nothing"),
        ("pca", PLAIN, "epsilon = 1.0", "has none"),
    ],
)
def test_a_price_is_named_exactly_where_there_is_one(
    tmp_path: Path, method: str, training: str, price: str, said: str
) -> None:
    with pytest.raises(DocumentError, match=said):
        made(tmp_path, method, training, price)


def test_validate_tells_the_whole_price(tmp_path: Path) -> None:
    study, federation = made(tmp_path, "select", PRIVATE, "epsilon = 1.0")
    document, text = describe(study)
    assert "sums for the reduction cost epsilon 1 more" in text
    assert 2.0 < document["privacy"]["epsilon_in_all"] < 3.0
    federation.close()
