"""How a patient's inputs lie in one row of float32 numbers: blocks, one behind the other.

Whatever a study reads, features are one matrix (n, inputs), so that sampling, clipping and sending
know nothing of images or molecules. A model takes its blocks out of a row again
(`models/blocks.py`). All of it follows from the study alone, the same at every site.

| kind | values of a row | shape |
| --- | --- | --- |
| table | numbers, dummies, indicators and intercepts, as `encode.feature_names` | (k,) |
| numbers | scaled numbers; a gap is 0 | (k,) |
| sequence | number of the letter, 0 padding, levels - 1 unknown | (length,) |
| molecule | `ATOM` numbers for each atom, then `BOND` for each bond; see `preprocessing` | (k,) |
| image | pixels from -1 to 1 | (channels, height, width) |
| series | time from 0 to 1; scaled values, a gap is 0; 1 where it is there | (length, 1 + 2c) |

Every block but `table` begins with one number more: 1 where the patient has it, 0 where not, and
then all its values are 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Final, Literal

from cohortium.common.schema import CategoryColumn
from cohortium.common.wide_columns import (
    ImageColumn,
    MoleculeColumn,
    NumbersColumn,
    SequenceColumn,
    SeriesColumn,
)

if TYPE_CHECKING:
    from cohortium.common.study import Study

BlockKind = Literal["table", "numbers", "sequence", "molecule", "image", "series"]

TABLE: Final = "table"  # the name of the block of all narrow columns
ATOM: Final = 6  # element, degree, charge, hydrogens, aromatic, in a ring
BOND: Final = 3  # from, to, type


@dataclass(frozen=True)
class Block:
    """One modality.

    Attributes:
        name: the column's; `table` for all that hold one number.
        start: place in the row of the first number, which says whether the block is there.
        levels: of a sequence: how many numbers a place can have.
        sizes: of a molecule: the most atoms and bonds.
        groups: of the table: a category column's name and its dummies' places in the block.
        names: of numbers that are not reduced: theirs, in order.
    """

    name: str
    kind: BlockKind
    start: int
    shape: tuple[int, ...]
    levels: int = 0
    sizes: tuple[int, ...] = ()
    groups: tuple[tuple[str, int, int], ...] = ()
    names: tuple[str, ...] = ()

    @property
    def first(self) -> int:
        """Place of the first value."""
        return self.start + (self.kind != "table")

    @property
    def stop(self) -> int:
        return self.first + prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """The blocks of a row, in order."""

    blocks: tuple[Block, ...]

    @property
    def inputs(self) -> int:
        """How many numbers a row has."""
        return self.blocks[-1].stop if self.blocks else 0

    @cached_property
    def by_name(self) -> dict[str, Block]:
        return {block.name: block for block in self.blocks}

    def only(self, name: str) -> "Layout":
        """The same rows, of which a model sees one block."""
        return Layout((self.by_name[name],))


def table_layout(inputs: int) -> Layout:
    """Of so many plain numbers."""
    return Layout((Block(TABLE, "table", 0, (inputs,)),))


def layout_of(study: "Study") -> Layout:
    """What a row of a study's features holds; `study.layout` remembers it."""
    return Layout(tuple(_placed(study)))


def _placed(study: "Study") -> Iterator[Block]:
    from cohortium.common.preprocessing.encode import table_names

    start, names = 0, table_names(study)
    if names:
        table = Block(TABLE, "table", 0, (len(names),), groups=tuple(_groups(study)))
        start = table.stop
        yield table
    for name in study.data.features:
        column = study.data_model.columns[name]
        match column:
            case NumbersColumn():
                block = _numbers(name, column, start, study)
            case SequenceColumn():
                block = Block(name, "sequence", start, (column.length,), levels=column.levels)
            case MoleculeColumn():
                block = _molecule(name, column, start, study)
            case ImageColumn():
                shape = (column.channels, column.height, column.width)
                block = Block(name, "image", start, shape)
            case SeriesColumn():
                block = Block(name, "series", start, (column.length, 1 + 2 * len(column.channels)))
            case _:
                continue
        start = block.stop
        yield block


def _numbers(name: str, column: NumbersColumn, start: int, study: "Study") -> Block:
    reduce = study.preprocessing.reduce
    if reduce is not None and reduce.block == name:
        return Block(name, "numbers", start, (reduce.components,))
    return Block(name, "numbers", start, (len(column.names),), names=column.names)


def _molecule(name: str, column: MoleculeColumn, start: int, study: "Study") -> Block:
    if study.preprocessing.molecules == "fingerprint":
        return Block(name, "numbers", start, (study.preprocessing.fingerprint_bits,))
    sizes = (column.atoms, column.bonds)
    shape = (column.atoms * ATOM + column.bonds * BOND,)
    return Block(name, "molecule", start, shape, sizes=sizes)


def _groups(study: "Study") -> Iterator[tuple[str, int, int]]:
    place = 0
    for name in study.data.features:
        column = study.data_model.columns[name]
        if column.kind in ("number", "flag"):
            place += 1
        elif isinstance(column, CategoryColumn):
            width = len(column.codes) - 1
            yield name, place, place + width
            place += width
