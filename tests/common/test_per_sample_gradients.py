"""Every model gives each patient's own gradient, by both private engines, as a plain loop does."""

from typing import Any

import numpy as np
import pytest
import torch
from opacus import GradSampleModule
from torch import Tensor, nn

from cohortium.client.training.full_batch import clipped_sum
from cohortium.client.training.optimiser import Optimiser
from cohortium.client.training.private import PrivatePlan, refuse_unfit, train
from cohortium.common.arrays import flatten
from cohortium.common.layout import ATOM, BOND, Block, Layout
from cohortium.common.loss import Outcome, per_example
from cohortium.common.models.adversarial import Adversarial
from cohortium.common.models.autoencoder import VariationalAutoencoder
from cohortium.common.models.building import BUILDERS, build_seeded
from cohortium.common.models.options import FAMILIES, NAMES, ModelDocument
from cohortium.common.privacy.noise import NoiseSource
from cohortium.common.task import Per

PATIENTS = 5
TABLE = Layout((Block("table", "table", 0, (6,), groups=(("stage", 1, 4),)),))
SEQUENCE = Layout((Block("dna", "sequence", 0, (12,), levels=6),))
IMAGE = Layout((Block("image", "image", 0, (1, 8, 8)),))
SERIES = Layout((Block("visits", "series", 0, (4, 1 + 2 * 2)),))
NUMBERS = Layout((Block("gene", "numbers", 0, (5,), names=tuple("abcde")),))
BOTH = Layout((*NUMBERS.blocks, Block("protein", "numbers", 6, (3,))))
MOLECULE = Layout((Block("drug", "molecule", 0, (6 * ATOM + 7 * BOND,), sizes=(6, 7)),))

# What is tried of each family: more words of its document, and a layout it reads.
TRIED: dict[str, tuple[dict[str, Any], Layout]] = {
    "logistic": ({}, TABLE),
    "linear": ({}, TABLE),
    "cox": ({}, TABLE),
    "mlp": ({"hidden": (5, 4), "embedding": 2}, TABLE),
    "cnn1d": ({"channels": (4, 4), "kernel": 3, "norm": "layer", "hidden": (5,)}, SEQUENCE),
    "rnn": ({"width": 4, "layers": 2, "bidirectional": True}, SEQUENCE),
    "lstm": ({"width": 4, "bidirectional": True, "embedding": 3}, SEQUENCE),
    "gru": ({"width": 4, "readout": "flatten"}, SEQUENCE),
    "transformer": ({"width": 8, "heads": 2, "layers": 2, "feedforward": 8}, SEQUENCE),
    "cnn2d": ({"channels": (4, 4), "norm": "group", "hidden": (5,)}, IMAGE),
    "resnet": ({"channels": (4, 8), "groups": 2}, IMAGE),
    "neural_ode": ({"width": 4, "hidden": (5,)}, SERIES),
    "gnn": ({"width": 6, "layers": 2, "hidden": (5,)}, MOLECULE),
    "network": ({"edges": (("a", "b"), ("b", "d")), "width": 3, "hidden": (4,)}, NUMBERS),
    "mps": ({"bond": 3}, NUMBERS),
    "autoencoder": ({"hidden": (5,), "latent": 2}, TABLE),
    "vae": ({"hidden": (5,), "latent": 2, "activation": "tanh"}, NUMBERS),
    "gan": ({"hidden": (5,), "latent": 2, "discriminator": (4, 3)}, NUMBERS),
    "fusion": ({"how": "attention", "width": 4, "hidden": (5,)}, BOTH),
}

CASES = [pytest.param(name, "patient", id=name) for name in BUILDERS]
CASES += [
    pytest.param(name, per, id=f"{name}-{per}")
    for name in ("cnn1d", "lstm", "transformer")
    for per in ("place", "pair")
]


def options(name: str) -> ModelDocument:
    assert name in TRIED, f"no layout is tried for model {name}: add one above"
    (family,) = (one for one in FAMILIES if name in str(one.model_fields["name"].annotation))
    return family(name=name, **TRIED[name][0])


def rows(layout: Layout, seed: int = 0) -> Tensor:
    """Features of a few patients; the last of them lacks a block that can be missing."""
    rng = np.random.default_rng(seed)
    block = layout.blocks[0]
    made = rng.normal(size=(PATIENTS, layout.inputs)).astype(np.float32)
    inside = made[:, block.first : block.stop]
    for one in layout.blocks:
        if one.kind != "table":
            made[:, one.start] = 1
    if block.kind == "sequence":
        inside[:] = rng.integers(1, block.levels, inside.shape)
        inside[1, 7:] = 0
    if block.kind == "series":
        series = inside.reshape(PATIENTS, *block.shape)
        series[:, :, 0] = np.sort(rng.uniform(0, 1, series.shape[:2]), axis=1)
        series[:, :, 3:] = rng.integers(0, 2, series[:, :, 3:].shape)
    if block.kind == "molecule":
        inside[:] = molecules(rng, block)
    if block.kind != "table":
        made[-1, : block.stop] = 0
    return torch.from_numpy(made)


def molecules(rng: np.random.Generator, block: Block) -> np.ndarray[Any, Any]:
    """Chains of carbon and nitrogen, of different lengths."""
    atoms, bonds = block.sizes
    made = []
    for patient in range(PATIENTS):
        size = 2 + patient % (atoms - 1)
        atom = np.zeros((atoms, ATOM))
        atom[:size] = [[1 + int(rng.integers(0, 2)), 2, 3, 2, 0, 0] for _ in range(size)]
        bond = np.zeros((bonds, BOND))
        bond[: size - 1] = [[place, place + 1, 1 + place % 2] for place in range(size - 1)]
        made.append(np.concatenate([atom.ravel(), bond.ravel()]))
    return np.stack(made)


