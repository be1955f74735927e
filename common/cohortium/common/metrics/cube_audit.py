"""Whether somebody who solves for every count can narrow a small one down, by linear programming.

The attacker knows everything that is shown and looks for all tables of counts, attribute
combination x micro cell, that agree with it. A cell is safe if two of them differ in it by
`minimum_cell` or more (feasibility interval; Fischetti & Salazar 2001, Management Science 47:1008).
Each table found proves many cells safe at once, and stays possible when more is hidden.
"""

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog

from cohortium.common.errors import CohortiumError

Table = NDArray[np.float64]  # (combinations, micro cells) of one question
Key = tuple[tuple[str, str], str]  # group and facet
System = tuple[sparse.csr_array, list[int]]
Rows = NDArray[np.float64]  # (rows, combinations or micro cells) of 0 and 1

MOST_UNKNOWNS = 60_000
MOST_SOLUTIONS = 600
FEW = 8  # tables at random corners, before one is sought for each cell that is left
SLACK = 1e-4  # of a count, by the solver


class Unsolved(CohortiumError):
    """Too large, or the solver gave up: nothing is known to be safe."""


@dataclass(frozen=True, eq=False)
class Sheet:
    """One question's part of the cube.

    Attributes:
        true: (combinations, micro cells), how many patients there are.
        shared: (classes, micro cells), what all questions know of their patients.
        cells: (cells, micro cells), the cells to be protected.
    """

    true: Table
    shared: Rows
    cells: Rows


@dataclass(frozen=True, eq=False)
class Shown:
    """Equations that the attacker has: one group's counts of some sets of micro cells.

    key: what they are called by the caller. who: (combinations,). cells: (cells, micro cells).
    """

    key: Key
    sheet: int
    who: NDArray[np.float64]
    cells: Rows


@dataclass(frozen=True, eq=False)
class Pinned:
    """A cell that is not safe: of whom, (combinations,), and the keys of what holds it."""

    who: NDArray[np.float64]
    by: Set[Key]


