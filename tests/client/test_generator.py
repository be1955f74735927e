"""What moves a generator, and what of the discriminator's step is a patient's."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

from cohortium.client.selftest.check import Watched
from cohortium.client.training import plain, private
from cohortium.client.training.generator import GeneratorSteps, follower
from cohortium.client.training.optimiser import Optimiser
from cohortium.client.training.private import PrivatePlan
from cohortium.common import arrays
from cohortium.common.layout import table_layout
from cohortium.common.loss import per_example
from cohortium.common.models.adversarial import Adversarial
from cohortium.common.models.building import build_seeded
from cohortium.common.models.options_base import TableModel
from cohortium.common.models.options_generative import AdversarialModel
from cohortium.common.privacy.noise import NoiseSource

Vector = NDArray[np.float32]

CPU = torch.device("cpu")
INPUTS, EXPECTED, CLIP = 3, 7.0, 0.3
PLAN = PrivatePlan("generation", Optimiser(1.0), 1, 1.0, EXPECTED, CLIP, 0.0)


def gan(every: int = 1, seed: int = 1, draws: bool = False) -> Adversarial:
    options = AdversarialModel(
        name="gan", hidden=(4,), latent=2, discriminator=(5,), generator_every=every
    )
    module = build_seeded(options, table_layout(INPUTS), INPUTS, seed)
    assert isinstance(module, Adversarial)
    module.draws = draws
    return module


def patients(seed: int, count: int = 20) -> Vector:
    return np.random.default_rng(seed).normal(2.0, 1.0, (count, INPUTS)).astype(np.float32)


def parts(module: Adversarial) -> NDArray[np.bool_]:
    """bool (d,): which values are the generator's."""
    found = [np.full(p.numel(), n.startswith("generator")) for n, p in module.named_parameters()]
    return np.concatenate(found)


def train(module: Adversarial, rows: Vector, plan: PrivatePlan) -> Vector:
    start = arrays.flatten(module)
    return private.train(module, start, rows, rows, plan, NoiseSource(), CPU).delta


def test_a_patients_loss_is_the_discriminators_of_it_and_of_one_row_made_up() -> None:
    module, rows = gan(), torch.from_numpy(patients(0))
    made = module.generator(torch.zeros(len(rows), 2))
    real, fake = module.discriminator(rows)[:, 0], module.discriminator(made)[:, 0]
    found = per_example("generation", module(rows), rows)
    torch.testing.assert_close(found, softplus(-real) + softplus(fake))
    assert module.eval()(rows).shape == (len(rows), 0)


def test_codes_and_blur_are_each_patients_own() -> None:
    module, rows = gan(draws=True), torch.zeros(50, INPUTS)
    assert len({*per_example("generation", module(rows), rows).tolist()}) == 50


def test_a_private_step_is_the_clipped_sum_of_each_patients_gradient_for_the_discriminator() -> (
    None
):
    module, rows = gan(every=2), patients(0)
    before = gan(every=2)
    total: list[Tensor] = []
    for row in torch.from_numpy(rows):
        loss = per_example("generation", before(row[None]), row[None]).sum()
        each = torch.autograd.grad(loss, list(before.discriminator.parameters()))
        flat = torch.cat([part.reshape(-1) for part in each])
        total.append(flat * min(1.0, CLIP / float(flat.norm())))
    assert min(float(one.norm()) for one in total) > 0.1 * CLIP
    delta, generator = train(module, rows, PLAN), parts(module)
    expected = -torch.stack(total).sum(dim=0) / EXPECTED
    np.testing.assert_allclose(delta[~generator], expected.numpy(), rtol=1e-4, atol=1e-6)
    assert not delta[generator].any()  # its turn comes after two steps


def test_noise_falls_on_the_discriminator_and_on_nothing_else() -> None:
    module, nobody = gan(every=2), patients(0)[:0]
    noisy = [train(gan(every=2), nobody, replace(PLAN, noise_multiplier=2.0)) for _ in range(200)]
    generator = parts(module)
    assert not np.stack(noisy)[:, generator].any()
    std = np.stack(noisy)[:, ~generator].std()
    assert std == pytest.approx(2.0 * CLIP / EXPECTED, rel=0.05)


def test_the_generator_is_a_function_of_the_noised_discriminator_alone() -> None:
    """Replayed from what was released of the discriminator, without a patient, bit by bit."""
    seen: list[Vector] = []
    module = gan(every=2)
    plan = replace(PLAN, local_steps=6, noise_multiplier=1.0, sample_rate=0.5)
    watched = Watched(
        **asdict(plan.optimiser), look=lambda _: seen.append(arrays.flatten(module.discriminator))
    )
    delta, generator = train(module, patients(0), replace(plan, optimiser=watched)), parts(module)
    assert np.abs(delta[generator]).max() > 1e-4
    after = [*seen[1:], arrays.flatten(module.discriminator)]
    again = gan(every=2)
    steps = GeneratorSteps(again, plan.optimiser)
    for discriminator in after:
        arrays.load_into(again.discriminator, discriminator)
        steps.follow()
    assert arrays.flatten(again.generator).tobytes() == arrays.flatten(module.generator).tobytes()


def test_without_privacy_the_generator_follows_too_and_a_seed_gives_the_same_bits() -> None:
    rows = patients(0)
    plan = plain.PlainPlan("generation", Optimiser(0.1), seed=3)
    batches = [np.arange(10), np.arange(10, 20)]
    deltas = []
    for _ in range(2):
        module = gan(draws=True)
        start = arrays.flatten(module)
        deltas.append(plain.train(module, start, rows, rows, plan, batches, CPU).delta)
    generator = parts(gan())
    assert np.abs(deltas[0][generator]).max() > 1e-4
    assert np.abs(deltas[0][~generator]).max() > 1e-4
    assert deltas[0].tobytes() == deltas[1].tobytes()


def test_other_models_have_no_generator_to_follow() -> None:
    module = build_seeded(TableModel(name="linear"), table_layout(INPUTS), 1, 0)
    before = arrays.flatten(module)
    follower(module, Optimiser(1.0))()
    assert arrays.flatten(module).tobytes() == before.tobytes()
