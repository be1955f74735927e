"""The tables that an audit of two attributes needs, instead of the whole cube.

The whole cube has an unknown for each combination of all attributes and micro cell. But what is
shown are tables of one attribute, or of a declared pair, by micro cell. If these tables agree in
what they have in common, and the pairs make no circle, a whole cube exists that has them all: the
patients of the same level and micro cell are put together at random (a decomposable model; Dobra &
Fienberg 2000, PNAS 97:11885). So tables of two attributes each, linked, say exactly as much. Pairs
that do make a circle become one larger table.

Questions that cannot be put together into one (many labels) have tables each, linked by how many
patients each combination has. With one or two attributes that is exact; with more, an attacker who
plays labels off against each other through a third attribute is not looked for.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import sparse

from cohortium.common.metrics.cube_audit import Link, Matrix, Rows, Vector, Watched
from cohortium.common.metrics.facets import (
    OVERALL,
    Flags,
    Group,
    Levels,
    Places,
    Question,
    families,
)

Clique = tuple[str, ...]
Pair = tuple[str, str]


@dataclass(frozen=True, eq=False)
class View:
    """Groups as rows over the combinations of a clique, and tables clique by clique.

    Attributes:
        groups: which clique, and (combinations,) 1 where a combination belongs to the group.
        tables: of each clique one for each question, (combinations, micro cells).
    """

    groups: Mapping[Group, tuple[int, Vector]]
    tables: Sequence[Rows]
    links: Sequence[Link]
    watched: Sequence[Watched]


def cliques(pair: Pair, names: Sequence[str], intersections: Sequence[Pair]) -> list[Clique]:
    """Sets of attributes that need a common table; the first holds `pair`."""
    found: list[Clique] = [pair]
    left = list(dict.fromkeys(tuple(sorted(one)) for one in intersections))
    left = [one for one in left if set(one) != set(pair)]
    while left:
        reached = {name for clique in found for name in clique}
        edge = next((one for one in left if reached & set(one)), left[0])
        if reached.issuperset(edge):  # a circle
            together = reached.union(*left)
            found = [(*pair, *(n for n in names if n in together and n not in pair))]
            break
        left.remove(edge)
        found.append(edge)
    reached = {name for clique in found for name in clique}
    return found + [(name,) for name in names if name not in reached]


def alone(group: Group, questions: Sequence[Question], who: Flags) -> View:
    """One group, whatever the others show."""
    counts = [np.bincount(q.micro[who], minlength=q.n_micro)[None, :] for q in questions]
    return View(
        groups={group: (0, np.ones(1))},
        tables=[count.astype(float) for count in counts],
        links=list(_same_patients(0, 1, questions)),
        watched=[
            Watched(k, np.ones((1, 1)), indicators(q.protected, q.n_micro))
            for k, q in enumerate(questions)
        ],
    )


def view(
    parts: Sequence[Clique],
    questions: Sequence[Question],
    attributes: Mapping[str, Levels],
    intersections: Sequence[Pair],
) -> View:
    """All groups in these cliques; protected are those by the first two attributes, and pairs."""
    groups: dict[Group, tuple[int, Vector]] = {}
    tables, links = list[Rows](), list[Link]()
    watched_groups: list[Vector] = []
    possible = [_possible(clique, attributes) for clique in parts]
    for place, clique in enumerate(parts):
        levels = _levels(clique, possible[place], attributes)
        declared = [pair for pair in intersections if set(pair) <= set(clique)]
        found = {OVERALL: np.ones(len(possible[place]))}
        for name, some in families(levels, declared).items():
            found |= {(name, level): rows.astype(float) for level, rows in some.items()}
        for group, rows in found.items():
            groups.setdefault(group, (place, rows))
        if place == 0:
            watched_groups = list(_watched_groups(levels, clique[:2]))
        tables += [_table(question, clique, possible[place], attributes) for question in questions]
        links += _same_patients(place, len(possible[place]), questions)
        if place:
            links += _separator(place, parts, possible, questions)
    rows = np.array(list({row.tobytes(): row for row in watched_groups}.values()))
    watched = [
        Watched(k, rows, indicators(question.protected, question.n_micro))
        for k, question in enumerate(questions)
    ]
    return View(groups, tables, links, watched)


def indicators(cells: Sequence[frozenset[int]], n_micro: int) -> Rows:
    """(cells, micro cells) 1 where a micro cell is part of the cell."""
    found = np.zeros((len(cells), n_micro))
    for row, cell in enumerate(cells):
        found[row, list(cell)] = 1
    return found


def _watched(groups: Rows, questions: Sequence[Question]) -> Iterator[Watched]:
    """The tables of the first clique, one for each question."""
    for place, question in enumerate(questions):
        yield Watched(place, groups, indicators(question.protected, question.n_micro))


def _watched_groups(levels: Mapping[str, Levels], names: Sequence[str]) -> Iterator[Vector]:
    yield np.ones(len(next(iter(next(iter(levels.values())).values()))))
    pairs = [(names[0], names[1])] if len(names) == 2 else []
    for some in families({name: levels[name] for name in names}, pairs).values():
        yield from (rows.astype(float) for rows in some.values() if rows.any())


def _possible(clique: Clique, attributes: Mapping[str, Levels]) -> Places:
    """(combinations, attributes) places of levels: all combinations of levels that are there."""
    there = [
        [place for place, who in enumerate(attributes[name].values()) if who.any()]
        for name in clique
    ]
    return np.array(list(product(*there)), np.int64).reshape(-1, len(clique))


def _levels(
    clique: Clique, possible: Places, attributes: Mapping[str, Levels]
) -> dict[str, dict[str, Flags]]:
    return {
        name: {level: possible[:, column] == k for k, level in enumerate(attributes[name])}
        for column, name in enumerate(clique)
    }


def _table(
    question: Question, clique: Clique, possible: Places, attributes: Mapping[str, Levels]
) -> Rows:
    """(combinations, micro cells) how many patients there are."""
    found = np.zeros((len(possible), question.n_micro))
    levels = [list(attributes[name].values()) for name in clique]
    for row, combination in enumerate(possible):
        who = np.all([some[k] for some, k in zip(levels, combination, strict=True)], axis=0)
        found[row] = np.bincount(question.micro[who], minlength=question.n_micro)
    return found


def _same_patients(place: int, combinations: int, questions: Sequence[Question]) -> Iterator[Link]:
    """In a clique all questions are about the same patients, class by class."""
    everyone = sparse.eye_array(combinations)

    def by_class(question: Question) -> Matrix:
        classes = np.array(question.shared or (0,) * question.n_micro)
        rows = (classes == np.unique(classes)[:, None]).astype(float)
        return sparse.csr_array(sparse.kron(everyone, sparse.csr_array(rows)))

    for k, question in enumerate(questions[1:], start=1):
        first = place * len(questions)
        yield Link(first, first + k, by_class(questions[0]), by_class(question))


def _separator(
    place: int,
    parts: Sequence[Clique],
    possible: Sequence[Places],
    questions: Sequence[Question],
) -> Iterator[Link]:
    """What a clique has in common with an earlier one: levels of their attribute, by micro cell."""
    reached = {name for clique in parts[:place] for name in clique}
    common = [name for name in parts[place] if name in reached]
    parent = next(k for k, clique in enumerate(parts) if set(common) <= set(clique))

    def by_level(k: int) -> Rows:
        columns = [parts[k].index(name) for name in common]
        own = possible[k][:, columns]
        levels = np.unique(possible[parent][:, [parts[parent].index(n) for n in common]], axis=0)
        if not common:
            return np.ones((1, len(own)))
        same: Rows = (own[None, :, :] == levels[:, None, :]).all(axis=2).astype(float)
        return same

    for k, question in enumerate(questions):
        micro = sparse.eye_array(question.n_micro)
        of_one, of_other = (
            sparse.csr_array(sparse.kron(sparse.csr_array(by_level(at)), micro))
            for at in (place, parent)
        )
        yield Link(place * len(questions) + k, parent * len(questions) + k, of_one, of_other)
