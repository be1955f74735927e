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

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from cohortium.common.metrics.cube_audit import (
    MOST_UNKNOWNS,
    Attacker,
    Key,
    Sheet,
    Shown,
    Unsolved,
)

Flags = NDArray[np.bool_]
Places = NDArray[np.int64]
Row = NDArray[np.float64]
Group = tuple[str, str]  # attribute and level
Levels = Mapping[str, Flags]  # who is in each level of an attribute, (patients,)
Line = tuple[Group, tuple[Group, ...]]  # a group, and the groups that it falls into

MIXED = 64
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


@dataclass(frozen=True)
class Hidden:
    """The names of the facets that each group must not show, and why, in words.

    Groups are OVERALL, each (attribute, level), and of an intersection (`a x b`, `level x level`).
    """

    facets: Mapping[Group, frozenset[str]]
    why: str


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
            f"{a} x {b}": mine & theirs
            for a, mine in attributes[one].items()
            for b, theirs in attributes[other].items()
        }
    return found


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
    cube = _Cube(questions, attributes, intersections, minimum_cell)
    if minimum_cell == 0:
        return Hidden({group: frozenset() for group in cube.who}, "")
    why = f"a cell with fewer than {minimum_cell} patients is here or would follow"
    steps = {cube.settle_overall: (OVERALL,), cube.settle_groups: tuple(cube.who)[1:]}
    for settle, groups in steps.items():
        try:
            settle()
        except Unsolved as error:
            cube.hide_all(groups)
            why = str(error)
    return Hidden({group: frozenset(names) for group, names in cube.hidden.items()}, why)


@dataclass(frozen=True, eq=False)
class _View:
    """What an audit looks at: groups as rows over combinations of levels, and the true counts.

    Attributes:
        groups: (combinations,) 1 where a combination belongs to the group.
        protected: (groups, combinations).
        true: (combinations, micro cells) for each question.
    """

    groups: Mapping[Group, Row]
    protected: Row
    true: Sequence[Row]
    possible: Iterable[Sequence[Row]] = ()


