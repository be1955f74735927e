"""Cox's partial likelihood within one site: which of those at risk has the event next.

Sites are strata, each with a baseline hazard of its own (Kalbfleisch & Prentice 2002, The
Statistical Analysis of Failure Time Data, 4.4): the likelihood of all is the product of theirs, and
no risk set, no time and no event leaves a site. Ties by Efron (1977, JASA 72:557), who lets those
with one time leave the risk set one after the other, in all orders alike.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cohortium.client.training.update import LocalUpdate
from cohortium.common import arrays

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LOWEST = -500.0  # of a log hazard ratio, from the highest: whose exponential is not yet 0
ROWS = 4096  # at a time


@dataclass(frozen=True, eq=False)
class Events:
    """A site's events, one after the other, and who is at risk at each.

    Attributes:
        hazard: (n,) exp(log hazard ratio) over the highest of them.
        order: (n,) patients by time, the longest watched last.
        had: (e,) patient who had the event; group: (e,) number of its time, from 0, rising.
        starts: (groups,) place in `order` from which on patients are at risk at that time.
        share: (e,) l / d of the l-th of d events at one time.
        total: (e,) sum of the hazards at risk, without `share` of those of that time's events.
        until: (n,) how many of the times a patient is at risk at.
    """

    hazard: Floats
    order: Ints
    had: Ints
    group: Ints
    starts: Ints
    share: Floats
    total: Floats
    until: Ints

    @classmethod
    def of(cls, log_hazard: Floats, labels: Floats) -> "Events":
        """From log hazard ratios (n,) and labels (n, 2): time watched; 1 if an event ended it."""
        times, event = labels[:, 0], labels[:, 1] > 0.5
        hazard = np.exp(np.maximum(log_hazard - log_hazard.max(initial=LOWEST), LOWEST))
        order = np.argsort(times, kind="stable")
        had = order[event[order]]
        at, group, counts = np.unique(times[had], return_inverse=True, return_counts=True)
        starts = np.searchsorted(times[order], at, side="left")
        first = np.concatenate([[0], np.cumsum(counts)])[:-1]
        share = (np.arange(len(had)) - first[group]) / counts[group]
        tied = np.bincount(group, hazard[had], len(at))
        total = _from(hazard[order], starts)[group] - share * tied[group]
        until = np.searchsorted(at, times, side="right")
        return cls(hazard, order, had, group, starts, share, total, until)

    @property
    def log_likelihood(self) -> float:
        return float(np.log(self.hazard[self.had]).sum() - np.log(self.total).sum())

    def expected(self) -> Floats:
        """(n,) events that each patient had to expect: its hazard times the baseline's, summed.

        Event minus expected is the derivative of the log likelihood by the log hazard ratio.
        """
        groups = len(self.starts)
        each = np.bincount(self.group, 1 / self.total, groups)
        summed = np.concatenate([[0.0], np.cumsum(each)])[self.until]
        summed[self.had] -= np.bincount(self.group, self.share / self.total, groups)[self.group]
        found: Floats = self.hazard * summed
        return found

    def information(self, inputs: Floats) -> Floats:
        """(d, d) minus the second derivative, of log hazard ratios linear in inputs (n, d)."""
        weighted = self.hazard[:, None] * inputs
        at_risk = _from(weighted[self.order], self.starts)
        tied = np.zeros_like(at_risk)
        np.add.at(tied, self.group, weighted[self.had])
        means = at_risk[self.group] - self.share[:, None] * tied[self.group]
        means /= self.total[:, None]
        squares: Floats = (self.expected()[:, None] * inputs).T @ inputs - means.T @ means
        return squares


def _from(values: Floats, starts: Ints) -> Floats:
    """Sums of values (n, ...) from each of the places on."""
    return values[::-1].cumsum(axis=0)[::-1][starts]


def train(
    module: nn.Module,
    start: NDArray[np.float32],
    features: NDArray[np.float32],
    labels: NDArray[np.float32],
    nominal_rows: float,
    device: torch.device,
) -> LocalUpdate:
    """delta = gradient of the log partial likelihood / nominal rows, at learning rate 1.

    Args:
        features: (n, f); labels: (n, 2), time watched and event.

    Raises:
        ProtocolError: `start` does not fit the module.
    """
    arrays.load_into(module, start)
    module.to(device).train()
    parts = torch.split(torch.tensor(features, device=device), ROWS)
    with torch.no_grad():
        log_hazard = torch.cat([module(part)[:, 0] for part in parts]).double().cpu().numpy()
    observed = labels.astype(np.float64)
    excess = observed[:, 1] - Events.of(log_hazard, observed).expected()
    module.zero_grad()
    for part, pull in zip(parts, torch.split(torch.tensor(excess), ROWS), strict=True):
        said = module(part)[:, 0]
        torch.autograd.backward(said, pull.to(said))
    gradient = torch.cat([_gradient(one).reshape(-1) for one in module.parameters()])
    delta = gradient.double().cpu().numpy() / nominal_rows
    return LocalUpdate(delta.astype(np.float32), None)


def _gradient(parameter: nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
