"""Adapters: beside a linear layer that stays as it is, a path of low rank that is trained (LoRA).

Our own lines for what peft does: docs/decisions/0015-adapters-of-our-own.md.
"""

import math

import torch
from torch import Tensor, nn

from cohortium.common.transfer import Adapters, matches

DOWN, UP = "adapter_down", "adapter_up"


class Adapted(nn.Linear):
    """x -> W x + b + alpha / rank B A x (Hu et al. 2021, Equation 3).

    W (outputs, inputs) and b keep their names. A (rank, inputs) is drawn as Kaiming-uniform and B
    (outputs, rank) begins at zero, so that at first nothing is different.
    """

    def __init__(self, layer: nn.Linear, adapters: Adapters) -> None:
        with_bias = layer.bias is not None
        super().__init__(layer.in_features, layer.out_features, with_bias, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.adapter_down = nn.Linear(layer.in_features, adapters.rank, bias=False)
        self.adapter_up = nn.Linear(adapters.rank, layer.out_features, bias=False)
        self.scale = adapters.alpha / adapters.rank
        nn.init.kaiming_uniform_(self.adapter_down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.adapter_up.weight)

    def forward(self, input: Tensor) -> Tensor:
        path: Tensor = self.adapter_up(self.adapter_down(input))
        return super().forward(input) + self.scale * path

    @property
    def merged(self) -> Tensor:
        """float32 (outputs, inputs): W + alpha / rank B A, the one matrix that does the same."""
        a, b = self.adapter_down.weight.detach(), self.adapter_up.weight.detach()
        return (self.weight.detach().double() + self.scale * b.double() @ a.double()).float()


def linear_layers(module: nn.Module) -> dict[str, nn.Linear]:
    """The layers that can have adapters, by name; one that is the whole module is called ""."""
    return {name: one for name, one in module.named_modules() if type(one) is nn.Linear}


def chosen(module: nn.Module, adapters: Adapters, anew: tuple[str, ...]) -> dict[str, nn.Linear]:
    """The layers that get adapters: named by a pattern, unless their weights begin anew (`anew`).

    What begins anew is trained as a whole.
    """
    return {
        name: layer
        for name, layer in linear_layers(module).items()
        if matches(name, adapters.layers) and not matches(f"{name}.weight".lstrip("."), anew)
    }


def adapt(module: nn.Module, adapters: Adapters, anew: tuple[str, ...]) -> nn.Module:
    """The module with its chosen layers adapted; drawn from torch's global generator."""
    for name, layer in chosen(module, adapters, anew).items():
        if not name:
            return Adapted(layer, adapters)
        above, _, last = name.rpartition(".")
        setattr(module.get_submodule(above), last, Adapted(layer, adapters))
    return module


def of_adapter(name: str) -> bool:
    """Whether a parameter is of an adapter, by its name."""
    return not {DOWN, UP}.isdisjoint(name.split("."))


def merged(module: nn.Module) -> dict[str, Tensor]:
    """The parameters of the same function without adapters: names and shapes as before `adapt`."""
    found = {n: p.detach() for n, p in module.named_parameters() if not of_adapter(n)}
    with torch.no_grad():
        for name, layer in module.named_modules():
            if isinstance(layer, Adapted):
                found[f"{name}.weight".lstrip(".")] = layer.merged
    return found
