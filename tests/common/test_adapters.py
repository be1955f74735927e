"""Adapters of linear layers: what they are at first, their gradients, and one matrix for both."""

import pytest
import torch
from opacus import GradSampleModule
from tests.common.test_per_sample_gradients import TRIED, losses, made
from torch import nn

from cohortium.client.training.full_batch import clipped_sum
from cohortium.client.training.private import refuse_unfit
from cohortium.common import arrays
from cohortium.common.models.adapters import Adapted, adapt, linear_layers, merged, of_adapter
from cohortium.common.transfer import Adapters

ADAPTERS = Adapters(rank=2, alpha=3.0)


def adapted(module: nn.Module) -> nn.Module:
    """With adapters that were trained, and all else frozen."""
    torch.manual_seed(5)
    module = adapt(module, ADAPTERS, ())
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(of_adapter(name))
        if name.endswith("adapter_up.weight"):
            nn.init.normal_(parameter, std=0.3)
    return module


@pytest.mark.parametrize("name", sorted(set(TRIED) - {"gan"}))  # with adapters it is refused
def test_gradients_of_adapters_are_those_of_a_loop(name: str) -> None:
    plain, features, labels, outcome = made(name, "patient")
    assert linear_layers(plain)
    module = adapted(plain)
    each = []
    for patient in range(len(features)):
        here = slice(patient, patient + 1)
        loss = losses(module, features[here], labels[here], outcome).sum()
        trained = [p for _, p in arrays.trained_of(module)]
        found = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
        each.append(torch.cat([one.flatten() for one in found]))
    by_loop = torch.stack(each)
    clip = 0.05
    factors = clip / by_loop.double().norm(dim=1).clamp(min=clip)
    summed = (factors[:, None] * by_loop.double()).sum(0)
    clipped = torch.from_numpy(clipped_sum(module, features, labels, outcome, clip))
    torch.testing.assert_close(clipped, summed, rtol=1e-3, atol=1e-6)

    refuse_unfit(module)
    wrapped = GradSampleModule(module, loss_reduction="sum")
    torch.autograd.backward(losses(wrapped, features, labels, outcome).sum())
    given = [p.grad_sample.flatten(1) for _, p in arrays.trained_of(module)]  # type: ignore[attr-defined]
    torch.testing.assert_close(torch.cat(given, dim=1), by_loop, rtol=1e-4, atol=1e-6)
    frozen = [p for p in module.parameters() if not p.requires_grad]
    assert frozen
    assert all(p.grad is None and not hasattr(p, "grad_sample") for p in frozen)


@pytest.mark.parametrize("name", ["logistic", "mlp", "transformer", "fusion"])
def test_at_first_nothing_is_different_and_merged_never(name: str) -> None:
    plain, features, _, _ = made(name, "patient")
    with torch.no_grad():
        before = plain.eval()(features)
        module = adapt(plain, ADAPTERS, ()).eval()
        torch.testing.assert_close(module(features), before, rtol=0, atol=0)
        trained = adapted(made(name, "patient")[0]).eval()
        after = trained(features)
        again = made(name, "patient")[0].eval()
        assert (after - before).abs().max() > 1e-3
        again.load_state_dict(merged(trained))
        torch.testing.assert_close(again(features), after, rtol=1e-5, atol=1e-6)


def test_the_path_is_the_papers_equation() -> None:
    """Hu et al. 2021, Equation 3: h = W x + alpha / r B A x, worked out by hand."""
    layer = nn.Linear(2, 1)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    one = Adapted(layer, Adapters(rank=1, alpha=4.0))
    one.adapter_down.weight.data = torch.tensor([[3.0, 0.0]])
    one.adapter_up.weight.data = torch.tensor([[0.5]])
    assert one(torch.tensor([1.0, 10.0])).item() == 1 + 10 + 4 * 0.5 * 3


def test_what_begins_anew_gets_no_adapter() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    adapt(module, ADAPTERS, ("2.*",))
    assert [type(one) for one in module] == [Adapted, nn.ReLU, nn.Linear]
