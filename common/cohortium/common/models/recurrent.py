"""Recurrent networks along a sequence: Elman's, LSTM and GRU, in one direction or both.

The cells are made of linear layers, so that gradients of single patients exist. A step beyond a
sequence's end changes nothing, in either direction.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cohortium.common.layout import Layout
from cohortium.common.models.options_sequence import RecurrentModel
from cohortium.common.models.sequence import (
    Letters,
    Per,
    SequenceNetwork,
    along_head,
    patient_head,
    sequence_block,
)

State = tuple[Tensor, ...]
Step = Callable[[Tensor, Tensor, State], State]


def _rnn(given: Tensor, recalled: Tensor, state: State) -> State:
    """Elman 1990."""
    return (torch.tanh(given + recalled),)


def _lstm(given: Tensor, recalled: Tensor, state: State) -> State:
    """Hochreiter & Schmidhuber 1997, with a forget gate (Gers et al. 2000)."""
    enter, forget, candidate, leave = (given + recalled).chunk(4, dim=1)
    cell = torch.sigmoid(forget) * state[1] + torch.sigmoid(enter) * torch.tanh(candidate)
    return torch.sigmoid(leave) * torch.tanh(cell), cell


def _gru(given: Tensor, recalled: Tensor, state: State) -> State:
    """Cho et al. 2014, with the reset gate after the product, as in cuDNN."""
    reset, update, candidate = given.chunk(3, dim=1)
    reset_h, update_h, candidate_h = recalled.chunk(3, dim=1)
    gate = torch.sigmoid(update + update_h)
    new = torch.tanh(candidate + torch.sigmoid(reset + reset_h) * candidate_h)
    return ((1 - gate) * new + gate * state[0],)


# The step, how many times its width a layer gives, and how many tensors are its state.
CELLS: dict[str, tuple[Step, int, int]] = {
    "rnn": (_rnn, 1, 1),
    "lstm": (_lstm, 4, 2),
    "gru": (_gru, 3, 1),
}


class Direction(nn.Module):
    """One layer in one direction: (B, L, C) and (B, L) to (B, L, width)."""

    def __init__(self, name: str, inputs: int, width: int) -> None:
        super().__init__()
        self._step, times, self._states = CELLS[name]
        self._width = width
        self.given = nn.Linear(inputs, times * width)
        self.recalled = nn.Linear(width, times * width)

    def forward(self, along: Tensor, there: Tensor, backwards: bool = False) -> Tensor:
        given = self.given(along)
        # in the graph of the input, as layers with hooks want theirs
        zero = 0.0 * along[:, 0, :1].expand(-1, self._width)
        state: State = (zero,) * self._states
        made: list[Tensor] = []
        # taken apart at once: the backward pass of taking one place writes all the others' zeros
        places = list(zip(given.unbind(1), (there > 0)[..., None].unbind(1), strict=True))
        for read, here in reversed(places) if backwards else places:
            new = self._step(read, self.recalled(state[0]), state)
            state = tuple(torch.where(here, n, s) for n, s in zip(new, state, strict=True))
            made.append(state[0])
        return torch.stack(made[::-1] if backwards else made, dim=1)


class RecurrentTrunk(nn.Module):
    """Layers of one or two directions, with dropout between them."""

    def __init__(self, options: RecurrentModel, inputs: int) -> None:
        super().__init__()
        self.forwards, self.backwards = nn.ModuleList(), nn.ModuleList()
        for _ in range(options.layers):
            self.forwards.append(Direction(options.name, inputs, options.width))
            if options.bidirectional:
                self.backwards.append(Direction(options.name, inputs, options.width))
            inputs = options.width * (1 + options.bidirectional)
        self.width = inputs
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, along: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        for number, onwards in enumerate(self.forwards):
            parts = [onwards(along, there)]
            if len(self.backwards):
                parts.append(self.backwards[number](along, there, backwards=True))
            along = self.dropout(torch.cat(parts, dim=2))
        return along, there


def recurrent(
    options: RecurrentModel, layout: Layout, outputs: int, per: Per = "patient"
) -> nn.Module:
    """Logits (B, outputs) from features (B, inputs)."""
    block = sequence_block(layout)
    (places,) = block.shape
    letters = Letters(block, options.embedding)
    trunk = RecurrentTrunk(options, letters.width)
    head = along_head(per, trunk.width, places, outputs)
    head = head or patient_head(options.readout, places, trunk.width, (), outputs, "relu")
    return SequenceNetwork(letters, trunk, head)
