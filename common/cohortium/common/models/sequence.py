"""What all models of sequences share: letters in, a trunk along the places, an answer out.

A trunk maps (B, L, C) and which places are there (B, L) to (B, L', H) and (B, L'). What stands
behind a sequence's end never counts.
"""

import torch
from torch import Tensor, nn

from cohortium.common.layout import Block, Layout
from cohortium.common.models.blocks import values
from cohortium.common.models.mlp import perceptron
from cohortium.common.models.options_base import Activation
from cohortium.common.task import Per as Per


class Letters(nn.Module):
    """(B, L, C) from features: one-hot without padding, or learnt numbers for each letter."""

    _codes: Tensor

    def __init__(self, block: Block, embedding: int) -> None:
        super().__init__()
        self._block = block
        levels = block.levels - 1  # padding has none
        self.width = embedding or levels
        self.register_buffer("_codes", torch.arange(1.0, block.levels), persistent=False)
        # A table of numbers for each letter is a linear map of its one-hot form.
        self.table = nn.Linear(levels, embedding, bias=False) if embedding else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        found: Tensor = self.table(self.one_hot(features))
        return found

    def one_hot(self, features: Tensor) -> Tensor:
        """(B, L, levels - 1); in the graph of `features`, as layers with hooks want their input."""
        numbers = values(features, self._block)[..., None]
        return torch.eq(numbers, self._codes).to(features.dtype) + 0.0 * numbers

    def there(self, features: Tensor) -> Tensor:
        """(B, L) 1 where there is a letter."""
        return (values(features, self._block) > 0).to(features.dtype)


class SequenceNetwork(nn.Module):
    """Letters, a trunk, and a head for what is asked: a patient, each place, each pair of them."""

    def __init__(self, letters: Letters, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.letters, self.trunk, self.head = letters, trunk, head

    def forward(self, features: Tensor) -> Tensor:
        return self.answer(self.letters(features), self.letters.there(features))

    def answer(self, along: Tensor, there: Tensor) -> Tensor:
        """Logits (B, outputs) from (B, L, C) and (B, L)."""
        found: Tensor = self.head(*self.trunk(along * there[..., None], there))
        return found


class MeanHead(nn.Module):
    """Logits (B, outputs) from the mean over the places that are there."""

    def __init__(self, width: int, hidden: tuple[int, ...], outputs: int, act: Activation) -> None:
        super().__init__()
        self.layers = perceptron(width, hidden, outputs, act)

    def forward(self, along: Tensor, there: Tensor) -> Tensor:
        total = (along * there[..., None]).sum(dim=1)
        found: Tensor = self.layers(total / there.sum(dim=1, keepdim=True).clamp(min=1.0))
        return found


class FlatHead(nn.Module):
    """Logits (B, outputs) from all places side by side: where something stands counts."""

    def __init__(
        self, places: int, width: int, hidden: tuple[int, ...], outputs: int, act: Activation
    ) -> None:
        super().__init__()
        self.layers = perceptron(places * width, hidden, outputs, act)

    def forward(self, along: Tensor, there: Tensor) -> Tensor:
        found: Tensor = self.layers((along * there[..., None]).flatten(1))
        return found


class PlaceHead(nn.Module):
    """Logits (B, L * states), place after place."""

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, states)

    def forward(self, along: Tensor, there: Tensor) -> Tensor:
        found: Tensor = self.layer(along)
        return found.flatten(1)


class PairHead(nn.Module):
    """Logits (B, L * L) of a symmetric map: from products of both places, and their distance."""

    WIDTH = 16
    _distance: Tensor

    def __init__(self, width: int, places: int) -> None:
        super().__init__()
        self.each = nn.Linear(width, self.WIDTH)
        self.pair = nn.Linear(self.WIDTH + 1, 1)
        place = torch.arange(float(places))
        distance = torch.log1p((place[:, None] - place).abs())
        self.register_buffer("_distance", distance[..., None], persistent=False)

    def forward(self, along: Tensor, there: Tensor) -> Tensor:
        each = self.each(along)
        products = each[:, :, None] * each[:, None]
        distance = self._distance.expand(along.shape[0], -1, -1, -1)
        found: Tensor = self.pair(torch.cat([products, distance], dim=3))
        return found.flatten(1)


def sequence_block(layout: Layout) -> Block:
    """The one block that such a model reads."""
    (block,) = (block for block in layout.blocks if block.kind == "sequence")
    return block


def patient_head(
    readout: str, places: int, width: int, hidden: tuple[int, ...], outputs: int, act: Activation
) -> nn.Module:
    """The head of one answer a patient."""
    if readout == "flatten":
        return FlatHead(places, width, hidden, outputs, act)
    return MeanHead(width, hidden, outputs, act)


def along_head(per: Per, width: int, places: int, outputs: int) -> nn.Module | None:
    """The head of an answer for each place or pair; None for one answer a patient."""
    if per == "place":
        return PlaceHead(width, outputs // places)
    return PairHead(width, places) if per == "pair" else None