class Attacker:
    """Knows every table that was found to be possible, as the range of each protected cell.

    Args:
        sheets: one for each question.
        groups: (groups, combinations), those whose cells are protected.
        minimum_cell: cells below it, above 0, are protected.
    """

    def __init__(
        self,
        sheets: Sequence[Sheet],
        groups: Rows,
        minimum_cell: int,
        known: Iterable[Sequence[Table]] = (),
    ) -> None:
        self._sheets = sheets
        self._groups = groups
        self._width = minimum_cell - SLACK
        self._most = float(sheets[0].true.sum() + minimum_cell)
        self._starts = np.cumsum([0, *(sheet.true.size for sheet in sheets)])
        if self._starts[-1] > MOST_UNKNOWNS:
            raise Unsolved("too many groups and cells to check what follows from them")
        values = [groups @ sheet.true @ sheet.cells.T for sheet in sheets]
        self._open = [(found > 0) & (found < minimum_cell) for found in values]
        self._low, self._high = values, [found.copy() for found in values]
        self._solutions = 0
        for tables in known:
            self._learn(np.concatenate([table.ravel() for table in tables]))
        self._chance = np.random.default_rng(0)  # always the same: only where to look first

    def pinned(self, shown: Sequence[Shown]) -> Pinned | None:
        """The first cell that is not safe; None if all are.

        Raises:
            Unsolved: the solver gave up.
        """
        system = self._system(shown)
        while self._left() > FEW and self._many(system):
            pass
        while unsafe := self._unsafe():
            sheet, group, cell = unsafe
            goal = self._goal(sheet, group, cell)
            by = self._solve(system, goal) | self._solve(system, -goal)
            if self._open[sheet][group, cell]:
                return Pinned(self._groups[group], {shown[place].key for place in by})
        return None

    def _left(self) -> int:
        return sum(int(left.sum()) for left in self._open)

    def _many(self, system: System) -> bool:
        """Look for tables with less, and with enough more, in all unsafe cells; False if no use."""
        before = self._left()
        goals = sparse.csr_array(np.array([self._goal(*cell) for cell in self._every_unsafe()]))
        self._solve(system, -goals.sum(axis=0))
        cells = list(self._every_unsafe())
        if not cells:
            return True
        goals = sparse.csr_array(np.array([self._goal(*cell) for cell in cells]))
        need = np.array([self._low[s][g, c] for s, g, c in cells]) + self._width + SLACK
        self._solve_capped(system, goals, need)
        return self._left() < 0.9 * before

    def _every_unsafe(self) -> Iterator[tuple[int, int, int]]:
        for sheet, left in enumerate(self._open):
            for group, cell in np.argwhere(left):
                yield sheet, int(group), int(cell)

    def _solve_capped(
        self, system: System, goals: sparse.csr_array, need: NDArray[np.float64]
    ) -> None:
        self._solutions += 1
        matrix, _ = system
        k, n = goals.shape
        true = np.concatenate([sheet.true.ravel() for sheet in self._sheets])
        found = linprog(
            np.concatenate([np.zeros(n), -np.ones(k)]),
            A_eq=sparse.hstack([matrix, sparse.csr_array((matrix.shape[0], k))])
            if matrix.shape[0]
            else None,
            b_eq=matrix @ true if matrix.shape[0] else None,
            A_ub=sparse.hstack([-goals, sparse.eye_array(k)]),
            b_ub=np.zeros(k),
            bounds=[(0, self._most)] * n + [(0, float(x)) for x in need],
            method="highs",
        )
        if found.status != 0:
            raise Unsolved("the solver found no answer to what follows from the shown counts")
        self._learn(found.x[:n])

    def _unsafe(self) -> tuple[int, int, int] | None:
        """The first cell that no two tables make safe: sheet, group, cell."""
        for sheet, left in enumerate(self._open):
            if left.any():
                group, cell = np.unravel_index(int(left.argmax()), left.shape)
                return sheet, int(group), int(cell)
        return None

    def _goal(self, sheet: int, group: int, cell: int) -> NDArray[np.float64]:
        goal = np.zeros(self._starts[-1])
        part = np.outer(self._groups[group], self._sheets[sheet].cells[cell])
        goal[self._starts[sheet] : self._starts[sheet + 1]] = part.ravel()
        return goal

    def _at_random(self) -> NDArray[np.float64]:
        """Towards more in some of the cells that are not safe yet, and less in others."""
        parts = []
        for sheet, left in zip(self._sheets, self._open, strict=True):
            weights = left * self._chance.normal(size=left.shape)
            parts.append((self._groups.T @ weights @ sheet.cells).ravel())
        return np.concatenate(parts)

    def _system(self, shown: Sequence[Shown]) -> System:
        """The equations' left sides, and which of `shown` each is of (-1: of none)."""
        blocks, owners = [], list[int]()
        for place, one in enumerate(shown):
            part = sparse.kron(sparse.csr_array(one.who[None, :]), sparse.csr_array(one.cells))
            blocks.append(self._placed(part, one.sheet))
            owners += [place] * len(one.cells)
        for links in self._links():
            blocks.append(links)
            owners += [-1] * links.shape[0]
        if not blocks:
            return sparse.csr_array((0, int(self._starts[-1]))), owners
        return sparse.csr_array(sparse.vstack(blocks)), owners

    def _links(self) -> Iterator[sparse.csr_array]:
        """All questions are about the same patients, class by class."""
        combinations = sparse.eye_array(len(self._sheets[0].true))
        first = sparse.kron(combinations, sparse.csr_array(self._sheets[0].shared))
        for sheet in range(1, len(self._sheets)):
            other = sparse.kron(combinations, sparse.csr_array(self._sheets[sheet].shared))
            yield self._placed(first, 0) - self._placed(other, sheet)

    def _placed(self, part: sparse.coo_array, sheet: int) -> sparse.csr_array:
        found = sparse.coo_array(part)
        shape = (found.shape[0], int(self._starts[-1]))
        places = (found.row, found.col + self._starts[sheet])
        return sparse.csr_array((found.data, places), shape=shape)

    def _solve(self, system: System, goal: NDArray[np.float64]) -> Set[int]:
        """Find the table with most of `goal` and learn from it; the equations that held it back."""
        self._solutions += 1
        if self._solutions > MOST_SOLUTIONS:
            raise Unsolved("too many small cells to check what follows from the others")
        matrix, owners = system
        true = np.concatenate([sheet.true.ravel() for sheet in self._sheets])
        found = linprog(
            -goal,
            A_eq=matrix if matrix.shape[0] else None,
            b_eq=matrix @ true if matrix.shape[0] else None,
            bounds=(0, self._most),
            method="highs-ds",
        )
        if found.status != 0:
            raise Unsolved("the solver found no answer to what follows from the shown counts")
        self._learn(found.x)
        if not matrix.shape[0]:
            return set()
        held = np.flatnonzero(np.abs(found.eqlin.marginals) > 1e-9)
        return {owners[row] for row in held if owners[row] >= 0}

    def _learn(self, table: NDArray[np.float64]) -> None:
        for place, sheet in enumerate(self._sheets):
            part = table[self._starts[place] : self._starts[place + 1]].reshape(sheet.true.shape)
            values = self._groups @ part @ sheet.cells.T
            np.minimum(self._low[place], values, out=self._low[place])
            np.maximum(self._high[place], values, out=self._high[place])
            self._open[place] &= self._high[place] - self._low[place] < self._width