def question(name: str, per: Per, layout: Layout, features: Tensor) -> tuple[Outcome, int, Tensor]:
    """An outcome that the model can have, its number of outputs, and labels."""
    if name in ("autoencoder", "vae", "gan"):
        return "reconstruction", layout.inputs, features
    if per == "patient":
        return "binary", 1, torch.arange(PATIENTS) % 2.0
    (places,) = layout.blocks[0].shape
    states = torch.randint(-1, 3, (PATIENTS, places)).float()
    if per == "place":
        return "labelling", 3 * places, states
    return "contacts", places**2, torch.randint(-1, 2, (PATIENTS, places**2)).float()


def made(name: str, per: Per) -> tuple[nn.Module, Tensor, Tensor, Outcome]:
    layout = TRIED[name][1] if name in TRIED else TABLE
    chosen, features = options(name), rows(TRIED[name][1])
    outcome, outputs, labels = question(name, per, layout, features)
    module = build_seeded(chosen, layout, outputs, seed=1, per=per)
    if isinstance(module, VariationalAutoencoder | Adversarial):
        module.draws = False  # a loop would draw other codes
    return module, features, labels, outcome


def losses(module: Any, features: Tensor, labels: Tensor, outcome: Outcome) -> Tensor:
    torch.manual_seed(3)
    return per_example(outcome, module(features.clone().requires_grad_()), labels)


def by_loop(
    module: nn.Module, features: Tensor, labels: Tensor, outcome: Outcome
) -> list[list[Tensor]]:
    """Each patient's gradients of what is trained, one after the other."""
    found = []
    trained = [p for p in module.parameters() if p.requires_grad]
    for patient in range(len(features)):
        here = slice(patient, patient + 1)
        loss = losses(module, features[here], labels[here], outcome).sum()
        parts = torch.autograd.grad(loss, trained, allow_unused=True)
        found.append(
            [
                torch.zeros_like(p) if part is None else part
                for p, part in zip(trained, parts, strict=True)
            ]
        )
    return found


def test_no_model_is_left_out() -> None:
    assert set(BUILDERS) == set(NAMES)
    assert set(BUILDERS) == set(TRIED)


@pytest.mark.parametrize(("name", "per"), CASES)
def test_gradients_by_opacus_are_those_of_a_loop(name: str, per: Per) -> None:
    module, features, labels, outcome = made(name, per)
    expected = by_loop(module, features, labels, outcome)
    refuse_unfit(module)
    wrapped: Any = GradSampleModule(module, loss_reduction="sum")
    torch.autograd.backward(losses(wrapped, features, labels, outcome).sum())
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for place, parameter in enumerate(trained):
        given = getattr(parameter, "grad_sample", None)
        loop = torch.stack([patient[place] for patient in expected])
        given = torch.zeros_like(loop) if given is None else given
        torch.testing.assert_close(given, loop, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "per"), CASES)
def test_clipped_sums_of_a_full_batch_are_those_of_a_loop(name: str, per: Per) -> None:
    module, features, labels, outcome = made(name, per)
    clip = 0.05
    expected = sum(
        flat * min(1.0, clip / max(float(flat.norm()), 1e-30))
        for patient in by_loop(module, features, labels, outcome)
        for flat in [torch.cat([part.flatten() for part in patient]).double()]
    )
    found = clipped_sum(module, features, labels, outcome, clip)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-6)  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "per"), CASES)
def test_a_patients_answer_depends_on_nobody_else(name: str, per: Per) -> None:
    module, features, _, _ = made(name, per)
    module.eval()
    others = torch.cat([features[:1], rows(TRIED[name][1], seed=9)[1:]])
    with torch.no_grad():
        torch.testing.assert_close(module(features)[0], module(others)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("per", ["patient", "place"])
@pytest.mark.parametrize("name", ["cnn1d", "rnn", "lstm", "gru", "transformer"])
def test_what_stands_behind_a_sequences_end_counts_for_nothing(name: str, per: Per) -> None:
    """The same letters in a longer frame give the same answer; a flat head has a frame's length."""
    chosen = options(name).model_copy(update={"readout": "mean"})
    features = rows(SEQUENCE)
    wide = Layout((Block("dna", "sequence", 0, (20,), levels=6),))
    short, long = (
        build_seeded(chosen, layout, 3 * places if per == "place" else 1, 1, per).eval()
        for layout, places in ((SEQUENCE, 12), (wide, 20))
    )
    padded = torch.cat([features, torch.zeros(PATIENTS, 8)], dim=1)
    with torch.no_grad():
        ours, theirs = short(features), long(padded)
    there = (features[:, 1:] > 0).repeat_interleave(3, dim=1) if per == "place" else ours == ours
    torch.testing.assert_close(ours[there], theirs[:, : ours.shape[1]][there])


@pytest.mark.parametrize("name", list(BUILDERS))
def test_a_step_in_which_nobody_is_drawn_is_noise_alone(name: str) -> None:
    module, features, labels, outcome = made(name, "patient")
    plan = PrivatePlan(outcome, Optimiser(0.1), 1, 1e-15, 3.0, 1.0, 1.0)
    data = flatten(module), features.numpy(), labels.numpy()
    update = train(module, *data, plan, NoiseSource(), torch.device("cpu"))
    assert 0.0 < np.abs(update.delta).max() < 10 * 0.1 / 3
