"""What each family of models promises beside gradients: order, padding, what is missing."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cohortium.common.layout import ATOM, BOND, Block, Layout
from cohortium.common.models.building import build_seeded
from cohortium.common.models.fusion import AttentionFusion
from cohortium.common.models.initialising import WAYS
from cohortium.common.models.network import adjacency
from cohortium.common.models.options_base import TableModel
from cohortium.common.models.options_fusion import FusionModel
from cohortium.common.models.options_graph import GraphModel, NetworkModel
from cohortium.common.models.options_sequence import TransformerModel
from cohortium.common.models.options_tensor import TensorTrainModel
from cohortium.common.models.recurrent import Direction
from cohortium.common.models.transformer import attention_maps
from cohortium.common.preprocessing.wide.molecule import graph
from cohortium.common.wide_columns import MoleculeColumn

SMALL, LARGE = MoleculeColumn(kind="molecule", atoms=12, bonds=13), MoleculeColumn(kind="molecule")
ASPIRIN, REORDERED = "CC(=O)Oc1ccccc1C(O)=O", "OC(=O)c1ccccc1OC(C)=O"
TWO = Layout((Block("gene", "numbers", 0, (3,)), Block("protein", "numbers", 4, (2,))))


def molecule_block(column: MoleculeColumn) -> Block:
    shape = (column.atoms * ATOM + column.bonds * BOND,)
    return Block("drug", "molecule", 0, shape, sizes=(column.atoms, column.bonds))


def molecule_row(smiles: str, column: MoleculeColumn) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([[1.0], graph(smiles, column)]).astype(np.float32))[None]


@pytest.mark.parametrize("readout", ["sum", "mean"])
def test_a_molecule_is_the_same_however_it_is_written_and_framed(readout: str) -> None:
    options = GraphModel(name="gnn", readout=readout)  # type: ignore[arg-type]
    said = []
    for column, smiles in (
        (LARGE, ASPIRIN),
        (LARGE, REORDERED),
        (SMALL.model_copy(update={"atoms": 13}), ASPIRIN),
    ):
        module = build_seeded(options, Layout((molecule_block(column),)), 2, seed=1).eval()
        with torch.no_grad():
            said.append(module(molecule_row(smiles, column)))
    torch.testing.assert_close(said[0], said[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(said[0], said[2], rtol=1e-4, atol=1e-5)


def test_another_molecule_is_another_and_a_bond_counts() -> None:
    module = build_seeded(GraphModel(name="gnn"), Layout((molecule_block(LARGE),)), 2, 1).eval()
    with torch.no_grad():
        ethane, ethene, ether = (
            module(molecule_row(smiles, LARGE)) for smiles in ("CC", "C=C", "COC")
        )
    assert (ethane - ethene).abs().max() > 1e-3
    assert (ethane - ether).abs().max() > 1e-3


def test_a_network_hears_its_neighbours_alone() -> None:
    names = ("a", "b", "c", "d")
    edges = (("a", "b"), ("b", "c"))
    scaled = adjacency(names, edges).numpy()
    np.testing.assert_allclose(scaled[0, 1], 1 / np.sqrt(2))
    assert scaled[3].sum() == 0
    block = Block("gene", "numbers", 0, (4,), names=names)
    options = NetworkModel(name="network", edges=edges, layers=1, hidden=())
    module: Any = build_seeded(options, Layout((block,)), 1, seed=0).eval()
    rows = torch.zeros(2, 5, requires_grad=True)
    module.head[0].weight.data = torch.tensor([[1.0, 0, 0, 0]])  # reads a's node alone
    (gradient,) = torch.autograd.grad(module(rows)[0, 0], rows)
    assert gradient[0, 1:3].abs().min() > 0
    assert gradient[0, 3:].abs().max() == 0


@pytest.mark.parametrize("how", ["late", "attention"])
def test_the_values_of_a_block_that_is_missing_count_for_nothing(how: str) -> None:
    options = FusionModel(name="fusion", how=how)  # type: ignore[arg-type]
    module = build_seeded(options, TWO, 2, seed=0).eval()
    rows = torch.randn(2, TWO.inputs)
    rows[:, 0] = 1
    rows[:, 4] = 0
    rows[1, :5] = rows[0, :5]
    with torch.no_grad():
        said = module(rows)
    torch.testing.assert_close(said[0], said[1])


def test_late_fusion_of_one_block_is_that_branch() -> None:
    layout = TWO.only("gene")
    module: Any = build_seeded(FusionModel(name="fusion"), layout, 2, seed=0).eval()
    rows = torch.randn(3, TWO.inputs)
    rows[:, 0] = 1
    with torch.no_grad():
        torch.testing.assert_close(module(rows), module.branches[0](rows))


def test_weights_of_modalities_add_up_to_one_and_to_nothing_for_nobody() -> None:
    module = build_seeded(FusionModel(name="fusion", how="attention"), TWO, 2, seed=0)
    assert isinstance(module, AttentionFusion)
    rows = torch.tensor([[1.0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0, 0], [0] * 7])
    said = torch.stack([branch(rows) for branch in module.branches], dim=1)
    weights = module.weights(rows, said)
    torch.testing.assert_close(weights.sum(dim=1), torch.tensor([1.0, 1.0, 0.0]))
    assert weights[1, 0] == 0


def test_a_branch_is_the_model_that_the_study_names() -> None:
    dna = Block("dna", "sequence", 4, (6,), levels=6)
    layout = Layout((TWO.blocks[0], dna))
    branch = TransformerModel(name="transformer", width=8, heads=2)
    options = FusionModel(name="fusion", how="late", branches={"dna": branch})
    module: Any = build_seeded(options, layout, 2, seed=0)
    assert type(module.branches[1]).__name__ == "SequenceNetwork"
    rows = torch.zeros(2, layout.inputs)
    assert module(rows).shape == (2, 2)


def test_codes_get_numbers_of_their_own() -> None:
    table = Block("table", "table", 0, (6,), groups=(("stage", 1, 4),))
    options = TableModel(name="mlp", hidden=(4,), embedding=2)
    module: Any = build_seeded(options, Layout((table,)), 1, seed=0)
    embedding = module[0]
    assert embedding.width == 3 + 2
    rows = torch.eye(6)
    found = embedding(rows)
    torch.testing.assert_close(found[:, :3], rows[:, [0, 4, 5]])
    torch.testing.assert_close(found[1:4, 3:], embedding.tables[0].weight.T)


def test_a_tensor_train_of_many_inputs_neither_vanishes_nor_explodes() -> None:
    layout = Layout((Block("gene", "numbers", 0, (400,)),))
    module = build_seeded(TensorTrainModel(name="mps", bond=4), layout, 1, seed=0)
    rows = torch.randn(5, 401)
    said = module(rows)
    assert torch.isfinite(said).all()
    torch.autograd.backward(said.sum())
    sizes = [float(p.grad.norm()) for p in module.parameters() if p.grad is not None]
    assert min(sizes) > 1e-6
    assert max(sizes) < 1e3


def test_attention_maps_are_shares_of_the_places_that_are_there() -> None:
    layout = Layout((Block("dna", "sequence", 0, (7,), levels=6),))
    options = TransformerModel(name="transformer", width=8, heads=2, layers=3)
    module = build_seeded(options, layout, 1, seed=0).eval()
    rows = torch.tensor([[1.0, 1, 2, 3, 4, 0, 0, 0]])
    maps = attention_maps(module, rows)
    assert maps.shape == (1, 3, 2, 7, 7)
    torch.testing.assert_close(maps.sum(dim=4), torch.ones(1, 3, 2, 7))
    assert maps[..., 4:].abs().max() < 1e-6


@pytest.mark.parametrize(("name", "torch_name"), [("rnn", "RNN"), ("lstm", "LSTM"), ("gru", "GRU")])
def test_cells_are_those_of_torch(name: str, torch_name: str) -> None:
    torch.manual_seed(0)
    ours = Direction(name, 5, 4)
    theirs = getattr(nn, torch_name)(5, 4, batch_first=True)
    theirs.weight_ih_l0.data, theirs.bias_ih_l0.data = ours.given.weight.data, ours.given.bias.data
    theirs.weight_hh_l0.data = ours.recalled.weight.data
    theirs.bias_hh_l0.data = ours.recalled.bias.data
    x = torch.randn(3, 6, 5)
    torch.testing.assert_close(ours(x, torch.ones(3, 6)), theirs(x)[0])
    backwards = ours(x, torch.ones(3, 6), backwards=True)
    torch.testing.assert_close(backwards, theirs(x.flip(1))[0].flip(1))


@pytest.mark.parametrize("how", sorted(WAYS))
def test_an_initialisation_is_torchs_and_leaves_no_bias(how: Any) -> None:
    layout = Layout((Block("table", "table", 0, (6,)),))
    options = TableModel(name="mlp", hidden=(5,), initialisation=how)
    module: Any = build_seeded(options, layout, 1, seed=4)
    torch.manual_seed(4)
    plain = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1))
    for layer in (plain[0], plain[2]):
        assert isinstance(layer, nn.Linear)
        WAYS[how](layer.weight)
    torch.testing.assert_close(module[0].weight, plain[0].weight)
    torch.testing.assert_close(module[2].weight, plain[2].weight)
    assert module[0].bias.abs().max() == 0
