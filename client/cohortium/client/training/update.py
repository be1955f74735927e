"""What one round of local training leaves behind."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cohortium.common.privacy.accounting import Mechanism


@dataclass(frozen=True, eq=False)
class LocalUpdate:
    """The change to the model and what releasing it costs.

    Attributes:
        delta: new minus start parameters, float32 (d,), in the order of `arrays.flatten`.
        mechanism: what was really run; None without privacy.
        loss: mean over patients at the start, told where the study asks for it; with privacy it
            carries noise that `mechanism` accounts for.
    """

    delta: NDArray[np.float32]
    mechanism: Mechanism | None
    loss: float | None = None
