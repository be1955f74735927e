"""Whether somebody who solves for every count can narrow a small one down, by linear programming.

The attacker knows everything that is shown and looks for all tables of counts that agree with it.
A cell is safe if two of them differ in it by `minimum_cell` or more (feasibility interval;
Fischetti & Salazar 2001, Management Science 47:1008). Each table found proves many cells safe at
once, and stays possible when more is hidden.
"""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog

from cohortium.common.errors import CohortiumError

Key = tuple[tuple[str, str], str]  # group and facet
Rows = NDArray[np.float64]  # (rows, columns of a table's combinations or micro cells) of 0 and 1
Vector = NDArray[np.float64]
Matrix = Any  # a sparse array: scipy says nothing of its types
Cell = tuple[int, int, int]  # which `Watched`, and its group and cell

MOST_UNKNOWNS = 100_000
MOST_WORK = 15_000_000  # unknowns times solutions, a few minutes
FEW = 4  # cells left, below which each is looked at on its own
SLACK = 1e-4  # of a count, by the solver


class Unsolved(CohortiumError):
    """Too large, or the solver gave up: nothing is known to be safe."""


@dataclass
class Work:
    """What may still be solved before it takes too long: unknowns times solutions."""

    left: int = MOST_WORK

    def take(self, unknowns: int) -> None:
        """Raise Unsolved where nothing is left; the same on every machine, as no clock is."""
        self.left -= unknowns
        if self.left < 0:
            raise Unsolved("too many small cells to check what follows from the others")


@dataclass(frozen=True, eq=False)
class Watched:
    """What is to be protected in a table: all cells of all groups.

    groups: (groups, combinations). cells: (cells, micro cells).
    """

    table: int
    groups: Rows
    cells: Rows


@dataclass(frozen=True, eq=False)
class Shown:
    """Equations that the attacker has: one group's counts of some sets of micro cells.

    key: what they are called by the caller. who: (combinations,). cells: (cells, micro cells).
    """

    key: Key
    table: int
    who: Vector
    cells: Rows


@dataclass(frozen=True, eq=False)
class Link:
    """Two tables of the same patients have sums in common: `of_one` and `of_other`, row by row."""

    one: int
    other: int
    of_one: Matrix
    of_other: Matrix


@dataclass(frozen=True, eq=False)
class Pinned:
    """A cell that is not safe: of whom, (combinations,), and the keys of what holds it."""

    who: Vector
    by: Set[Key]


