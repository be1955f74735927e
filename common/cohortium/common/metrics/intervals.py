"""95% intervals of what is measured once, on the scale on which it is read."""

import math
from collections.abc import Callable

Z_95 = 1.959963984540054  # the normal distribution's 97.5% point

Interval = tuple[float, float]


def wilson(successes: int, trials: int) -> Interval:
    """95% interval of a proportion (Wilson 1927, JASA 22:209), for `trials` above 0.

    Exact coverage is 0.93 to 0.97 for proportions of 0.2 to 0.8 from 50 trials on, and of 0.05 to
    0.95 from 200 on; with 20 trials it lies between 0.91 and 0.99, by the proportion.
    """
    p, z2 = successes / trials, Z_95**2
    middle = p + z2 / (2 * trials)
    reach = Z_95 * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials**2))
    scale = 1 + z2 / trials
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


def newcombe(one: tuple[int, int], other: tuple[int, int]) -> Interval:
    """95% interval of a difference of two independent proportions, `one` minus `other`.

    From the two Wilson intervals (Newcombe 1998, Statistics in Medicine 17:873, method 10). Exact
    coverage is 0.93 to 0.97 for proportions of 0.2 to 0.8 from 20 and 50 trials on.

    Args:
        one, other: successes and trials; trials above 0.
    """
    p, q = one[0] / one[1], other[0] / other[1]
    (low_p, high_p), (low_q, high_q) = wilson(*one), wilson(*other)
    below = math.hypot(p - low_p, high_q - q)
    above = math.hypot(high_p - p, q - low_q)
    return p - q - below, p - q + above


def logit(share: float) -> float:
    """log(p / (1 - p)), for p inside (0, 1)."""
    return math.log(share / (1 - share))


def expit(value: float) -> float:
    """The inverse of `logit`."""
    return 1 / (1 + math.exp(-value)) if value >= 0 else 1 - 1 / (1 + math.exp(value))


def wald(centre: float, variance: float, back: Callable[[float], float]) -> Interval:
    """95% normal interval of an estimate on another scale, read `back` on its own.

    The DeLong interval of an AUROC is `wald(logit(a), variance / (a * (1 - a)) ** 2, expit)`
    (Pepe 2003, The Statistical Evaluation of Medical Tests, 5.2.5): simulated coverage 0.93 to
    0.97 up to 0.9 from 20 patients of each class on, and up to 0.95 from 50 on. With 10 patients
    of one class it falls to 0.90.
    """
    reach = Z_95 * math.sqrt(variance)
    return back(centre - reach), back(centre + reach)


def mcc_variance(tp: float, fp: float, tn: float, fn: float) -> float:
    """Large-sample variance of Matthews' correlation, the phi of a two by two table.

    Bishop, Fienberg & Holland 1975, Discrete Multivariate Analysis, section 11.3.2. No row or
    column may be empty. On Fisher's scale (atanh) divide it by (1 - phi^2)^2; the interval there
    covers 0.93 to 0.97 where 30 patients or more have the outcome and as many have not, and down
    to 0.87 where 4 have it.
    """
    n = tp + fp + tn + fn
    ill, called = (tp + fn) / n, (tp + fp) / n
    rows, columns = ill * (1 - ill), called * (1 - called)
    phi = (tp * tn - fp * fn) / n**2 / math.sqrt(rows * columns)
    tilt, lean = 2 * ill - 1, 2 * called - 1
    spread = (
        1
        - phi**2
        + phi * (1 + phi**2 / 2) * tilt * lean / math.sqrt(rows * columns)
        - 0.75 * phi**2 * (tilt**2 / rows + lean**2 / columns)
    )
    return max(spread, 0.0) / n
