"""A GAN: from a private study of several sites to patients of both kinds that there are."""

import csv
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load
from tests.any_study import federation_of, run, write_documents
from tests.federation import Federation

from cohortium.client import local_round
from cohortium.client.cohort import Cohort
from cohortium.client.data.table import read_table
from cohortium.client.selftest import one_run
from cohortium.client.selftest.check import CPU
from cohortium.client.training.team import Team
from cohortium.common.errors import DocumentError, RefusedError
from cohortium.common.metrics.reconstruction import GENERATOR
from cohortium.common.study import Study
from cohortium.server.model_file import describe, pieces
from cohortium.server.synthetic import synthesise

SCHEMA = """
name = "ward"

[columns.marker]
kind = "number"
low = -5
high = 5
centre = 0
spread = 1

[columns.ill]
kind = "flag"
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
features = ["marker", "ill"]

[task]
kind = "generation"

[model]
name = "gan"
hidden = [16]
latent = 4
discriminator = [16]
generator_every = 1

[split]
test_fraction = 0.2

[training]
rounds = 6
batches = "poisson"
sample_rate = 0.1
local_steps = 50
learning_rate = 0.01
optimiser = "adam"
beta1 = 0.1

[privacy]
mechanism = "gaussian"
epsilon = 16.0
delta = 1e-5
clip_norm = 1.0

[sites]
names = ["a", "b"]
min_sites = 2
"""


def write_table(path: Path, seed: int, patients: int = 800) -> Path:
    """The ill have a marker about 1.5, the others about -1.5."""
    rng = np.random.default_rng(seed)
    ill = rng.integers(0, 2, patients)
    marker = (3 * ill - 1.5 + rng.normal(0, 0.3, patients)).round(3)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("marker", "ill"))
        writer.writerows(zip(marker, ill, strict=True))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Federation]:
    root = tmp_path_factory.mktemp("adversarial")
    study = write_documents(root, SCHEMA, STUDY)
    tables = {name: write_table(root / f"{name}.csv", seed) for seed, name in enumerate("ab")}
    federation = federation_of(root, study, tables)
    run(study, federation)
    return study, federation


def test_both_kinds_of_patients_are_made_and_privacy_is_paid_for_the_discriminator_alone(
    made: tuple[Study, Federation], tmp_path: Path
) -> None:
    study, federation = made
    out = tmp_path / "synthetic.csv"
    synthesise(federation.store.study(study.name), federation.store, 2000, 7, out)
    table = read_table(out, study.data_model, study.columns_read)
    ill, marker = table.codes["ill"] == 1, table.numbers["marker"]
    assert 0.25 < ill.mean() < 0.75
    assert marker[ill].mean() > 0.7
    assert marker[~ill].mean() < -0.7
    for site in federation.sites.values():
        assert site.ledger(study).balance().epsilon_spent == pytest.approx(16.0, abs=0.1)
        steps = [entry.mechanism.steps for entry in site.ledger(study).entries()]
        assert sum(steps) == study.training.rounds * study.training.local_steps


def test_the_released_model_is_the_generator(made: tuple[Study, Federation]) -> None:
    study, federation = made
    row = federation.store.study(study.name)
    raw = b"".join(pieces(row, federation.store))
    tensors = load(raw)
    assert {name.split(".")[0] for name in tensors} == {"generator"}
    told = describe(row, federation.store)
    assert told.parameters == sum(one.size for one in tensors.values())
    assert told.bytes == len(raw)


def test_nothing_is_measured_of_a_patient_whom_a_generator_does_not_give_back(
    made: tuple[Study, Federation],
) -> None:
    study, federation = made
    last = federation.store.rounds(study.digest)[-1]
    assert len(last.evaluations) == 2
    for evaluation in last.evaluations.values():
        assert evaluation.overall.reason == GENERATOR


def test_a_gan_can_be_audited_in_one_run(
    made: tuple[Study, Federation], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, _ = made
    few = study.training.model_copy(update={"rounds": 1, "local_steps": 4})
    monkeypatch.setattr(one_run, "MOST", one_run.LEAST)
    seen = one_run.audit(study.model_copy(update={"training": few}), CPU)
    assert (seen.canaries, seen.guesses > 0) == (one_run.LEAST, True)


POISSON = STUDY[STUDY.index("batches") : STUDY.index("[privacy]")]


def test_a_gan_stops_early_by_nothing(tmp_path: Path) -> None:
    plain = STUDY[: STUDY.index("[training]")].replace(
        "test_fraction = 0.2", "test_fraction = 0.2\nvalidation_fraction = 0.2"
    )
    plain += """
[training]
rounds = 6
batches = "shuffle"
batch_size = 32
local_steps = 50
learning_rate = 0.01
patience = 2

[privacy]
mechanism = "none"

[sites]
names = ["a", "b"]
min_sites = 2
"""
    with pytest.raises(DocumentError, match="no loss of one to follow"):
        write_documents(tmp_path, SCHEMA, plain)
    study = write_documents(
        tmp_path,
        SCHEMA,
        plain.replace("patience = 2\n", "").replace("\nvalidation_fraction = 0.2", ""),
    )
    rows = np.zeros((4, 2), np.float32)
    cohort = Cohort(rows, rows, rows, rows.astype(np.float64), {}, 4, "1-4")
    with pytest.raises(RefusedError, match="a gan"):
        local_round.train(study, cohort, np.zeros(0, np.float32), 1, "a", "cpu", Team(0, 2, True))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("generator_every = 1", "generator_every = 51", "would never move"),
        (POISSON, 'batches = "full"\n\n', 'use "poisson"'),
        ("[sites]", '[strategy]\nname = "qfedavg"\nq = 1.0\n\n[sites]', "weighs sites by"),
        ("[sites]", '[transfer]\nfreeze = ["generator.*"]\n\n[sites]', "learn from each other"),
        ("[sites]", '[transfer]\nown = ["generator.*"]\n\n[sites]', "learn from each other"),
        ('kind = "generation"', 'kind = "reconstruction"', "gives no reconstruction outcome"),
    ],
)
def test_what_a_gan_cannot_be_together_with_is_refused(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in STUDY
    with pytest.raises(DocumentError, match=said):
        write_documents(tmp_path, SCHEMA, STUDY.replace(old, new))
