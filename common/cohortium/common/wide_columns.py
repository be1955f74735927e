"""Columns that hold more than one number for each patient: sequences, molecules, images and so on.

Everything here is public knowledge about the form of the data, as in `schema.py`: lengths, letters,
shapes and bounds, never statistics of anybody's patients.
"""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from cohortium.common.document import Document

ALPHABETS: Final = {
    "dna": "ACGT",
    "rna": "ACGU",
    "protein": "ACDEFGHIKLMNPQRSTVWY",
}
NO_PAIRS: Final = "-"  # a known map without a contact, where "" is a missing one
MOST_VALUES = 1_000_000  # for one patient, of one column

Length = Annotated[int, Field(ge=1, le=100_000)]


class SequenceColumn(Document):
    """Text of one letter for each place: DNA, RNA, protein, or states along it.

    alphabet: `dna`, `rna`, `protein`, or the letters themselves. What IUPAC calls ambiguous in the
    first three (N, X and so on) is read as one unknown letter; anything else is refused.
    length: the most letters of one patient; shorter ones are padded at their end.
    """

    kind: Literal["sequence"]
    alphabet: Annotated[str, Field(min_length=2, max_length=60)]
    length: Length
    description: str = ""

    @model_validator(mode="after")
    def _letters(self) -> Self:
        letters = self.letters
        if len(set(letters)) < len(letters) or not letters.isprintable() or " " in letters:
            raise ValueError("alphabet: each letter once, and no space")
        return self

    @property
    def letters(self) -> str:
        """In the order of their numbers, from 1; 0 is padding, `len(letters) + 1` unknown."""
        return ALPHABETS.get(self.alphabet, self.alphabet)

    @property
    def levels(self) -> int:
        return len(self.letters) + 2


class PairsColumn(Document):
    """Places of a sequence that touch: `3-17 4-16`, counted from 1; `-` where none do.

    An empty cell is a map that nobody knows.
    """

    kind: Literal["pairs"]
    length: Annotated[int, Field(ge=2, le=1000)]
    description: str = ""


class MoleculeColumn(Document):
    """A molecule as SMILES (hydrogens implied).

    atoms, bonds: the most heavy atoms and bonds of one molecule; a larger one is refused.
    """

    kind: Literal["molecule"]
    atoms: Annotated[int, Field(ge=1, le=1000)] = 64
    bonds: Annotated[int, Field(ge=1, le=2000)] = 72
    description: str = ""


class NumbersColumn(Document):
    """A block of measured quantities with the same public bounds, such as one omics block.

    In the table it is one column for each of `names`, headed `prefix` and the name. A table that
    has none of them lacks the block for all its patients.
    """

    kind: Literal["numbers"]
    names: Annotated[tuple[str, ...], Field(min_length=1, max_length=100_000)]
    prefix: str = ""
    low: float
    high: float
    centre: float | None = None
    spread: Annotated[float, Field(gt=0)] | None = None
    unit: str = ""
    not_measured: tuple[float, ...] = ()
    description: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(set(self.names)) < len(self.names):
            raise ValueError("names holds a name twice")
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.centre is not None and not self.low <= self.centre <= self.high:
            raise ValueError(f"centre ({self.centre}) must lie between low and high")
        return self

    @property
    def headers(self) -> tuple[str, ...]:
        """Of the table's columns, in order."""
        return tuple(self.prefix + name for name in self.names)

    @property
    def scale(self) -> tuple[float, float]:
        """Public (centre, spread); by default the middle and a fifth of the range."""
        centre = (self.low + self.high) / 2 if self.centre is None else self.centre
        return centre, (self.high - self.low) / 5.0 if self.spread is None else self.spread


class ImageColumn(Document):
    """An image of fixed size: an array of an NPZ file, or paths of PNG or JPEG files.

    channels, height, width: 1 channel for grey, 3 for colour.
    low, high: public range of a pixel, which becomes -1 to 1.
    """

    kind: Literal["image"]
    channels: Annotated[int, Field(ge=1, le=16)] = 1
    height: Annotated[int, Field(ge=1, le=2048)]
    width: Annotated[int, Field(ge=1, le=2048)]
    low: float = 0.0
    high: float = 255.0
    description: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.channels * self.height * self.width > MOST_VALUES:
            raise ValueError(f"an image may have at most {MOST_VALUES} values")
        return self


class SeriesColumn(Document):
    """Measurements at irregular times: `0=1.2,3.4; 1.5=,3.1` (time, then one value per channel).

    channels: their names; low, high: public bounds of each; length: the most times of one patient.
    until: times lie between 0 and this, in the unit of the study's choice.
    """

    kind: Literal["series"]
    channels: Annotated[tuple[str, ...], Field(min_length=1, max_length=1000)]
    length: PositiveInt
    until: Annotated[float, Field(gt=0)]
    low: tuple[float, ...]
    high: tuple[float, ...]
    description: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not len(self.channels) == len(self.low) == len(self.high):
            raise ValueError("channels, low and high need one entry for each channel")
        if any(low >= high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError("low must be below high in every channel")
        return self


WideColumn = (
    SequenceColumn | PairsColumn | MoleculeColumn | NumbersColumn | ImageColumn | SeriesColumn
)
WIDE: Final = ("sequence", "pairs", "molecule", "numbers", "image", "series")
