"""The data model that all sites share: a table's columns, their units, public bounds and codes.

Written once per data model as `schema.toml`. Bounds, centres and spreads are *public knowledge*
(textbook or instrument ranges), never statistics of anybody's patients: preprocessing with them
costs no privacy.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from cohortium.common.document import Document, load
from cohortium.common.wide_columns import WideColumn

NAME = r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME)]
Code = Annotated[str, Field(min_length=1, max_length=64)]
Repeated = Literal["refuse", "first", "last", "mean"]

SPREADS_PER_RANGE = 5.0  # a range is 5 spreads wide, so its ends lie at -2.5 and +2.5


class NumberColumn(Document):
    """A measured quantity with public bounds, in the units of `unit`."""

    kind: Literal["number"]
    low: float
    high: float
    unit: str = ""
    centre: float | None = None
    spread: Annotated[float, Field(gt=0)] | None = None
    not_measured: tuple[float, ...] = ()
    description: str = ""

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.centre is not None and not self.low <= self.centre <= self.high:
            raise ValueError(f"centre ({self.centre}) must lie between low and high")
        return self

    @property
    def scale(self) -> tuple[float, float]:
        """Public (centre, spread); by default the middle and a fifth of the range."""
        centre = (self.low + self.high) / 2 if self.centre is None else self.centre
        spread = (self.high - self.low) / SPREADS_PER_RANGE if self.spread is None else self.spread
        return centre, spread


class FlagColumn(Document):
    """A yes or no, written in the table as the two given codes."""

    kind: Literal["flag"]
    no: Code = "0"
    yes: Code = "1"
    no_label: str = "no"
    yes_label: str = "yes"
    description: str = ""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if self.no == self.yes:
            raise ValueError(f'no and yes are both "{self.no}"')
        if self.no_label == self.yes_label:
            raise ValueError(f'no_label and yes_label are both "{self.no_label}"')
        return self

    @property
    def codes(self) -> tuple[str, str]:
        return (self.no, self.yes)

    @property
    def labels(self) -> tuple[str, str]:
        return (self.no_label, self.yes_label)


class CategoryColumn(Document):
    """One of a closed list of codes; the first is the reference level."""

    kind: Literal["category"]
    codes: Annotated[tuple[Code, ...], Field(min_length=2, max_length=1000)]
    labels: tuple[str, ...] = ()
    description: str = ""

    @model_validator(mode="after")
    def _codes(self) -> Self:
        if len(set(self.codes)) < len(self.codes):
            raise ValueError("codes holds a code twice")
        if self.labels and len(self.labels) != len(self.codes):
            raise ValueError(f"{len(self.codes)} codes but {len(self.labels)} labels")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("labels holds a label twice")
        return self


NarrowColumn = NumberColumn | FlagColumn | CategoryColumn
Column = Annotated[NarrowColumn | WideColumn, Field(discriminator="kind")]


class TableFormat(Document):
    """How the rows are written: a delimited text file, one row per record.

    `repeated` says what several rows of one patient become: nothing, or one row.
    """

    header: bool = True
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    missing: tuple[str, ...] = ("", "?", "NA", "NaN", "nan")
    patient_key: Name | None = None
    repeated: Repeated = "refuse"

    @model_validator(mode="after")
    def _whose(self) -> Self:
        if self.repeated != "refuse" and self.patient_key is None:
            raise ValueError(
                f'repeated = "{self.repeated}" needs a patient_key that says whose row it is'
            )
        return self


def _written_order(values: dict[str, Any]) -> tuple[str, ...]:
    """The order in which a person wrote the columns; it survives the canonical form."""
    return tuple(values.get("columns", ()))


class Schema(Document):
    """A data model. Without a header line, `order` (as the columns are written) is the file's."""

    name: Name
    description: str = ""
    table: TableFormat = TableFormat()
    columns: Annotated[Mapping[Name, Column], Field(min_length=1)]
    order: tuple[Name, ...] = Field(default_factory=_written_order)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if sorted(self.order) != sorted(self.columns):
            raise ValueError("order must name every column once; leave it out to use theirs")
        return self

    def narrow(self, name: str) -> NarrowColumn:
        """A column that holds one number; ValueError for one that holds more."""
        column = self.columns[name]
        if not isinstance(column, NarrowColumn):
            raise ValueError(f'"{name}" is a {column.kind}, and one number is needed')
        return column

    def wide(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of the columns that hold more than one number."""
        return tuple(n for n in names if not isinstance(self.columns[n], NarrowColumn))

    @model_validator(mode="after")
    def _key(self) -> Self:
        key = self.table.patient_key
        if key is not None and not self.table.header and key not in self.columns:
            raise ValueError(
                f'table.patient_key "{key}" is no column, and the file has no header to find it by'
            )
        return self


def load_schema(path: Path) -> Schema:
    """Read `schema.toml`; raises DocumentError naming file and key."""
    return load(path, Schema)
