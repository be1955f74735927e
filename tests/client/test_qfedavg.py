"""q-FedAvg: a site's loss is told once, inside the noise that is paid for, or not at all."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.asking import Asker
from tests.federation import FULL, PLAIN, PRIVATE, approve, federate, make_site, write_study
from tests.server.test_coordinator import approved, attack, resealed, run

from cohortium.client import egress
from cohortium.client.training.full_batch import FullBatchPlan, clipped_sum, train
from cohortium.common import arrays
from cohortium.common.bands import nominal
from cohortium.common.errors import DocumentError, ProtocolError, RefusedError
from cohortium.common.identity import SigningKey
from cohortium.common.loss import LOSS_CAP, per_example
from cohortium.common.messages import Update
from cohortium.common.privacy.noise import NoiseSource
from cohortium.common.privacy.plan import planned
from cohortium.common.training import Strategy
from cohortium.server.aggregation.loss_weight import loss_weight
from cohortium.server.coordinator import initial_model, run_study
from cohortium.server.plausibility import check_update

Q = '[strategy]\nname = "qfedavg"\nq = 2.0\n'
FAIR = FULL.replace("[strategy]\n", Q)
N = 40


def patients(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, 3)).astype(np.float32)
    return torch.from_numpy(x), torch.from_numpy((rng.random(N) < 0.5).astype(np.float32))


def module(scale: float = 1.0) -> torch.nn.Module:
    linear = torch.nn.Linear(3, 1)
    arrays.load_into(linear, np.array([0.5, -1.0, 2.0, 0.1], np.float32) * np.float32(scale))
    return linear


# ------------------------------------------------------------------ at the site


def test_without_noise_and_clipping_the_loss_told_is_the_mean() -> None:
    x, y = patients()
    plan = FullBatchPlan("binary", 1e6, 0.0, N, tell_loss=True)
    start = arrays.flatten(module())
    update = train(module(), start, x.numpy(), y.numpy(), plan, NoiseSource(), torch.device("cpu"))
    losses = per_example("binary", module()(x), y).detach().clamp(max=LOSS_CAP)
    assert update.loss == pytest.approx(losses.mean().item(), rel=1e-6)
    silent = FullBatchPlan("binary", 1e6, 0.0, N)
    other = train(module(), start, x.numpy(), y.numpy(), silent, NoiseSource(), torch.device("cpu"))
    assert other.loss is None
    np.testing.assert_array_equal(other.delta, update.delta)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3, 1e38])
@pytest.mark.parametrize("clip", [0.01, 1.0])
def test_one_patient_moves_gradient_and_loss_together_by_the_clip_norm_at_most(
    scale: float, clip: float
) -> None:
    x, y = patients()
    whole = clipped_sum(module(scale), x, y, "binary", clip, True)
    for gone in range(0, N, 7):
        kept = np.delete(np.arange(N), gone)
        fewer = clipped_sum(module(scale), x[kept], y[kept], "binary", clip, True)
        assert len(fewer) == 5
        assert np.isfinite(fewer).all()
        assert np.linalg.norm(whole - fewer) <= clip * (1 + 1e-6)


def test_the_loss_gets_the_same_noise_as_every_coordinate_of_the_gradient() -> None:
    x, y = patients()
    plan = FullBatchPlan("binary", 1.0, 5.0, N, tell_loss=True)
    start = arrays.flatten(module())
    told = [
        train(module(), start, x.numpy(), y.numpy(), plan, NoiseSource(), torch.device("cpu"))
        for _ in range(300)
    ]
    expected = 5.0 / N * LOSS_CAP / 0.5
    assert np.std([update.loss or 0.0 for update in told]) == pytest.approx(expected, rel=0.15)
    assert np.std([update.delta[0] for update in told]) == pytest.approx(5.0 / N, rel=0.15)


# ------------------------------------------------------------------ over the wire


def asked(tmp_path: Path, *parts: str, **policy: str) -> tuple[Asker, Any]:
    study = write_study(tmp_path, *parts)
    key = SigningKey.generate()
    asker = Asker(key, make_site(tmp_path / "a", "a", key.public, policy=policy))
    approve(asker.site, study)
    asker.invite(study)
    return asker, study


def test_a_private_update_tells_its_loss_at_no_further_price(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "fair").mkdir()
    fair, study = asked(tmp_path / "fair", FAIR)
    plain, other = asked(tmp_path / "plain", FULL)
    told, silent = fair.train(study, 1).message, plain.train(other, 1).message
    assert told.loss is not None
    assert silent.loss is None
    assert told.spent == silent.spent
    assert planned(study) == planned(other)


def test_without_privacy_the_loss_travels_as_it_is(tmp_path: Path) -> None:
    asker, study = asked(tmp_path, PLAIN, Q, allow_unprotected="true")
    message = asker.train(study, 1, scale=0.0).message
    assert message.loss == pytest.approx(np.log(2), abs=1e-6)


def test_a_loss_that_nobody_asked_for_does_not_leave(tmp_path: Path) -> None:
    study = write_study(tmp_path, PLAIN)
    told = Update(weight=1.0, spent=None, loss=0.5)
    with pytest.raises(RefusedError, match="tells its loss"):
        egress.release(told, np.zeros(4, np.float32), study, 4)
    with pytest.raises(ProtocolError, match="tells its loss"):
        check_update(study, told.model_copy(update={"weight": float(nominal(150))}))


# ------------------------------------------------------------------ at the coordinator


@pytest.mark.parametrize(
    ("loss", "private", "weight"),
    [
        (0.5, True, 0.25),
        (0.5, False, 0.25),
        (-0.3, True, 0.0001),  # noise made it negative
        (9.0, True, 4.0),  # more than any site can say
        (9.0, False, 81.0),
        (1e30, False, 1e4),  # a lie
    ],
)
def test_a_site_counts_by_its_loss_within_bounds(loss: float, private: bool, weight: float) -> None:
    strategy = Strategy(name="qfedavg", q=2.0)
    assert loss_weight(strategy, loss, private) == pytest.approx(weight)
    assert loss_weight(Strategy(), loss, private) == 1.0


def test_the_site_that_is_served_worst_pulls_hardest(tmp_path: Path) -> None:
    """One round without privacy, by hand: the mean of the updates weighted by band x loss^2."""
    once = PLAIN.replace("rounds = 4", "rounds = 1")
    study = write_study(tmp_path, once, Q)
    federation = federate(tmp_path, policy={"allow_unprotected": "true"}, patients=60)
    for site in federation.sites.values():
        approve(site, study)
    model = run_study(study, federation.desk(study))
    start, total, weights = initial_model(study), np.zeros(4), 0.0
    for site in federation.sites.values():
        update = site.workshop.train(study, None, start, 1)
        band = site.workshop.prepare(study).weight
        assert update.loss is not None
        total += band * update.loss**2 * update.delta.astype(np.float64)
        weights += band * update.loss**2
    np.testing.assert_allclose(model, start + total / weights, atol=1e-6)


def test_a_site_that_lies_about_its_loss_cannot_take_over(tmp_path: Path) -> None:
    plain = PLAIN.replace("rounds = 4", "rounds = 1")
    study, federation = approved(tmp_path, plain, Q)
    attack(federation, resealed(lambda m, v: (m.model_copy(update={"loss": 1e300}), v)))
    assert np.isfinite(run(study, federation)).all()


# ------------------------------------------------------------------ in study.toml


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ((PRIVATE, Q), "which only training.batches = .full. protects"),
        ((FULL.replace("[strategy]", '[strategy]\nname = "qfedavg"'),), "go together"),
        ((FULL.replace("[strategy]", "[strategy]\nq = 1.0"),), "go together"),
        ((FULL.replace("[strategy]", '[strategy]\nname = "qfedavg"\nq = 0.0'),), "strategy.q"),
    ],
)
def test_a_study_in_which_the_loss_could_not_be_protected_is_refused(
    tmp_path: Path, parts: tuple[str, ...], says: str
) -> None:
    with pytest.raises(DocumentError, match=says):
        write_study(tmp_path, *parts)