class Attacker:
    """Remembers, of each protected cell, the range over every table that was found possible.

    Args:
        tables: (combinations, micro cells) each, with the true counts.
    """

    def __init__(
        self,
        tables: Sequence[Rows],
        links: Sequence[Link],
        watched: Sequence[Watched],
        minimum_cell: int,
        work: Work,
    ) -> None:
        self._tables, self._work = tables, work
        self._watched = watched
        self._need = float(minimum_cell)
        self._most = float(tables[0].sum() + minimum_cell)
        self._starts = np.cumsum([0, *(table.size for table in tables)])
        if self._starts[-1] > MOST_UNKNOWNS:
            raise Unsolved("too many groups and cells to check what follows from them")
        self._true = np.concatenate([table.ravel() for table in tables])
        self._low = self._values(self._true)
        self._high = [values.copy() for values in self._low]
        self._open = [(values > 0) & (values < minimum_cell) for values in self._low]
        self._links = [
            self._placed(link.of_one, link.one) - self._placed(link.of_other, link.other)
            for link in links
        ]

    def pinned(self, shown: Sequence[Shown]) -> Pinned | None:
        """The first cell that is not safe; None if all are.

        Raises:
            Unsolved: the solver gave up.
        """
        if self._unsafe() is None:
            return None
        matrix, owners = self._equations(shown)
        while self._left() > FEW and self._raise_many(matrix):
            pass
        while (cell := self._unsafe()) is not None:
            by = self._look_at(matrix, cell)
            place, group, column = cell
            if self._open[place][group, column]:
                keys = {shown[owners[row]].key for row in by if owners[row] >= 0}
                return Pinned(self._watched[place].groups[group], keys)
        return None

    def limits(self, shown: Sequence[Shown], cell: Cell) -> tuple[float, float]:
        """The least and the most that a cell can count by what is shown."""
        matrix, _ = self._equations(shown)
        self._look_at(matrix, cell)
        place, group, column = cell
        return float(self._low[place][group, column]), float(self._high[place][group, column])

    def _look_at(self, matrix: Matrix, cell: Cell) -> Set[int]:
        goal = self._goal(cell)
        return self._bound(matrix, -goal) | self._bound(matrix, goal)

    def _left(self) -> int:
        return sum(int(left.sum()) for left in self._open)

    def _all_unsafe(self) -> Iterator[Cell]:
        for place, left in enumerate(self._open):
            for group, column in np.argwhere(left):
                yield place, int(group), int(column)

    def _unsafe(self) -> Cell | None:
        return next(self._all_unsafe(), None)

    def _goal(self, cell: Cell) -> Vector:
        """(unknowns,) 1 for each that the cell is a sum of."""
        place, group, column = cell
        watched = self._watched[place]
        goal = np.zeros(self._starts[-1])
        part = np.outer(watched.groups[group], watched.cells[column])
        goal[self._starts[watched.table] : self._starts[watched.table + 1]] = part.ravel()
        return goal

    def _raise_many(self, matrix: Matrix) -> bool:
        """Find a table with little, and one with enough, in many cells at once; False if no use."""
        before = self._left()
        self._bound(matrix, sum((self._goal(cell) for cell in self._all_unsafe()), np.zeros(1)))
        cells = list(self._all_unsafe())
        if cells:
            goals = sparse.csr_array(np.array([self._goal(cell) for cell in cells]))
            enough = [self._low[place][group, column] for place, group, column in cells]
            self._raise_to(matrix, goals, np.array(enough) + self._need)
        return self._left() < 0.95 * before

    def _raise_to(self, matrix: Matrix, goals: Matrix, enough: Vector) -> None:
        """The table with the most of all cells together, none counting beyond what is enough."""
        cells, unknowns = goals.shape
        free = sparse.csr_array((matrix.shape[0], cells))
        highest = np.concatenate([np.full(unknowns, self._most), enough])
        self._solve(
            np.concatenate([np.zeros(unknowns), -np.ones(cells)]),
            A_eq=sparse.hstack([matrix, free]),
            b_eq=matrix @ self._true,
            A_ub=sparse.hstack([-goals, sparse.eye_array(cells)]),
            b_ub=np.zeros(cells),
            bounds=np.column_stack([np.zeros(len(highest)), highest]),
        )

    def _bound(self, matrix: Matrix, cost: Vector) -> Set[int]:
        """Find the table with the least cost; the equations that hold it there."""
        found = self._solve(cost, A_eq=matrix, b_eq=matrix @ self._true, bounds=(0, self._most))
        return set(np.flatnonzero(np.abs(found.eqlin.marginals) > 1e-9).tolist())

    def _solve(self, cost: Vector, **problem: Any) -> Any:
        self._work.take(len(cost))
        found = linprog(cost, method="highs", **problem)
        if found.status != 0:
            raise Unsolved("the solver found no answer to what follows from the shown counts")
        self._learn(found.x[: len(self._true)])
        return found

    def _learn(self, table: Vector) -> None:
        for place, values in enumerate(self._values(table)):
            np.minimum(self._low[place], values, out=self._low[place])
            np.maximum(self._high[place], values, out=self._high[place])
            wide = self._high[place] - self._low[place] >= self._need - SLACK
            self._open[place] &= ~wide

    def _values(self, unknowns: Vector) -> list[Rows]:
        found = []
        for watched in self._watched:
            start, end = self._starts[watched.table : watched.table + 2]
            part = unknowns[start:end].reshape(self._tables[watched.table].shape)
            found.append(watched.groups @ part @ watched.cells.T)
        return found

    def _equations(self, shown: Sequence[Shown]) -> tuple[Matrix, list[int]]:
        """The left sides, and which of `shown` each row is of (-1: a link)."""
        nothing = sparse.csr_array((1, int(self._starts[-1])))
        blocks, owners = [nothing], [-1]
        for place, one in enumerate(shown):
            part = sparse.kron(sparse.csr_array(one.who[None, :]), sparse.csr_array(one.cells))
            blocks.append(self._placed(part, one.table))
            owners += [place] * len(one.cells)
        for link in self._links:
            blocks.append(link)
            owners += [-1] * link.shape[0]
        return sparse.csr_array(sparse.vstack(blocks)), owners

    def _placed(self, part: Matrix, table: int) -> Matrix:
        """The same rows over all unknowns."""
        found = sparse.coo_array(part)
        shape = (found.shape[0], int(self._starts[-1]))
        return sparse.csr_array(
            (found.data, (found.row, found.col + self._starts[table])), shape=shape
        )
