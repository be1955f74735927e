"""Reliability: what scores say against what happens, in equal bins of the score."""

import math
from collections.abc import Iterable, Iterator

from scipy.special import ndtr

from cohortium.common.document import Document
from cohortium.common.metrics.intervals import wilson
from cohortium.common.metrics.measures import Sums, added
from cohortium.common.metrics.tallies import Bins

FIELDS = 3  # of a bin: patients, those with the outcome, sum of their scores


class ReliabilityBin(Document):
    """Scores from `low` to `high`: their mean, and the share observed with Wilson's interval."""

    low: float
    high: float
    n: int
    mean_score: float | None
    observed: float | None
    observed_low: float | None
    observed_high: float | None


def reliability(bins: Iterable[Bins | None]) -> tuple[ReliabilityBin, ...]:
    """The bins of sites put together, as coarse as the coarsest; () where none is shown."""
    shown = [flat for one in bins if (flat := flattened(one))]
    if not shown:
        return ()
    pooled = list(_by_bin(merged(shown)))
    edges = [place / len(pooled) for place in range(len(pooled) + 1)]
    return tuple(_bin(edges[place], edges[place + 1], *one) for place, one in enumerate(pooled))


def _bin(low: float, high: float, n: float, positives: float, total: float) -> ReliabilityBin:
    positives = min(positives, n)
    ends = wilson(round(positives), round(n)) if n else (None, None)
    return ReliabilityBin(
        low=low,
        high=high,
        n=round(n),
        mean_score=total / n if n else None,
        observed=positives / n if n else None,
        observed_low=ends[0],
        observed_high=ends[1],
    )


def flattened(bins: Bins | None) -> Sums | None:
    """(patients, positives, sum of scores) of each bin, one after the other."""
    if bins is None:
        return None
    rows = zip(bins.n, bins.positives, bins.mean_score, strict=True)
    return tuple(
        value
        for n, positives, mean in rows
        for value in (float(n), float(positives), n * (mean or 0))
    )


def merged(sums: list[Sums]) -> Sums:
    """Sites put together, each first made as coarse as the coarsest; exact, in any order."""
    coarsest = min(map(len, sums))
    return added([_coarser(one, coarsest) for one in sums])


def _coarser(sums: Sums, length: int) -> Sums:
    """Neighbouring bins put together until there are `length` numbers."""
    if len(sums) <= length:
        return sums
    rows = list(_by_bin(sums))
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return _coarser(tuple(value for pair in pairs for value in added(list(pair))), length)


def _by_bin(sums: Sums) -> Iterator[tuple[float, float, float]]:
    for start in range(0, len(sums), FIELDS):
        yield sums[start], sums[start + 1], sums[start + 2]


def expected_error(sums: Sums) -> tuple[float, float] | None:
    """Expected calibration error of these bins, without what chance alone adds to it, and n.

    The mean over patients of |mean score - share observed| of their bin (Naeini et al. 2015),
    minus what a normal error of each share would add (Kumar, Liang & Ma 2019, "Verified
    Uncertainty Calibration", whose resampling the folded normal distribution makes exact). At
    least 0. Simulated with 8 bins, it is right to 0.003 for a true error of 0.05 from 400 patients
    on; of a perfect model it still shows 0.06 at 100 patients and 0.01 at 2000 (without the
    correction 0.09 and 0.02). An error within a bin that cancels stays unseen.
    """
    rows = [one for one in _by_bin(sums) if one[0]]
    n = math.fsum(row[0] for row in rows)
    if not n:
        return None
    return max(0.0, math.fsum(size * _excess(size, p, s) for size, p, s in rows) / n), n


def _excess(n: float, positives: float, total: float) -> float:
    """|gap| twice, minus the expected |gap + error|."""
    observed = min(positives / n, 1.0)
    gap, deviation = abs(total / n - observed), math.sqrt(observed * (1 - observed) / n)
    if not deviation:
        return gap
    z = gap / deviation
    density = math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    folded = 2 * deviation * density + gap * (1 - 2 * float(ndtr(-z)))
    return 2 * gap - folded
