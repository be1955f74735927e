"""Disclosure control at the site: which counts are too small to leave it.

Primary and complementary cell suppression (Hundepool et al. 2012, Statistical Disclosure Control,
ch. 4). A tally has four facets, each with the cells that it reveals:

    n          n
    positives  positives, negatives
    correct    correct, wrong
    confusion  tp, fp, tn, fn

A facet with a cell in 1..minimum_cell-1 is hidden. Then, per attribute, the hidden levels of a
facet must not follow from the total minus the shown ones: at least two are hidden, and together
they hold no small cell either; otherwise the smallest level still shown is hidden too.
"""

from collections.abc import Iterable, Mapping

from cohortium.common.errors import ProtocolError
from cohortium.common.metrics.tally import BinaryTally, SiteEvaluation

FACETS = ("n", "positives", "correct", "confusion")
HIDES_TOO = {  # a facet that could be worked out from another one goes with it
    "n": FACETS,
    "positives": ("positives", "confusion"),
    "correct": ("correct", "confusion"),
    "confusion": ("confusion",),
}
DECIMALS = 3  # of a log-loss or AUROC that is shown

Hidden = dict[str, set[str]]  # level -> facets not shown


def suppress(evaluation: SiteEvaluation, minimum_cell: int) -> SiteEvaluation:
    """What the site may show of an evaluation; with `minimum_cell` 0, all of it unrounded.

    AUROC and log-loss are shown, rounded to 3 decimals, where both positives and negatives are
    shown and at least `minimum_cell`.
    """
    if minimum_cell == 0:
        return evaluation
    total = evaluation.overall
    total_hides = _primary(total, minimum_cell)
    return SiteEvaluation(
        overall=_blank(total, total_hides, total_hides, minimum_cell),
        groups={
            name: _attribute(levels, total_hides, minimum_cell)
            for name, levels in evaluation.groups.items()
        },
    )


def _attribute(
    levels: Mapping[str, BinaryTally], total_hides: set[str], minimum_cell: int
) -> dict[str, BinaryTally]:
    primary = {name: _primary(tally, minimum_cell) for name, tally in levels.items()}
    hidden = {name: set(facets) for name, facets in primary.items()}
    for facet in FACETS:
        if facet not in total_hides:
            _complete(levels, hidden, facet, minimum_cell)
    return {
        name: _blank(tally, hidden[name], primary[name], minimum_cell)
        for name, tally in levels.items()
    }


def _primary(tally: BinaryTally, minimum_cell: int) -> set[str]:
    """Facets that hold a small cell themselves, and those that would reveal them."""
    small = [facet for facet in FACETS if _has_small(_cells(tally, facet), minimum_cell)]
    return {also for facet in small for also in HIDES_TOO[facet]}


def _complete(
    levels: Mapping[str, BinaryTally], hidden: Hidden, facet: str, minimum_cell: int
) -> None:
    """Hide this facet of further levels until total minus shown gives no small cell away."""
    by_size = sorted((_known(tally.n), name) for name, tally in levels.items())
    candidates = [name for n, name in by_size if n and facet not in hidden[name]]
    while candidates and _recoverable(levels, hidden, facet, minimum_cell):
        hidden[candidates.pop(0)].update(HIDES_TOO[facet])


def _recoverable(
    levels: Mapping[str, BinaryTally], hidden: Hidden, facet: str, minimum_cell: int
) -> bool:
    parts = [_cells(levels[name], facet) for name in levels if facet in hidden[name]]
    if not parts:
        return False
    together = [sum(cells) for cells in zip(*parts, strict=True)]
    return len(parts) == 1 or _has_small(together, minimum_cell)


def _cells(tally: BinaryTally, facet: str) -> tuple[int, ...]:
    n, positives, correct = _known(tally.n), _known(tally.positives), _known(tally.correct)
    if facet == "n":
        return (n,)
    if facet == "positives":
        return (positives, n - positives)
    if facet == "correct":
        return (correct, n - correct)
    return (_known(tally.tp), _known(tally.fp), _known(tally.tn), _known(tally.fn))


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
        reason=_reason(tally, hides, primary, minimum_cell),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DECIMALS)


def _reason(tally: BinaryTally, hides: set[str], primary: set[str], minimum_cell: int) -> str:
    if primary:
        return f"fewer than {minimum_cell} patients in a cell"
    return "hidden so that a smaller group cannot be worked out" if hides else tally.reason
