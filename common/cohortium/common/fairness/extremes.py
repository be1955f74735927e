"""The worst level of an attribute and the largest gap, without what luck alone makes of them."""

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cohortium.common.evaluating import Criterion
from cohortium.common.fairness.counts import Group, Share, share, together
from cohortium.common.fairness.shrinkage import shrunken
from cohortium.common.fairness.verdicts import Extreme

DRAWS = 2000
HIGHEST_IS_WORST = ("false_positive_rate",)

Floats = NDArray[np.float64]
Ranged = tuple[float, float, float]  # value, low, high
Sites = Mapping[str, Group]


def extreme(
    name: str, criterion: Criterion, outcome: str, levels: Mapping[str, Sites], seed: str
) -> Extreme | None:
    """Over all levels that can be compared, or None below two.

    All at the same sites: those that show every level; where no site does, without the level that
    the fewest sites show. The bootstrap is the same for the same `seed`.

    Args:
        levels: by level and site, what is shown.
    """
    sites = _common(levels, criterion)
    found = {level: _pooled(levels[level], own, criterion) for level, own in sites.items()}
    shares = {level: one for level, one in found.items() if one is not None and one.whole > 0}
    return _of_shares(name, criterion, outcome, shares, _counted(sites), seed)


def extreme_site(
    name: str, criterion: Criterion, outcome: str, sites: Sites, seed: str
) -> Extreme | None:
    """The same where each level is a site."""
    found = {site: share(own, criterion) for site, own in sites.items()}
    shares = {site: one for site, one in found.items() if one is not None and one.whole > 0}
    return _of_shares(name, criterion, outcome, shares, tuple(shares), seed)


def _common(levels: Mapping[str, Sites], criterion: Criterion) -> dict[str, tuple[str, ...]]:
    """By level that is kept, the sites that show all levels that are kept."""
    shown = {
        level: [site for site, own in sites.items() if share(own, criterion) is not None]
        for level, sites in levels.items()
    }
    kept = [level for level, sites in shown.items() if sites]
    while kept:
        common = tuple(s for s in shown[kept[0]] if all(s in shown[level] for level in kept))
        if common:
            return dict.fromkeys(kept, common)
        kept.remove(min(reversed(kept), key=lambda level: len(shown[level])))
    return {}


def _counted(sites: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    return next(iter(sites.values()), ())


def _pooled(sites: Sites, counted: tuple[str, ...], criterion: Criterion) -> Share | None:
    return share(together(sites[site] for site in counted), criterion)


def _of_shares(
    name: str,
    criterion: Criterion,
    outcome: str,
    shares: Mapping[str, Share],
    sites: tuple[str, ...],
    seed: str,
) -> Extreme | None:
    if len(shares) < 2:
        return None
    rng = np.random.default_rng(_number(f"{seed} {name} {criterion} {outcome}"))
    names, counts = tuple(shares), tuple(shares.values())
    sign = -1.0 if criterion in HIGHEST_IS_WORST else 1.0
    pulled = shrunken([one.part for one in counts], [one.whole for one in counts])
    worst, gap = ranges(counts, pulled, sign, rng)
    return Extreme(
        attribute=name,
        criterion=criterion,
        outcome=outcome,
        sites=sites,
        worst_level=names[_worst(counts, pulled, sign)],
        worst=worst[0],
        worst_low=worst[1],
        worst_high=worst[2],
        gap=gap[0],
        gap_low=gap[1],
        gap_high=gap[2],
        levels=len(names),
        shrunken=dict(zip(names, pulled.tolist(), strict=True)),
    )


def _worst(counts: tuple[Share, ...], pulled: Floats, sign: float) -> int:
    """The lowest pulled share; where they are equal, the one that falls short by most patients."""
    mean = sum(one.part for one in counts) / sum(one.whole for one in counts)
    return min(
        range(len(counts)),
        key=lambda i: (sign * pulled[i], sign * (counts[i].part - mean * counts[i].whole)),
    )


def ranges(
    counts: tuple[Share, ...], pulled: Floats, sign: float, rng: np.random.Generator
) -> tuple[Ranged, Ranged]:
    """The worst share and the largest gap, each with its 95% interval.

    Values: as seen, minus what the same statistic gains by luck where the truth is `pulled`.
    Intervals: from those of every share, and of every difference of two, that hold all at once
    (studentised bootstrap), so that it does not matter which is the largest. They hold the truth in
    95 to 99%.

    Args:
        sign: 1.0 if the lowest share is the worst, -1.0 if the highest is.
    """
    seen = np.array([one.value for one in counts])
    luck = _draw(counts, pulled, rng)[0]
    smooth = np.array([(one.part + 1) / (one.whole + 2) for one in counts])
    drawn, errors = _draw(counts, smooth, rng)
    off, error = drawn - smooth, _errors(counts, smooth, np.array([one.whole for one in counts]))
    worst = _least(sign * seen, sign * luck, sign * pulled, error, np.abs(off) / errors)
    i, j = np.triu_indices(len(counts), 1)
    away = np.abs(off[:, i] - off[:, j]) / np.hypot(errors[:, i], errors[:, j])
    apart = np.abs(seen[i] - seen[j])
    reach = float(np.quantile(away.max(axis=1), 0.95)) * np.hypot(error[i], error[j])
    gained = float(np.ptp(luck, axis=1).mean() - np.ptp(pulled))
    low, high = max(0.0, float((apart - reach).max())), min(1.0, float((apart + reach).max()))
    gap = min(high, max(low, float(apart.max()) - gained))
    value, *ends = (min(1.0, max(0.0, sign * end)) for end in worst)
    return (value, min(ends), max(ends)), (gap, low, high)


def _least(seen: Floats, luck: Floats, truth: Floats, error: Floats, away: Floats) -> Ranged:
    reach = float(np.quantile(away.max(axis=1), 0.95)) * error
    low, high = float((seen - reach).min()), float((seen + reach).min())
    gained = float(luck.min(axis=1).mean() - truth.min())
    return min(high, max(low, float(seen.min()) - gained)), low, high


def _draw(
    counts: tuple[Share, ...], truth: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Shares seen by chance and noise, and their standard errors: each (draws, levels)."""
    wholes = np.array([one.whole for one in counts])
    noise = [np.sqrt([(one.part_noise, one.rest_noise) for one in counts])[:, k] for k in (0, 1)]
    size = (DRAWS, len(counts))
    drawn = rng.binomial(wholes, truth, size)
    parts = np.maximum(0, drawn + noise[0] * rng.standard_normal(size))
    rests = np.maximum(0, wholes - drawn + noise[1] * rng.standard_normal(size))
    total = np.maximum(1, parts + rests)
    return parts / total, _errors(counts, (parts + 1) / (total + 2), total)


def _errors(counts: tuple[Share, ...], p: Floats, wholes: Floats | NDArray[np.int64]) -> Floats:
    """Standard errors of shares p of so many patients, with the variance of the noise."""
    part, rest = (
        np.array([getattr(one, n) for one in counts]) for n in ("part_noise", "rest_noise")
    )
    noise = part * (1 - p) ** 2 + rest * p**2
    found: Floats = np.sqrt(p * (1 - p) / wholes + noise / wholes**2)
    return found


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest())
