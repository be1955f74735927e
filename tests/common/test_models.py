"""Models have the shapes that they promise, and losses one number for each patient."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from cohortium.common.arrays import flatten, layout
from cohortium.common.document import canonical, parse
from cohortium.common.errors import DocumentError, ProtocolError
from cohortium.common.layout import table_layout
from cohortium.common.loss import one_dimensional, per_example
from cohortium.common.models.building import build, build_seeded
from cohortium.common.models.options import ModelOptions

MLP = ModelOptions(name="mlp", hidden=(5, 4), activation="tanh", dropout=0.25)


def test_an_mlp_has_the_declared_layers() -> None:
    module = build(MLP, table_layout(3), 2)
    assert [shape for _, shape in layout(module)] == [(5, 3), (5,), (4, 5), (4,), (2, 4), (2,)]
    assert [type(layer).__name__ for layer in module.children()] == [
        *("Linear", "Tanh", "Dropout"),
        *("Linear", "Tanh", "Dropout"),
        "Linear",
    ]
    assert module(torch.zeros(7, 3)).shape == (7, 2)


@pytest.mark.parametrize("name", ["logistic", "linear"])
def test_a_linear_model_is_one_layer(name: Any) -> None:
    module = build(ModelOptions(name=name), table_layout(13), 1)
    assert [shape for _, shape in layout(module)] == [(1, 13), (1,)]


def test_a_seed_gives_pytorch_s_own_start_and_leaves_the_callers_random_state_alone() -> None:
    torch.manual_seed(7)
    expected = torch.nn.Linear(13, 1)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    module = build_seeded(ModelOptions(name="logistic"), table_layout(13), 1, seed=7)
    assert (flatten(module) == flatten(expected)).all()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"name": "logistic", "hidden": [4]}, 'has no "hidden" layers; set name = "mlp"'),
        ({"name": "linear", "dropout": 0.5}, 'no layer for "dropout"'),
        ({"name": "mlp"}, "needs at least one width"),
        ({"name": "mlp", "hidden": [0]}, "greater than 0"),
        ({"name": "mlp", "hidden": [4], "dropout": 1.0}, "less than 1"),
        ({"name": "mlp", "hidden": [4], "activation": "step"}, "activation"),
        ({"name": "mlp", "hiden": [4]}, 'did you mean "hidden"'),
    ],
)
def test_options_that_make_no_sense_together_are_refused_with_the_reason(
    values: dict[str, Any], reason: str
) -> None:
    with pytest.raises(DocumentError, match=reason):
        parse(values, ModelOptions, "study.toml")


def test_options_survive_their_canonical_form() -> None:
    assert ModelOptions.model_validate_json(canonical(MLP)) == MLP


def test_reading_a_study_does_not_load_torch() -> None:
    code = "import cohortium.common.models.options, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_losses_are_what_one_computes_by_hand() -> None:
    logits = torch.tensor([[0.0], [2.0]])
    labels = torch.tensor([1.0, 0.0])
    binary = per_example("binary", logits, labels)
    assert binary.tolist() == pytest.approx([0.693147, 2.126928], abs=1e-6)
    assert per_example("regression", logits, labels).tolist() == [1.0, 4.0]
    scores = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    several = per_example("multiclass", scores, torch.tensor([2.0, 1.0]))
    assert several.tolist() == pytest.approx([1.098612, 0.551445], abs=1e-6)


@pytest.mark.parametrize("outcome", ["binary", "multiclass", "regression"])
def test_a_column_of_labels_is_refused_before_it_broadcasts(outcome: Any) -> None:
    with pytest.raises(ProtocolError, match="clipping would bound nothing"):
        per_example(outcome, torch.zeros(4, 1), torch.zeros(4, 1))


def test_a_column_of_losses_is_refused_before_opacus_broadcasts_it() -> None:
    with pytest.raises(ProtocolError, match=r"shape \(4, 1\)"):
        one_dimensional(torch.zeros(4, 1), 4)


def test_a_binary_model_with_two_outputs_is_refused() -> None:
    with pytest.raises(ProtocolError, match="one output"):
        per_example("binary", torch.zeros(4, 2), torch.zeros(4))


def test_an_empty_batch_has_no_losses() -> None:
    assert per_example("binary", torch.zeros(0, 1), torch.zeros(0)).shape == (0,)


def test_models_that_several_threads_build_at_once_are_those_of_their_seeds() -> None:
    options = ModelOptions(name="mlp", hidden=(64, 64), activation="relu")

    def first_weight(seed: int) -> float:
        return (
            next(build_seeded(options, table_layout(8), 1, seed).parameters()).flatten()[0].item()
        )

    alone = [first_weight(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(50):
            assert list(pool.map(first_weight, range(4))) == alone
