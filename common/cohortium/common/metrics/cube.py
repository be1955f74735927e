"""Disclosure control at the site: which counts are too small to leave it.

Every held-out patient falls into one *micro cell* of each question (for a yes or no outcome:
outcome x interval of the score). A *facet* is what can be shown or hidden of a group as one thing:
counts of the unions of micro cells that are its cells. A module for a kind of outcome gives

    questions(predicted, outcome, study) -> tuple[Question, ...]
    tally(predicted, outcome, study, hidden, minimum_cell) -> Tally

`predicted` and `outcome` are those of a group's patients, `hidden` (a set) names the facets not to
show. With minimum_cell 0, nothing is hidden nor rounded.

A facet with a cell in 1..minimum_cell-1 is hidden (primary suppression), with the finer ones from
which it would follow; then others, so that it does not follow from the total minus what is shown
(complementary suppression; Hundepool et al. 2012, Statistical Disclosure Control, ch. 4).
"""

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
    """Facets by name, each hiding all those whose cells refine its own."""
    parts = {name: tuple(map(frozenset, some)) for name, some in cells.items()}
    return tuple(
        Facet(
            name,
            own,
            tuple(other for other in parts if other != name and _refines(parts[other], own)),
        )
        for name, own in parts.items()
    )


def _refines(fine: tuple[frozenset[int], ...], coarse: tuple[frozenset[int], ...]) -> bool:
    return all(any(cell <= whole for whole in coarse) for cell in fine)


def hide(
    questions: Sequence[Question],
    attributes: Mapping[str, Levels],
    intersections: Sequence[tuple[str, str]],
    minimum_cell: int,
) -> dict[Group, frozenset[str]]:
    """The facets that each group must not show; nothing with minimum_cell 0.

    Groups are OVERALL, each (attribute, level), and for an intersection (`a x b`, `level x level`).
    """
    groups = {OVERALL: np.ones(len(questions[0].micro), np.bool_)}
    for name, levels in families(attributes, intersections).items():
        groups |= {(name, level): who for level, who in levels.items()}
    return {group: _primary(questions, who, minimum_cell) for group, who in groups.items()}


def families(
    attributes: Mapping[str, Levels], intersections: Sequence[tuple[str, str]]
) -> dict[str, dict[str, Flags]]:
    """Every table by name: the attributes, and the intersections made of them."""
    found = {name: dict(levels) for name, levels in attributes.items()}
    for one, other in intersections:
        found[f"{one} x {other}"] = {
            f"{a} x {b}": mine & theirs
            for a, mine in attributes[one].items()
            for b, theirs in attributes[other].items()
        }
    return found


def _primary(questions: Sequence[Question], who: Flags, minimum_cell: int) -> frozenset[str]:
    """Facets that hold a small cell themselves, and those that would reveal them."""
    hidden = set[str]()
    for question in questions:
        counts = np.bincount(question.micro[who], minlength=question.n_micro)
        for facet in question.facets:
            cells = [int(counts[sorted(cell)].sum()) for cell in facet.cells]
            if any(0 < cell < minimum_cell for cell in cells):
                hidden |= {facet.name, *facet.hides}
    return frozenset(hidden)
