"""From a row of model inputs back to a patient's columns: the inverse of `encode`.

What a model gives back is never quite a row: numbers are clipped to the schema's bounds, of a
category's dummies the highest wins against the reference level, a flag is what its input is nearer
to, and a block is missing where the number that says so is below a half. Where a row holds means of
many patients, `Chance` draws one of them: a code as often as the mean says, or rare codes would
never come, and numbers about their mean.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cohortium.common.layout import Block
from cohortium.common.preprocessing.encode import HALF
from cohortium.common.schema import CategoryColumn, FlagColumn, NumberColumn
from cohortium.common.study import Study
from cohortium.common.wide_columns import NumbersColumn

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Cells = list[str]


@dataclass(frozen=True)
class Chance:
    """What means leave open: the deviation of a scaled number, and where draws come from."""

    spread: float
    rng: np.random.Generator


def decode(rows: Floats, study: Study, chance: Chance | None = None) -> dict[str, Cells]:
    """Cells of a table by header, from rows (n, inputs); "" is missing."""
    return _Decoder(rows, study, chance).cells()


@dataclass(frozen=True)
class _Decoder:
    rows: Floats
    study: Study
    chance: Chance | None

    def cells(self) -> dict[str, Cells]:
        found = dict(self._columns()) if "table" in self.study.layout.by_name else {}
        for block in self.study.layout.blocks:
            if block.kind == "numbers":
                found |= dict(self._block(block))
        return found

    def _columns(self) -> Iterator[tuple[str, Cells]]:
        """The table is the first block of a row."""
        place = 0
        gaps = self._gaps()
        for name in self.study.data.features:
            column = self.study.data_model.columns[name]
            if isinstance(column, NumberColumn):
                cells, place = self._number(self.rows[:, place], column), place + 1
            elif isinstance(column, FlagColumn | CategoryColumn):
                wide = len(column.codes) - 1
                cells, place = self._codes(self.rows[:, place : place + wide], column), place + wide
            else:
                continue
            missing = gaps.get(name)
            yield name, cells if missing is None else _emptied(cells, missing)

    def _gaps(self) -> dict[str, Mask]:
        """Where the input that says "missing" says so, by column; it is the table's last."""
        names = self.study.preprocessing.missing_indicators
        first = self.study.layout.by_name["table"].stop - len(names)
        return {
            name: self._likely(self.rows[:, first + place] + HALF)
            for place, name in enumerate(names)
        }

    def _block(self, block: Block) -> Iterator[tuple[str, Cells]]:
        column = self.study.data_model.columns[block.name]
        assert isinstance(column, NumbersColumn)
        missing = ~self._likely(self.rows[:, block.start])
        for place, header in enumerate(column.headers):
            cells = self._number(self.rows[:, block.first + place], column)
            yield header, _emptied(cells, missing)

    def _number(self, values: Floats, column: NumberColumn | NumbersColumn) -> Cells:
        centre, spread = column.scale
        wide = values.astype(np.float64)
        if self.chance is not None:
            wide += self.chance.rng.normal(0, self.chance.spread, len(wide))
        plain = np.clip(centre + spread * wide, column.low, column.high)
        digits = max(0, 3 - int(np.floor(np.log10(spread))))
        return [f"{min(max(round(v, digits), column.low), column.high):g}" for v in plain.tolist()]

    def _codes(self, dummies: Floats, column: FlagColumn | CategoryColumn) -> Cells:
        shares = dummies.astype(np.float64) + HALF
        whole = np.column_stack([1 - shares.sum(axis=1), shares])
        if self.chance is None:
            return [column.codes[place] for place in whole.argmax(axis=1)]
        reached = whole.clip(min=0).cumsum(axis=1)
        drawn = self.chance.rng.uniform(size=(len(whole), 1)) * reached[:, -1:]
        return [column.codes[place] for place in (drawn >= reached[:, :-1]).sum(axis=1)]

    def _likely(self, shares: Floats) -> Mask:
        """Whether something with such a share is so."""
        if self.chance is None:
            return shares > HALF
        return self.chance.rng.uniform(size=len(shares)) < shares


def _emptied(cells: Cells, missing: Mask) -> Cells:
    return ["" if gone else cell for cell, gone in zip(cells, missing.tolist(), strict=True)]
