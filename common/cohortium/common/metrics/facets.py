"""What can be shown or hidden of a group of patients, for every kind of outcome."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    """

    micro: Places
    n_micro: int
    facets: tuple[Facet, ...]
    shared: tuple[int, ...] = ()


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


def families(
    attributes: Mapping[str, Levels], intersections: Iterable[tuple[str, str]]
) -> dict[str, dict[str, Flags]]:
    """Every table by name: the attributes, and the intersections made of them."""
    found = {name: dict(levels) for name, levels in attributes.items()}
    for one, other in intersections:
        found[f"{one} x {other}"] = {
            f"{a} {b}": mine & theirs
            for a, mine in attributes[one].items()
            for b, theirs in attributes[other].items()
        }
    return found
