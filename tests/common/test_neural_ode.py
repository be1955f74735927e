"""The flow of a neural ODE, against torchdiffeq."""

import pytest
import torch
from torchdiffeq import odeint

from cohortium.common.layout import Block
from cohortium.common.models.neural_ode import OdeNetwork
from cohortium.common.models.options_series import OdeModel

BLOCK = Block("visits", "series", 0, (3, 1 + 2 * 2))


@pytest.mark.parametrize("steps", [1, 4])
def test_the_flow_is_that_of_torchdiffeq(steps: int) -> None:
    torch.manual_seed(0)
    network = OdeNetwork(BLOCK, OdeModel(name="neural_ode", steps=steps), 1).double()
    state, passed = torch.randn(6, 16).double(), torch.rand(6, 1).double()
    expected = odeint(
        lambda _, y: passed * torch.tanh(network.flow(y)),
        state,
        torch.tensor([0.0, 1.0]).double(),
        method="rk4",
        options={"step_size": 1 / steps},
    )[-1]
    torch.testing.assert_close(network._flow(state, passed), expected)


def test_a_visit_that_measured_nothing_and_padding_change_nothing() -> None:
    torch.manual_seed(0)
    network = OdeNetwork(BLOCK, OdeModel(name="neural_ode"), 1).eval()
    rows = torch.zeros(2, 1 + 15)
    rows[:, 0] = 1
    series = rows[:, 1:].view(2, 3, 5)
    series[:, 0] = torch.tensor([0.1, 0.5, -0.5, 1, 1])
    series[1, 1] = torch.tensor([0.7, 0.0, 0.0, 0, 0])
    with torch.no_grad():
        first, second = network(rows)
    torch.testing.assert_close(first, second)
