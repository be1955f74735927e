"""What can be shown or hidden of a group of patients, for every kind of outcome."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from cohortium.common.metrics.tallies import crossed
from cohortium.common.study import Study

Flags = NDArray[np.bool_]
Places = NDArray[np.int64]
Group = tuple[str, str]  # attribute and level
Levels = Mapping[str, Flags]  # who is in each level of an attribute, (patients,)

OVERALL: Group = ("", "")


@dataclass(frozen=True)
class Facet:
    """Counts that are shown or hidden together.

    cells: sets of micro cells, which together hold each once. hides: the finer facets from which
    these counts would follow; they are hidden where this one is.
    """

    name: str
    cells: tuple[frozenset[int], ...]
    hides: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Question:
    """One way to sort the patients, and what may be shown of it.

    Several questions (labels; a second model) are about the same patients. They share the facet
    `n`; every other facet's name is in one question only.

    Attributes:
        micro: (patients,) each one's micro cell, below `n_micro`.
        facets: coarsest first, such as n.
        shared: (n_micro,) for each micro cell a coarser class that all questions know of their
            patients, such as outcome x called; one class by default.
        finest: what is protected besides the cells of facets; the micro cells by default.
    """

    micro: Places
    n_micro: int
    facets: tuple[Facet, ...]
    shared: tuple[int, ...] = ()
    finest: tuple[frozenset[int], ...] = ()

    @property
    def protected(self) -> tuple[frozenset[int], ...]:
        """Cells that nobody may narrow down where they are small, in order, each once.

        A sum of micro cells that gives a small count away gives away one of them, too.
        """
        micro = self.finest or tuple(frozenset((k,)) for k in range(self.n_micro))
        wanted = {*micro, *(cell for facet in self.facets for cell in facet.cells)}
        return tuple(sorted(wanted, key=sorted))


def facets(cells: Mapping[str, Sequence[Iterable[int]]]) -> tuple[Facet, ...]:
    """Facets by name, each hiding all those whose cells refine its own; of equal ones the later."""
    parts = {name: tuple(map(frozenset, some)) for name, some in cells.items()}
    order = list(parts)

    def follows(coarse: str, fine: str) -> bool:
        if not _refines(parts[fine], parts[coarse]):
            return False
        return not _refines(parts[coarse], parts[fine]) or order.index(coarse) < order.index(fine)

    return tuple(
        Facet(name, own, tuple(other for other in order if other != name and follows(name, other)))
        for name, own in parts.items()
    )


def _refines(fine: Iterable[frozenset[int]], coarse: Sequence[frozenset[int]]) -> bool:
    return all(any(cell <= whole for whole in coarse) for cell in fine)


def table_levels(study: Study, *more: str) -> dict[str, set[str]]:
    """The levels, and `more`, of each attribute; of declared intersections, all pairs of theirs."""
    levels = {name: {*study.attribute_levels(name), *more} for name in study.fairness.attributes}
    tables = {
        crossed(one, other): {crossed(a, b) for a, b in product(levels[one], levels[other])}
        for one, other in study.fairness.intersections
    }
    return levels | tables


def families(
    attributes: Mapping[str, Levels], intersections: Iterable[tuple[str, str]]
) -> dict[str, dict[str, Flags]]:
    """Every table by name: the attributes, and the intersections made of them."""
    found = {name: dict(levels) for name, levels in attributes.items()}
    for one, other in intersections:
        found[crossed(one, other)] = {
            crossed(a, b): mine & theirs
            for a, mine in attributes[one].items()
            for b, theirs in attributes[other].items()
        }
    return found


def joined(questions: Sequence[Question], most_micro: int) -> tuple[Question, ...]:
    """Questions put together into one, as long as it has no more than `most_micro` micro cells.

    A micro cell of two questions is one of each, of the same shared class.
    """
    first, *others = questions
    for place, other in enumerate(others):
        both = _joined(first, other)
        if both.n_micro > most_micro:
            return (first, *others[place:])
        first = both
    return (first,)


def _joined(one: Question, other: Question) -> Question:
    shared = one.shared or (0,) * one.n_micro
    theirs = other.shared or (0,) * other.n_micro
    pairs = [(a, b) for a, c in enumerate(shared) for b, d in enumerate(theirs) if c == d]
    places = {pair: place for place, pair in enumerate(pairs)}
    cells = {f.name: [_of(cell, pairs, 0) for cell in f.cells] for f in one.facets}
    for facet in other.facets:
        cells.setdefault(facet.name, [_of(cell, pairs, 1) for cell in facet.cells])
    finest = [
        _of(cell, pairs, side)
        for side, question in enumerate((one, other))
        for cell in question.finest or (frozenset((k,)) for k in range(question.n_micro))
    ]
    together = zip(one.micro.tolist(), other.micro.tolist(), strict=True)
    micro = np.array([places[pair] for pair in together], np.int64)
    return Question(
        micro, len(pairs), facets(cells), tuple(shared[a] for a, _ in pairs), tuple(finest)
    )


def _of(cell: frozenset[int], pairs: Sequence[tuple[int, int]], side: int) -> frozenset[int]:
    return frozenset(place for place, pair in enumerate(pairs) if pair[side] in cell)
