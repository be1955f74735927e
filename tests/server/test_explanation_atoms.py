"""Sites tell which kinds of atoms a graph network goes by, and the report shows them."""

from pathlib import Path

import numpy as np
from tests.any_study import federation_of, run, write_documents

from cohortium.common.explaining.pooled import pooled
from cohortium.server.plausible_evaluation import check_evaluation
from cohortium.server.reports.explaining import explained_figures

SCHEMA = """
name = "chains"

[columns.smiles]
kind = "molecule"
atoms = 12
bonds = 12

[columns.basic]
kind = "flag"
"""

STUDY = """
name = "chains"

[purpose]
text = "Find which atoms make a chain basic."
duo = "GRU"
legal_basis = "nobody's data"

[data]
schema = "schema.toml"
dataset = "chains"
features = ["smiles"]

[task]
kind = "binary"
label = "basic"
positive_codes = ["1"]

[model]
name = "gnn"
width = 8
layers = 1
readout = "sum"
hidden = [8]

[split]
test_fraction = 0.4

[training]
rounds = 4
batches = "shuffle"
batch_size = 16
local_steps = 30
learning_rate = 0.01
optimiser = "adam"

[privacy]
mechanism = "none"

[sites]
names = ["a", "b"]
min_sites = 2
approval_deadline = 5.0

[explanation]
patients = 40
"""


def table(path: Path, seed: int) -> Path:
    """Chains of carbon that end in nitrogen, where they are basic, or in oxygen."""
    rng = np.random.default_rng(seed)
    lines = ["smiles,basic"]
    for _ in range(100):
        basic = int(rng.random() < 0.5)
        lines.append(f"{'C' * rng.integers(2, 8)}{'N' if basic else 'O'},{basic}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_atom_that_decides_adds_most_and_stands_in_the_report(tmp_path: Path) -> None:
    study = write_documents(tmp_path, SCHEMA, STUDY)
    tables = {name: table(tmp_path / f"{name}.csv", k) for k, name in enumerate(("a", "b"))}
    federation = federation_of(tmp_path, study, tables)
    try:
        run(study, federation)
        last = federation.store.rounds(study.digest)[-1].evaluations
        for evaluation in last.values():
            check_evaluation(study, evaluation, last=True)
        (one,) = pooled({name: evaluation.explained for name, evaluation in last.items()})
    finally:
        federation.close()
    kinds = {name.removeprefix("smiles: "): mean.signed for name, mean in one.columns.items()}
    assert set(kinds) == {"smiles", "C in a chain", "N in a chain", "O in a chain"}
    assert kinds["N in a chain"] > 0 > kinds["O in a chain"]
    assert "N in a chain" in str([figure.drawing for figure in explained_figures((one,), "")])