@dataclass(eq=False)
class _Cube:
    """The patients of one site by group and micro cell, and what is hidden of them so far."""

    questions: Sequence[Question]
    attributes: Mapping[str, Levels]
    intersections: Sequence[tuple[str, str]]
    minimum_cell: int
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
        self._audit(self._alone(OVERALL), frozenset())

    def settle_groups(self) -> None:
        """Hide until nothing small can be seen or worked out; the overall counts stay as they are.

        The audit goes from small views to the whole cube, where it counts: what holds a cell is
        then found near it.
        """
        groups = [group for group in self.who if group != OVERALL]
        for group in groups:
            self.hidden[group] = self._small(group)
            self._audit(self._alone(group), frozenset())
        self._complete()
        for size in sorted({1, 2, len(self.attributes)} - {0}):
            for names in combinations(self.attributes, size):
                self._audit(self._view(names), frozenset({OVERALL}))

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
            table = f"{one} x {other}"
            for a in self.attributes[one]:
                yield (one, a), tuple((table, f"{a} x {b}") for b in self.attributes[other])
            for b in self.attributes[other]:
                yield (other, b), tuple((table, f"{a} x {b}") for a in self.attributes[one])

    def _complete_line(self, parts: Sequence[Group], place: int, facet: Facet) -> None:
        shown = [g for g in parts if facet.name not in self.hidden[g] and self._n(g)]
        for group in sorted(shown, key=self._n):
            away = [g for g in parts if facet.name in self.hidden[g]]
            if len(away) != 1 and not self._has_small(self._cells(away, place, facet)):
                return
            self._hide(group, facet.name)

    def _audit(self, view: _View, settled: Set[Group]) -> None:
        """Hide what pins a small cell, until by all equations together nothing does."""
        sheets = [_sheet(q, true) for q, true in zip(self.questions, view.true, strict=True)]
        attacker = Attacker(sheets, view.protected, self.minimum_cell, view.possible)
        while (pinned := attacker.pinned(list(self._shown(view)))) is not None:
            keys = {shown.key for shown in self._shown(view) if shown.key[0] not in settled}
            keys = keys & pinned.by or keys
            if not keys:
                raise Unsolved("the overall counts alone would give a small cell away")
            self._hide(*min(keys, key=lambda key: self._price(key, view, pinned.who)))

    def _price(self, key: Key, view: _View, who: Row) -> tuple[int, int, int, Key]:
        """What to hide first: near the group whose cell is pinned, of few patients, and fine."""
        group, name = key
        rows = view.groups[group]
        far = 0 if (rows == who).all() else 1 if (rows >= who).all() else 2
        cells = (len(f.cells) for q in self.questions for f in q.facets if f.name == name)
        return far, self._n(group), -max(cells), key

    def _shown(self, view: _View) -> Iterator[Shown]:
        """Of each group the finest facets that are shown: the others follow from them."""
        for group, rows in view.groups.items():
            for place, question in enumerate(self.questions):
                shown = [f for f in question.facets if f.name not in self.hidden[group]]
                names = {facet.name for facet in shown}
                for facet in shown:
                    if names.isdisjoint(facet.hides):
                        cells = _indicators(facet.cells, question.n_micro)
                        yield Shown((group, facet.name), place, rows, cells)

    def _alone(self, group: Group) -> _View:
        one = np.ones((1, 1))
        true = [counts[None, :].astype(float) for counts in self.counts[group]]
        return _View({group: one[0]}, one, true)

    def _view(self, names: Sequence[str]) -> _View:
        """All groups by these attributes; protected are all pairs of them, too."""
        own = self._places(names)
        possible = self._possible(own)
        levels = {
            name: {level: possible[:, place] == k for k, level in enumerate(self.attributes[name])}
            for place, name in enumerate(names)
        }
        declared = [pair for pair in self.intersections if set(pair) <= set(names)]
        groups = {OVERALL: np.ones(len(possible))}
        for name, parts in families(levels, declared).items():
            groups |= {(name, level): rows.astype(float) for level, rows in parts.items()}
        pairs = families(levels, combinations(names, 2)).values()
        every = [*groups.values(), *(rows.astype(float) for one in pairs for rows in one.values())]
        protected = np.array(list({rows.tobytes(): rows for rows in every}.values()))
        tables = [
            [_table(question, mixed, possible) for question in self.questions]
            for mixed in self._mixed(names, own, declared)
        ]
        return _View(groups, protected, [_table(q, own, possible) for q in self.questions], tables)

    def _mixed(
        self, names: Sequence[str], own: Places, declared: Sequence[tuple[str, str]]
    ) -> Iterator[Places]:
        """Levels dealt anew among patients with equal micro cells: whatever is shown stays true.

        Attributes with a declared intersection go together. A level of each goes first, at random,
        which makes intersections as large, or as small, as they can be with these margins.
        """
        chance = np.random.default_rng(0)  # always the same: only where to look first
        blocks = _blocks(names, declared)
        if len(blocks) < 2:
            return
        _, stratum = np.unique(
            np.array([q.micro for q in self.questions]), axis=1, return_inverse=True
        )
        for _ in range(MIXED):
            mixed = np.empty_like(own)
            for block in blocks:
                ranks = [chance.permutation(own[:, c].max() + 1)[own[:, c]] for c in block]
                mixed[:, block] = own[np.lexsort((*ranks, stratum))][:, block]
            yield mixed

    def _places(self, names: Sequence[str]) -> Places:
        """(patients, attributes) the place of each one's level."""
        found = [np.argmax(list(self.attributes[name].values()), axis=0) for name in names]
        return np.array(found, np.int64).T

    def _possible(self, own: Places) -> Places:
        """(combinations, attributes) places of levels: all, or those that there are if too many.

        With fewer the attacker is taken to know more than he does: more is hidden, not less.
        """
        there = [np.unique(places) for places in own.T]
        micro = sum(question.n_micro for question in self.questions)
        if math.prod(map(len, there)) * micro > MOST_UNKNOWNS:
            return np.unique(own, axis=0)
        return np.array(list(product(*there)), np.int64)


def _blocks(names: Sequence[str], declared: Sequence[tuple[str, str]]) -> list[list[int]]:
    """Places of attributes, those with a declared intersection together."""
    blocks = [{name} for name in names]
    for pair in declared:
        joined = set[str]().union(*(b for b in blocks if b & set(pair)))
        blocks = [*(b for b in blocks if not b & set(pair)), joined]
    return [[place for place, name in enumerate(names) if name in block] for block in blocks]


def _table(question: Question, own: Places, possible: Places) -> Row:
    """(combinations, micro cells) how many patients there are."""
    places = {tuple(row): k for k, row in enumerate(possible.tolist())}
    rows = np.array([places[tuple(row)] for row in own.tolist()], np.int64)
    found = np.zeros((len(possible), question.n_micro))
    np.add.at(found, (rows, question.micro), 1)
    return found


def _sheet(question: Question, true: Row) -> Sheet:
    wanted = {cell for facet in question.facets for cell in facet.cells}
    wanted |= {frozenset((micro,)) for micro in range(question.n_micro)}
    classes = np.array(question.shared or (0,) * question.n_micro)
    return Sheet(
        true=true,
        shared=(classes == np.unique(classes)[:, None]).astype(float),
        cells=_indicators(sorted(wanted, key=sorted), question.n_micro),
    )


def _indicators(cells: Sequence[frozenset[int]], n_micro: int) -> Row:
    found = np.zeros((len(cells), n_micro))
    for row, cell in enumerate(cells):
        found[row, list(cell)] = 1
    return found
