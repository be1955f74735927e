"""Disclosure control at the site: which counts are too small to leave it.

Every held-out patient falls into one *micro cell* of each question (for a yes or no outcome:
outcome x interval of the score). A *facet* is what can be shown or hidden of a group as one thing:
counts of the unions of micro cells that are its cells. A module for a kind of outcome gives

    questions(predicted, outcome, study) -> tuple[Question, ...]
    tally(predicted, outcome, study, hidden, minimum_cell) -> Tally

`predicted` and `outcome` are those of a group's patients, `hidden` (a set) names the facets not to
show. With minimum_cell 0, nothing is hidden nor rounded.

What is hidden, before anything leaves (Hundepool et al. 2012, Statistical Disclosure Control,
chapter 4):

1. Primary: a facet with a cell in 1..minimum_cell-1, and the finer facets from which it follows.
2. Complementary: in each attribute, and each row and column of a declared intersection, the hidden
   parts of a facet must not follow from the total minus the shown ones: at least two are hidden,
   and together they hold no small cell; otherwise the smallest one still shown is hidden too.
3. Audit over the full cube (`cube_audit`): a cell in 1..minimum_cell-1 of any group, or of any two
   attributes, which by all that is shown must lie in an interval shorter than minimum_cell, takes
   the finest facet with it that pins it, of the smallest group; until there is none.

The overall counts are settled first, without a look at the groups: earlier evaluations have shown
them, so that nothing by group may rely on their being hidden later. Empty cells may be shown; what
they pin down counts in the audit. Which of the hidden facets had a small cell is not said, or sums
such as 9 + 9 = 18 would be solved.

Other sites' counts do not help an attacker here. Each site hides on its own, every number that
leaves is of one site, and no total over sites is made but of numbers that are shown: totals minus
known sites give what the remaining sites have shown themselves.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from cohortium.common.metrics.cube_audit import Attacker, Key, Shown, Unsolved, Vector, Work
from cohortium.common.metrics.cube_view import Clique, View, alone, cliques, indicators, view
from cohortium.common.metrics.facets import (
    OVERALL,
    Facet,
    Flags,
    Group,
    Levels,
    Places,
    Question,
    facets,
    families,
    joined,
)
from cohortium.common.metrics.tallies import crossed

__all__ = [
    "OVERALL",
    "Facet",
    "Flags",
    "Group",
    "Hidden",
    "Levels",
    "Question",
    "facets",
    "families",
    "hide",
]

MOST_MICRO = 256  # of questions that are looked at as one

Line = tuple[Group, tuple[Group, ...]]  # a group, and the groups that it falls into


@dataclass(frozen=True)
class Hidden:
    """The names of the facets that each group must not show.

    Groups are OVERALL, each (attribute, level), and of an intersection (`a x b`, `level x level`).
    unchecked: why everything of a group is hidden whose audit could not be done.
    """

    facets: Mapping[Group, frozenset[str]]
    unchecked: Mapping[Group, str]


def hide(
    questions: Sequence[Question],
    attributes: Mapping[str, Levels],
    intersections: Sequence[tuple[str, str]],
    minimum_cell: int,
) -> Hidden:
    """What must not be shown; everything by group where the audit cannot be done.

    Args:
        attributes: levels that do not overlap and hold every patient once.
    """
    together = joined(questions, MOST_MICRO)
    cube = _Cube(together, attributes, intersections, minimum_cell)
    if minimum_cell == 0:
        return Hidden({group: frozenset() for group in cube.who}, {})
    unchecked = dict[Group, str]()
    steps = {cube.settle_overall: (OVERALL,), cube.settle_groups: tuple(cube.who)[1:]}
    for settle, groups in steps.items():
        try:
            settle()
        except Unsolved as error:
            cube.hide_all(groups)
            unchecked |= dict.fromkeys(groups, str(error))
    hidden = {group: frozenset(names) for group, names in cube.hidden.items()}
    return Hidden(hidden, unchecked)


@dataclass(eq=False)
class _Cube:
    """The patients of one site by group and micro cell, and what is hidden of them so far."""

    questions: Sequence[Question]
    attributes: Mapping[str, Levels]
    intersections: Sequence[tuple[str, str]]
    minimum_cell: int
    work: Work = field(default_factory=Work)
    who: dict[Group, Flags] = field(init=False)
    hidden: dict[Group, set[str]] = field(init=False)
    counts: dict[Group, list[Places]] = field(init=False)

    def __post_init__(self) -> None:
        self.who = {OVERALL: np.ones(len(self.questions[0].micro), np.bool_)}
        for name, levels in families(self.attributes, self.intersections).items():
            self.who |= {(name, level): rows for level, rows in levels.items()}
        self.hidden = {group: set() for group in self.who}
        self.counts = {
            group: [np.bincount(q.micro[rows], minlength=q.n_micro) for q in self.questions]
            for group, rows in self.who.items()
        }

    def settle_overall(self) -> None:
        self.hidden[OVERALL] = self._small(OVERALL)
        self._audit(alone(OVERALL, self.questions, self.who[OVERALL]), frozenset())

    def settle_groups(self) -> None:
        """Hide until nothing small can be seen or worked out; the overall counts stay as they are.

        The audit looks at each group alone and at each attribute first, then at the whole cube:
        what holds a cell is then found near it.
        """
        groups = [group for group in self.who if group != OVERALL]
        for group in groups:
            self.hidden[group] = self._small(group)
            self._audit(alone(group, self.questions, self.who[group]), frozenset())
        self._complete()
        parts: list[list[Clique]] = [[(name,)] for name in self.attributes]
        parts += [
            cliques(pair, tuple(self.attributes), self.intersections)
            for pair in combinations(self.attributes, 2)
        ]
        for part in parts:
            looked_at = view(part, self.questions, self.attributes, self.intersections)
            self._audit(looked_at, frozenset({OVERALL}))

    def hide_all(self, groups: Iterable[Group]) -> None:
        for group in groups:
            self.hidden[group] = {facet.name for q in self.questions for facet in q.facets}

    def _hide(self, group: Group, name: str) -> None:
        """A facet, and all that it follows from."""
        self.hidden[group].add(name)
        for question in self.questions:
            for facet in question.facets:
                if facet.name == name:
                    self.hidden[group].update(facet.hides)

    def _small(self, group: Group) -> set[str]:
        """Facets that hold a small cell themselves, and those that would reveal them."""
        found = set[str]()
        for place, question in enumerate(self.questions):
            for facet in question.facets:
                if self._has_small(self._cells((group,), place, facet)):
                    found |= {facet.name, *facet.hides}
        return found

    def _cells(self, groups: Iterable[Group], place: int, facet: Facet) -> list[int]:
        """How many patients of these groups together are in each cell."""
        counts = sum(
            (self.counts[group][place] for group in groups),
            np.zeros(self.questions[place].n_micro, np.int64),
        )
        return [int(counts[list(cell)].sum()) for cell in facet.cells]

    def _has_small(self, cells: Iterable[int]) -> bool:
        return any(0 < cell < self.minimum_cell for cell in cells)

    def _n(self, group: Group) -> int:
        return int(self.who[group].sum())

    def _complete(self) -> None:
        """Total minus shown gives no small cell away in any line; repeated, as lines cross."""
        before = -1
        while before != (before := sum(map(len, self.hidden.values()))):
            for place, question in enumerate(self.questions):
                for facet in question.facets:
                    for total, parts in self._lines():
                        if facet.name not in self.hidden[total]:
                            self._complete_line(parts, place, facet)

    def _lines(self) -> Iterator[Line]:
        for name, levels in self.attributes.items():
            yield OVERALL, tuple((name, level) for level in levels)
        for one, other in self.intersections:
            table = crossed(one, other)
            for a in self.attributes[one]:
                yield (one, a), tuple((table, crossed(a, b)) for b in self.attributes[other])
            for b in self.attributes[other]:
                yield (other, b), tuple((table, crossed(a, b)) for a in self.attributes[one])

    def _complete_line(self, parts: Sequence[Group], place: int, facet: Facet) -> None:
        shown = [g for g in parts if facet.name not in self.hidden[g] and self._n(g)]
        for group in sorted(shown, key=self._n):
            away = [g for g in parts if facet.name in self.hidden[g]]
            if len(away) != 1 and not self._has_small(self._cells(away, place, facet)):
                return
            self._hide(group, facet.name)

    def _audit(self, view: View, settled: Set[Group]) -> None:
        """Hide what pins a small cell, until by all equations together nothing does."""
        attacker = Attacker(view.tables, view.links, view.watched, self.minimum_cell, self.work)
        while (pinned := attacker.pinned(list(self._shown(view)))) is not None:
            keys = {shown.key for shown in self._shown(view) if shown.key[0] not in settled}
            keys = keys & pinned.by or keys
            if not keys:
                raise Unsolved("the overall counts alone would give a small cell away")
            self._hide(*min(keys, key=lambda key: self._price(key, view, pinned.who)))
            if settled:
                self._complete()

    def _price(self, key: Key, view: View, who: Vector) -> tuple[int, int, int, Key]:
        """What to hide first: near the group whose cell is pinned, of few patients, and fine."""
        group, name = key
        clique, rows = view.groups[group]
        far = 2 if clique else 0 if (rows == who).all() else 1 if (rows >= who).all() else 2
        cells = (len(f.cells) for q in self.questions for f in q.facets if f.name == name)
        return far, self._n(group), -max(cells), key

    def _shown(self, view: View) -> Iterator[Shown]:
        """Of each group the finest facets that are shown: the others follow from them."""
        for group, (clique, rows) in view.groups.items():
            for place, question in enumerate(self.questions):
                shown = [f for f in question.facets if f.name not in self.hidden[group]]
                names = {facet.name for facet in shown}
                for facet in shown:
                    if names.isdisjoint(facet.hides):
                        cells = indicators(facet.cells, question.n_micro)
                        table = clique * len(self.questions) + place
                        yield Shown((group, facet.name), table, rows, cells)
