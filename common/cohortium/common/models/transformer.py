"""The Transformer's encoder (Vaswani et al. 2017), with the norm before each part (Xiong 2020)."""

import math

import torch
from torch import Tensor, nn

from cohortium.common.layout import Layout
from cohortium.common.models.activations import ACTIVATIONS
from cohortium.common.models.options_sequence import TransformerModel
from cohortium.common.models.sequence import (
    Letters,
    Per,
    SequenceNetwork,
    along_head,
    patient_head,
    sequence_block,
)

NOWHERE = -1e9  # what a place that is not there weighs, before the softmax


class Attention(nn.Module):
    """Attention of places to each other, out of linear layers.

    maps: (B, heads, L, L) of the last pass while `keeps` is set: how much each place (third)
    attends to each other (fourth).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.keeps = False
        self.maps: Tensor | None = None

    def forward(self, along: Tensor, there: Tensor) -> Tensor:
        query, key, value = (
            layer(along).unflatten(2, (self._heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
        weights = torch.softmax(scores + NOWHERE * (1 - there[:, None, None]), dim=3)
        if self.keeps:
            self.maps = weights.detach()
        found: Tensor = self.out((weights @ value).transpose(1, 2).flatten(2))
        return found


class EncoderLayer(nn.Module):
    def __init__(self, options: TransformerModel) -> None:
        super().__init__()
        width = options.width
        self.attention = Attention(width, options.heads)
        self.norm, self.norm_after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, options.feedforward),
            ACTIVATIONS[options.activation](),
            nn.Linear(options.feedforward, width),
        )
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, along: Tensor, there: Tensor) -> Tensor:
        along = along + self.dropout(self.attention(self.norm(along), there))
        found: Tensor = along + self.dropout(self.feedforward(self.norm_after(along)))
        return found


class EncoderTrunk(nn.Module):
    """Letters and their places, then layers of attention."""

    def __init__(self, options: TransformerModel, inputs: int, places: int) -> None:
        super().__init__()
        self.enter = nn.Linear(inputs, options.width)
        self.layers = nn.ModuleList(EncoderLayer(options) for _ in range(options.layers))
        self.norm = nn.LayerNorm(options.width)
        self.register_buffer("_places", _waves(places, options.width), persistent=False)

    def forward(self, along: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        along = self.enter(along) + self._places
        for layer in self.layers:
            along = layer(along, there)
        return self.norm(along), there


def _waves(places: int, width: int) -> Tensor:
    """(places, width): sine and cosine of falling frequencies (Vaswani et al. 2017, 3.5)."""
    place = torch.arange(float(places))[:, None]
    rate = torch.exp(-math.log(10_000.0) * torch.arange(0.0, width, 2.0) / width)
    waves = torch.stack([torch.sin(place * rate), torch.cos(place * rate)], dim=2)
    return waves.flatten(1)[:, :width]


def attention_maps(model: nn.Module, features: Tensor) -> Tensor:
    """(B, layers, heads, L, L) of a transformer's pass over features (B, inputs)."""
    layers = [part for part in model.modules() if isinstance(part, Attention)]
    for layer in layers:
        layer.keeps = True
    try:
        with torch.no_grad():
            model(features)
        return torch.stack([layer.maps for layer in layers if layer.maps is not None], dim=1)
    finally:
        for layer in layers:
            layer.keeps, layer.maps = False, None


def transformer(
    options: TransformerModel, layout: Layout, outputs: int, per: Per = "patient"
) -> nn.Module:
    """Logits (B, outputs) from features (B, inputs)."""
    block = sequence_block(layout)
    (places,) = block.shape
    letters = Letters(block, options.embedding)
    trunk = EncoderTrunk(options, letters.width, places)
    head = along_head(per, options.width, places, outputs)
    head = head or patient_head(options.readout, places, options.width, (), outputs, "relu")
    return SequenceNetwork(letters, trunk, head)
