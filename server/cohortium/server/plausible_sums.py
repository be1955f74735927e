"""What every check of an evaluation asks of counts, means and their names."""

import math

from cohortium.common.errors import ProtocolError

ROUNDED = 0.006  # share of a value that rounding at the site can move

CONTRADICT = "an evaluation with counts that contradict each other"
SUMS = "an evaluation with sums that contradict each other"
OTHER_NAMES = "an evaluation of other classes, labels, states or horizons than the study names"


def counted(n: int | None, *means: float | None) -> None:
    """Means are of patients who are counted."""
    if any(mean is not None for mean in means):
        require(bool(n) or all(not mean for mean in means), SUMS)
        require(all(math.isfinite(mean) for mean in means if mean is not None), SUMS)


def at_most(part: int | None, whole: int | None) -> None:
    """A part is at most a whole that is shown."""
    require(part is None or (whole is not None and part <= whole), CONTRADICT)


def require(holds: bool, otherwise: str) -> None:
    """Raise ProtocolError with these words unless it holds."""
    if not holds:
        raise ProtocolError(otherwise)
