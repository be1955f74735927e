"""What synthetic patients are worth and give away: the attacks, their bound, and one whole run."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import membership, synthetic
from scipy.stats import norm

from cohortium.client.training import plain
from cohortium.client.training.optimiser import Optimiser
from cohortium.common import arrays
from cohortium.common.layout import table_layout
from cohortium.common.models.building import build_seeded
from cohortium.common.models.options_generative import AutoencoderModel
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.privacy.plan import planned_in_all
from cohortium.common.study import load_study

DATA = Path(
    os.environ.get("COHORTIUM_TEST_DATA", str(Path(__file__).parents[2] / "../shared/data"))
)
PRIVATE = synthetic.EXAMPLE / "study-private.toml"


def test_an_attack_counts_members_above_all_but_one_in_a_hundred_others() -> None:
    scores = np.concatenate([np.arange(200.0), [0.5, 198.5, 199.5, 300.0]])
    members = np.arange(204) >= 200
    found = membership.attack(scores, members)  # two of the 200 may be falsely accused: 199 and 198
    assert found.members == pytest.approx(3 / 4)
    assert found.auc == pytest.approx((1 + 199 + 200 + 200) / 800)


def test_what_is_nearest_is_found_by_distance() -> None:
    patients = np.array([[0.0, 0.0], [3.0, 4.0]], np.float32)
    made = np.array([[0.0, 1.0], [0.0, 0.0]], np.float32)
    assert membership.nearest(patients, made).tolist() == pytest.approx([0.0, -np.sqrt(18)])


def test_the_bound_of_full_batches_is_the_gaussian_ones() -> None:
    one = Mechanism(sampler="full-batch", sample_rate=1.0, noise_multiplier=8.0, steps=64)
    most = membership.bound([one])  # mu is 1
    assert most.members == pytest.approx(norm.cdf(norm.ppf(0.01) + 1), rel=1e-6)
    assert most.auc == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=2e-3)


@pytest.mark.slow
def test_a_model_that_learnt_its_patients_by_heart_is_caught_by_both_attacks() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 8)).astype(np.float32)
    members = np.arange(60) < 30
    options = AutoencoderModel(name="vae", hidden=(64,), latent=8, beta=0.001)
    module = build_seeded(options, table_layout(8), 8, seed=1)
    plan = plain.PlainPlan("generation", Optimiser(0.005, name="adam"), seed=1)
    learnt = rows[members]
    batches = [np.arange(30)] * 1500
    start = arrays.flatten(module)
    plain.train(module, start, learnt, learnt, plan, batches, torch.device("cpu"))
    by_loss = membership.attack(membership.likelihood(rows, module), members)
    assert by_loss.auc > 0.95
    copies = learnt + rng.normal(0, 0.1, learnt.shape).astype(np.float32)
    assert membership.attack(membership.nearest(rows, copies), members).auc > 0.95


def test_an_interval_is_students() -> None:
    mean, low, high = synthetic.interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert (high - low) / 2 == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(
    not (DATA / "heart_flamby").is_dir(),
    reason="the hospitals' files are not here; COHORTIUM_TEST_DATA names the directory above them",
)
def test_private_synthetic_patients_are_worth_something_and_give_little_away() -> None:
    study = load_study(PRIVATE)
    patients = synthetic.hospitals(DATA)
    repeats = [synthetic.run(study, patients, seed) for seed in range(2)]
    plan = planned_in_all(study)
    assert plan is not None
    most = membership.bound([plan])
    for repeat in repeats:
        assert repeat.worth["real"].auroc > 0.8
        assert {*repeat.found} == {"nearest", "likelihood"}
        for found in repeat.found.values():
            assert found.auc < most.auc
            assert found.members < most.members
    assert max(repeat.worth["synthetic"].auroc for repeat in repeats) > 0.7
    assert "any attack, at most" in synthetic.text(study, repeats)
