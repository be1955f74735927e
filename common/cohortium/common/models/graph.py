"""Message passing over the atoms and bonds of a molecule (Gilmer et al. 2017)."""

import torch
from torch import Tensor, nn

from cohortium.common.layout import ATOM, BOND, Block, Layout
from cohortium.common.models.activations import ACTIVATIONS
from cohortium.common.models.blocks import values
from cohortium.common.models.mlp import perceptron
from cohortium.common.models.options_graph import GraphModel
from cohortium.common.preprocessing.wide.molecule import BOND_LEVELS, LEVELS


class Molecule(nn.Module):
    """From a row to atoms (B, A, sum of LEVELS), which are there (B, A), and bonds (B, T, A, A).

    Numbers become one-hot; the bonds of each type are an adjacency matrix of its own.
    """

    _codes: Tensor

    def __init__(self, block: Block) -> None:
        super().__init__()
        self._block = block
        self._atoms, self._bonds = block.sizes
        self.register_buffer("_codes", torch.arange(float(max(*LEVELS, *block.sizes))))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        row = values(features, self._block)
        atoms = row[:, : self._atoms * ATOM].reshape(-1, self._atoms, ATOM)
        bonds = row[:, self._atoms * ATOM :].reshape(-1, self._bonds, BOND)
        there = (atoms[:, :, 0] > 0).to(row.dtype)
        parts = [self._hot(atoms[:, :, k], levels) for k, levels in enumerate(LEVELS)]
        hot = torch.cat(parts, dim=2) * there[..., None]
        # in the graph of the features, as layers with hooks want their input
        return hot + 0.0 * atoms[:, :, :1], there, self._adjacency(bonds)

    def _adjacency(self, bonds: Tensor) -> Tensor:
        first, second = (self._hot(bonds[:, :, k], self._atoms) for k in (0, 1))
        kinds = self._hot(bonds[:, :, 2], BOND_LEVELS)[:, :, 1:]  # 0 is padding
        ends = kinds[..., None] * second[:, :, None]  # two factors at a time: ONNX knows no path
        one_way = torch.einsum("bea,betc->btac", first, ends)
        return one_way + one_way.transpose(2, 3)

    def _hot(self, numbers: Tensor, levels: int) -> Tensor:
        return torch.eq(numbers[..., None], self._codes[:levels]).to(numbers.dtype)


class MessageLayer(nn.Module):
    """Each atom adds what its neighbours say, by the type of the bond, to what it knows itself."""

    def __init__(self, width: int, options: GraphModel) -> None:
        super().__init__()
        kinds = BOND_LEVELS - 1
        self.own = nn.Linear(width, width)
        self.heard = nn.Linear(kinds * width, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.activation = ACTIVATIONS[options.activation]()
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, atoms: Tensor, there: Tensor, bonds: Tensor) -> Tensor:
        heard = torch.einsum("btac,bcw->batw", bonds, atoms).flatten(2)
        new = self.activation(self.own(atoms) + self.heard(heard))
        found: Tensor = self.norm(atoms + self.dropout(new)) * there[..., None]
        return found


class GraphNetwork(nn.Module):
    """Logits (B, outputs) from features (B, inputs), whatever the order of the atoms."""

    def __init__(self, block: Block, options: GraphModel, outputs: int) -> None:
        super().__init__()
        self.molecule = Molecule(block)
        self.known = nn.Identity()  # where explanations take hold of what is known of each atom
        self.enter = nn.Linear(sum(LEVELS), options.width)
        self.layers = nn.ModuleList(
            MessageLayer(options.width, options) for _ in range(options.layers)
        )
        self._mean = options.readout == "mean"
        self.head = perceptron(
            options.width, options.hidden, outputs, options.activation, options.dropout
        )

    def forward(self, features: Tensor) -> Tensor:
        hot, there, bonds = self.molecule(features)
        atoms = self.enter(self.known(hot)) * there[..., None]
        for layer in self.layers:
            atoms = layer(atoms, there, bonds)
        total = atoms.sum(dim=1)
        if self._mean:
            total = total / there.sum(dim=1, keepdim=True).clamp(min=1.0)
        found: Tensor = self.head(total)
        return found


def graph(options: GraphModel, layout: Layout, outputs: int) -> nn.Module:
    """For the one molecule of a layout."""
    (block,) = (block for block in layout.blocks if block.kind == "molecule")
    return GraphNetwork(block, options, outputs)
