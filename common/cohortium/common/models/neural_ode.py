"""A state that flows by a learnt differential equation and jumps where something was measured.

Neural ODE (Chen et al. 2018) with the jumps of GRU-ODE-Bayes (De Brouwer et al. 2019). Between two
of a patient's times the flow is followed over the unit interval with the speed scaled by what lies
between them (Kidger et al. 2020), so that patients with different times are solved together and
each depends on itself alone.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cohortium.common.layout import Block, Layout
from cohortium.common.models.blocks import there, values
from cohortium.common.models.mlp import perceptron
from cohortium.common.models.options_series import OdeModel


class OdeNetwork(nn.Module):
    """Logits (B, outputs) from features (B, inputs)."""

    def __init__(self, block: Block, options: OdeModel, outputs: int) -> None:
        super().__init__()
        self._block, self._width, self._steps = block, options.width, options.steps
        seen = block.shape[1] - 1
        self.flow = perceptron(options.width, options.hidden, options.width, "tanh")
        self.given = nn.Linear(seen, 2 * options.width)
        self.recalled = nn.Linear(options.width, 2 * options.width)
        self.dropout = nn.Dropout(options.dropout)
        self.head = nn.Linear(options.width, outputs)

    def forward(self, features: Tensor) -> Tensor:
        series = values(features, self._block)
        time, seen = series[:, :, 0], series[:, :, 1:]
        measured = (seen[:, :, seen.shape[2] // 2 :].amax(dim=2) > 0).to(features.dtype)
        # in the graph of the features, as layers with hooks want their input
        state = 0.0 * series[:, 0, :1].expand(-1, self._width)
        before = 0.0 * time[:, 0]
        for now, values_now, here in zip(
            time.unbind(1), seen.unbind(1), measured[..., None].unbind(1), strict=True
        ):
            state = self._flow(state, (now - before)[:, None] * here)
            state = self._jump(state, values_now, here)
            before = torch.where(here[:, 0] > 0, now, before)
        left = (there(features, self._block) - before)[:, None]
        state = self._flow(state, left)  # until the end, the same moment for everybody
        found: Tensor = self.head(self.dropout(state))
        return found

    def _flow(self, state: Tensor, passed: Tensor) -> Tensor:
        """Where the flow carries a state in so much time (B, 1)."""

        def speed(state: Tensor) -> Tensor:
            return passed * torch.tanh(self.flow(state))

        for _ in range(self._steps):
            state = _kutta(speed, state, 1.0 / self._steps)
        return state

    def _jump(self, state: Tensor, seen: Tensor, here: Tensor) -> Tensor:
        """A gate and a candidate from what was measured; nothing where nothing was."""
        gate, candidate = self.given(seen).chunk(2, dim=1)
        gate_h, candidate_h = self.recalled(state).chunk(2, dim=1)
        share = torch.sigmoid(gate + gate_h) * here
        return (1 - share) * state + share * torch.tanh(candidate + candidate_h)


def _kutta(speed: Callable[[Tensor], Tensor], y: Tensor, h: float) -> Tensor:
    """One step of the 3/8 rule (Kutta 1901), out of place, so that it can be vmapped."""
    first = speed(y)
    second = speed(y + h * first / 3)
    third = speed(y + h * (second - first / 3))
    fourth = speed(y + h * (first - second + third))
    return y + h * (first + 3 * (second + third) + fourth) / 8


def neural_ode(options: OdeModel, layout: Layout, outputs: int) -> nn.Module:
    """For the one series of a layout."""
    (block,) = (block for block in layout.blocks if block.kind == "series")
    return OdeNetwork(block, options, outputs)
