"""Who was in the training data? Two attacks on a released generative model, and what they find.

Scores are high for "was in". Nothing here knows of privacy but `Bound`: what the mechanisms that a
ledger counts leave to the best attacker there can be.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import trapezoid
from torch import nn

from cohortium.common.loss import per_example
from cohortium.common.metrics.auroc import auroc
from cohortium.common.privacy.accounting import Mechanism, true_positive_rate

Wide = NDArray[np.float64]
Vector = NDArray[np.float32]
Mask = NDArray[np.bool_]

FALSE_ALARMS = 0.01
GRID = 100  # false positive rates at which the bound's curve is taken


@dataclass(frozen=True)
class Found:
    """What an attack finds: the area under its curve, and members found at 1 % false alarms."""

    auc: float
    members: float


def nearest(patients: Vector, synthetic: Vector) -> Wide:
    """Minus the distance to the nearest synthetic row, (n,), for inputs (n, f) and (m, f).

    GAN-Leaks' attack on a generator that only gives rows (Chen et al. 2020, Section 5.2).
    """
    table = torch.from_numpy(synthetic)
    parts = torch.split(torch.from_numpy(patients), 256)
    found: Wide = -torch.cat([torch.cdist(p, table).amin(dim=1) for p in parts]).double().numpy()
    return found


def likelihood(patients: Vector, module: nn.Module) -> Wide:
    """Minus the loss with which the released model was trained (Yeom et al. 2018), (n,)."""
    rows = torch.from_numpy(patients)
    with torch.no_grad():
        found: Wide = -per_example("generation", module.eval()(rows), rows).double().numpy()
    return found


def attack(scores: Wide, members: Mask) -> Found:
    """What scores (n,) say of who was in, bool (n,); both kinds are there.

    At 1 % false alarms the threshold lies above all but 1 % of those who were not, rounded down.
    """
    others = np.sort(scores[~members])[::-1]
    threshold = others[int(FALSE_ALARMS * len(others))]
    area = auroc(scores, members)
    assert area is not None
    return Found(auc=area, members=float((scores[members] > threshold).mean()))


def bound(mechanisms: Sequence[Mechanism]) -> Found:
    """The most that any attack on these can find, on average over patients."""
    rates = np.concatenate([np.geomspace(1e-6, 1e-2, GRID), np.linspace(1e-2, 1.0, GRID)[1:-1]])
    most = [true_positive_rate(mechanisms, float(rate)) for rate in rates]
    area = trapezoid([most[0], *most, 1.0], [0.0, *rates, 1.0])
    return Found(auc=float(area), members=true_positive_rate(mechanisms, FALSE_ALARMS))
