"""The steps of a generator, which learns from the discriminator and never from a patient."""

import copy
from collections.abc import Callable
from dataclasses import fields

import torch
from torch import nn

from cohortium.client.training.optimiser import Optimiser
from cohortium.client.training.team import ALONE, Team
from cohortium.common.models.adversarial import Adversarial

ROWS = 128  # made up for each step


class GeneratorSteps:
    """Follows a discriminator that trains beside it, by the same kind of optimiser.

    All that it knows is the discriminator's parameters after a step. With privacy they are a
    function of what was clipped and noised, so that the generator is, too: post-processing, which
    costs nothing (Dwork & Roth 2014, Proposition 2.1). It works on a copy, which no patient's
    row ever goes through.
    """

    def __init__(self, module: Adversarial, optimiser: Optimiser, team: Team = ALONE) -> None:
        self._module, self._team = module, team
        self._copy = copy.deepcopy(module).train()
        self._copy.discriminator.requires_grad_(False)
        self._copy.generator.requires_grad_(True)
        plain = Optimiser(**{one.name: getattr(optimiser, one.name) for one in fields(Optimiser)})
        self._optimiser = plain.of(self._copy)
        self._steps = 0

    def follow(self) -> None:
        """To be called after every step of the discriminator."""
        self._steps += 1
        if self._steps % self._copy.every:
            return
        _put(self._module.discriminator, self._copy.discriminator)
        self._optimiser.zero_grad()
        torch.autograd.backward(self._copy.deceit(ROWS))
        self._optimiser.step()
        self._team.hear_first([p.detach() for p in self._copy.generator.parameters()])
        _put(self._copy.generator, self._module.generator)


def follower(module: nn.Module, optimiser: Optimiser, team: Team = ALONE) -> Callable[[], None]:
    """What to call after every step of a module's optimiser; of most modules nothing."""
    if isinstance(module, Adversarial):
        return GeneratorSteps(module, optimiser, team).follow
    return lambda: None


def _put(source: nn.Module, target: nn.Module) -> None:
    with torch.no_grad():
        for one, other in zip(source.parameters(), target.parameters(), strict=True):
            other.copy_(one)
