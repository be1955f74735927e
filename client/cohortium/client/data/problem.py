"""What is wrong with a source's cells: counted by rule, never quoted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cohortium.client.data.reader import Cells

T = TypeVar("T")


class Broken(Exception):
    """A cell breaks a rule; the rule is the only argument."""


@dataclass(frozen=True)
class Problem:
    """One rule that some cells of a column break: how many, and the first one's line."""

    column: str
    rule: str
    count: int
    first_line: int


@dataclass
class Reading:
    """Columns converted so far, and every broken rule found on the way."""

    cells: Cells
    numbers: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    codes: dict[str, NDArray[np.int16]] = field(default_factory=dict)
    wide: dict[str, NDArray[Any]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    wrong: dict[str, set[int]] = field(default_factory=dict)  # rows of broken cells, by column

    def convert(self, column: str, parse: Callable[[str], T], gap: T) -> list[T]:
        """Parse each cell; a broken one counts as a gap and is remembered by its rule."""
        values = [gap] * len(self.cells.lines)

        def put(text: str, row: int) -> None:
            values[row] = parse(text)

        self.each(column, put)
        return values

    def texts(self, column: str, parse: Callable[[str], str]) -> NDArray[np.str_]:
        """Cells as checked text; "" where they are missing or broken."""
        return np.array(self.convert(column, parse, ""), dtype=np.str_)

    def each(self, column: str, work: Callable[[str, int], None]) -> None:
        """Do something with each cell and its row, which may break a rule."""
        cells = self.cells.columns[column]
        self.rows(column, lambda row: work(cells[row], row))

    def rows(self, column: str, work: Callable[[int], None]) -> None:
        """Do something for each row, which may break a rule."""
        found: dict[str, list[int]] = {}
        for row in range(len(self.cells.lines)):
            try:
                work(row)
            except Broken as broken:
                found.setdefault(broken.args[0], []).append(row)
        for rule, rows in found.items():
            self.broken(column, rule, rows)

    def broken(self, column: str, rule: str, rows: Sequence[int]) -> None:
        """Remember that the cells of these rows, one or more, break a rule."""
        self.problems.append(Problem(column, rule, len(rows), self.cells.lines[rows[0]]))
        self.wrong.setdefault(column, set()).update(rows)
