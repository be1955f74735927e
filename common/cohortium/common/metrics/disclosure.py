"""Disclosure control at the site: which counts are too small to leave it.

Primary and complementary cell suppression (Hundepool et al. 2012, Statistical Disclosure Control,
ch. 4). A tally has facets, each with the cells that it reveals:

    n            n
    positives    positives, negatives
    correct      correct, wrong
    confusion    tp, fp, tn, fn
    threshold k  patients with, and without, the outcome between every two neighbours of the
                 study's first k thresholds, which follow from the counts above each

A facet with a cell in 1..minimum_cell-1 is hidden. Then, per attribute, the hidden levels of a
facet must not follow from the total minus the shown ones: at least two are hidden, and together
they hold no small cell either; otherwise the smallest level still shown is hidden too. And where
the hidden levels of the confusion have an empty cell together, each has: with positives and correct
the other three would follow, so that correct is hidden with it.
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise

from cohortium.common.errors import ProtocolError
from cohortium.common.metrics.tallies import BinaryTally, SiteEvaluation

FACETS = ("n", "positives", "correct", "confusion", *(f"threshold {k}" for k in range(2, 6)))
MEANS = (
    "log_loss",
    "auroc",
    "auroc_variance",
    "brier",
    "brier_squares",
    "mean_score",
    "undecided",
)
LEAST_UNDECIDED = 0.01  # mean of p (1 - p), below which means of the scores p are counts
DECIMALS = 3  # of a mean or AUROC that is shown
DIGITS = 3  # of a variance or a mean of fourth powers that is shown

Hidden = dict[str, set[str]]  # level -> facets not shown


def suppress(evaluation: SiteEvaluation, minimum_cell: int) -> SiteEvaluation:
    """What the site may show of an evaluation; with `minimum_cell` 0, all of it unrounded.

    AUROC and means of the scores are shown, rounded to 3 decimals (what only says how precise they
    are, to 3 digits), where both positives and negatives are shown and at least `minimum_cell`;
    nowhere if the scores are nearly all 0 or 1: their squared error would then be the count of
    mistakes, however small.
    """
    if minimum_cell == 0:
        return evaluation
    total = evaluation.overall
    if total.undecided is not None and total.undecided < LEAST_UNDECIDED:
        return suppress(_without_means(evaluation), minimum_cell)
    total_hides = _primary(total, minimum_cell)
    return SiteEvaluation(
        overall=_blank(total, total_hides, total_hides, minimum_cell),
        groups={
            name: _attribute(levels, total_hides, minimum_cell)
            for name, levels in evaluation.groups.items()
        },
    )


def _without_means(evaluation: SiteEvaluation) -> SiteEvaluation:
    return SiteEvaluation(
        overall=_counts(evaluation.overall),
        groups={
            name: {level: _counts(tally) for level, tally in levels.items()}
            for name, levels in evaluation.groups.items()
        },
    )


def _counts(tally: BinaryTally) -> BinaryTally:
    return tally.model_copy(
        update={
            **dict.fromkeys(MEANS),
            "reason": tally.reason or "scores near 0 and 1 would give counts away",
        }
    )


def _attribute(
    levels: Mapping[str, BinaryTally], total_hides: set[str], minimum_cell: int
) -> dict[str, BinaryTally]:
    primary = {name: _primary(tally, minimum_cell) for name, tally in levels.items()}
    hidden = {name: set(facets) for name, facets in primary.items()}
    for facet in FACETS:
        if facet not in total_hides and facet in _facets(next(iter(levels.values()))):
            _complete(levels, hidden, facet, minimum_cell)
    if "confusion" not in total_hides:
        _unpin(levels, hidden, minimum_cell)
    return {
        name: _blank(tally, hidden[name], primary[name], minimum_cell)
        for name, tally in levels.items()
    }


def _primary(tally: BinaryTally, minimum_cell: int) -> set[str]:
    """Facets that hold a small cell themselves, and those that would reveal them."""
    small = [facet for facet in _facets(tally) if _has_small(_cells(tally, facet), minimum_cell)]
    return {also for facet in small for also in _hides_too(facet)}


def _facets(tally: BinaryTally) -> tuple[str, ...]:
    return FACETS[: 4 + len(tally.further)]


def _hides_too(facet: str) -> tuple[str, ...]:
    """Itself and the facets that it could be worked out from."""
    finer = FACETS[FACETS.index(facet) :]
    return tuple(name for name in finer if (facet, name) != ("positives", "correct"))


def _complete(
    levels: Mapping[str, BinaryTally], hidden: Hidden, facet: str, minimum_cell: int
) -> None:
    """Hide this facet of further levels until total minus shown gives no small cell away."""
    by_size = sorted((_known(tally.n), name) for name, tally in levels.items())
    candidates = [name for n, name in by_size if n and facet not in hidden[name]]
    while candidates and _recoverable(levels, hidden, facet, minimum_cell):
        hidden[candidates.pop(0)].update(_hides_too(facet))


def _unpin(levels: Mapping[str, BinaryTally], hidden: Hidden, minimum_cell: int) -> None:
    """Hide what would solve the hidden confusions if one of their cells is empty in all."""
    names = [name for name in levels if "confusion" in hidden[name]]
    if 0 in _together(levels, names, "confusion"):
        for name in names:
            hidden[name].update(_hides_too("correct"))
        _complete(levels, hidden, "correct", minimum_cell)


def _recoverable(
    levels: Mapping[str, BinaryTally], hidden: Hidden, facet: str, minimum_cell: int
) -> bool:
    names = [name for name in levels if facet in hidden[name]]
    return len(names) == 1 or _has_small(_together(levels, names, facet), minimum_cell)


def _together(levels: Mapping[str, BinaryTally], names: list[str], facet: str) -> list[int]:
    parts = [_cells(levels[name], facet) for name in names]
    return [sum(cells) for cells in zip(*parts, strict=True)]


def _cells(tally: BinaryTally, facet: str) -> tuple[int, ...]:
    n, positives, correct = _known(tally.n), _known(tally.positives), _known(tally.correct)
    if facet == "n":
        return (n,)
    if facet == "positives":
        return (positives, n - positives)
    if facet == "correct":
        return (correct, n - correct)
    tp, fp = [_known(tally.tp)], [_known(tally.fp)]
    for called in tally.further[: FACETS.index(facet) - FACETS.index("confusion")]:
        tp.append(called.tp)
        fp.append(called.fp)
    return (*_between(tp, positives), *_between(fp, n - positives))


def _between(above: list[int], everybody: int) -> list[int]:
    """Patients between neighbouring thresholds, from those above each: the higher, the fewer."""
    return [more - fewer for fewer, more in pairwise([0, *sorted(above), everybody])]


def _known(count: int | None) -> int:
    if count is None:
        raise ProtocolError("an evaluation that hides counts already cannot be suppressed again")
    return count


def _has_small(cells: Iterable[int], minimum_cell: int) -> bool:
    return any(0 < cell < minimum_cell for cell in cells)


def _blank(
    tally: BinaryTally, hides: set[str], primary: set[str], minimum_cell: int
) -> BinaryTally:
    """The tally without the hidden facets, and with the reason why."""
    scored = "positives" not in hides and min(_cells(tally, "positives")) >= minimum_cell
    confusion = "confusion" not in hides
    return BinaryTally(
        n=tally.n if "n" not in hides else None,
        positives=tally.positives if "positives" not in hides else None,
        correct=tally.correct if "correct" not in hides else None,
        tp=tally.tp if confusion else None,
        fp=tally.fp if confusion else None,
        tn=tally.tn if confusion else None,
        fn=tally.fn if confusion else None,
        log_loss=_rounded(tally.log_loss) if scored else None,
        auroc=_rounded(tally.auroc) if scored else None,
        auroc_variance=_cut(tally.auroc_variance) if scored else None,
        brier=_rounded(tally.brier) if scored else None,
        brier_squares=_cut(tally.brier_squares) if scored else None,
        mean_score=_rounded(tally.mean_score) if scored else None,
        further=tally.further[: _further_shown(hides)],
        reason=_reason(tally, hides, primary, minimum_cell),
    )


def _further_shown(hides: set[str]) -> int:
    finest = FACETS[4:]
    return next((k for k, facet in enumerate(finest) if facet in hides), len(finest))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DECIMALS)


def _cut(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")


def _reason(tally: BinaryTally, hides: set[str], primary: set[str], minimum_cell: int) -> str:
    if primary:
        return f"fewer than {minimum_cell} patients in a cell"
    return "hidden so that a smaller group cannot be worked out" if hides else tally.reason
