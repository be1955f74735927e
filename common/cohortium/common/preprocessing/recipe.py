"""From a row to the model's inputs, as plain facts that travel with the model.

Whoever has the file needs neither the study nor this program: each input says which column it
reads, what a gap becomes, and how it is scaled. A column of more than one number is one entry for
all its inputs. `encode` does the same for whole tables, and `using/loader.py` from these facts.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import numpy as np

from cohortium.common.document import Document
from cohortium.common.preprocessing.encode import HALF, LIMIT, TINY
from cohortium.common.preprocessing.reducing import reduce
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.preprocessing.wide.molecule import ELEMENTS, RADIUS
from cohortium.common.schema import CategoryColumn, Column, FlagColumn, NumberColumn
from cohortium.common.study import Study
from cohortium.common.wide_columns import MoleculeColumn, NumbersColumn, SequenceColumn


class Input(Document):
    """One input: (value - centre) / spread, clipped to +-limit where there is one.

    value: of kind `number` the column's number; `code` 1 where the column holds `equals`, else 0;
    `missing` 1 where the column is empty, else 0; `site` 1 at the site named by `equals`, else 0.
    gap: the value where the column is empty; None: such a row has no prediction.
    centre, spread: None where each site uses its own mean and deviation.
    """

    name: str
    kind: Literal["number", "code", "missing", "site"]
    column: str | None
    equals: str | None = None
    unit: str = ""
    gap: float | None
    centre: float | None
    spread: float | None
    limit: float | None


class BlockInput(Document):
    """All inputs of one wide column: 1 where the row has it, then `inputs` - 1 values; else zeros.

    kind: as in `common/layout.py`, and `fingerprint` of a molecule.
    columns: of the table, in order.
    facts: the schema's, which `how` refers to.
    centre, spread: of each number of a block, as of an `Input`; empty where each site has its own.
    directions: what the scaled numbers of a block are multiplied with, (values, numbers).
    """

    name: str
    kind: Literal["numbers", "sequence", "molecule", "fingerprint", "image", "series"]
    inputs: int
    columns: tuple[str, ...]
    how: str
    facts: Mapping[str, Any]
    gap: tuple[float, ...] = ()
    centre: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    limit: float | None = None
    directions: tuple[tuple[float, ...], ...] | None = None


HOW: Final = {
    "numbers": "as single numbers: a gap becomes `gap`; (value - centre) / spread, clipped to "
    "+-limit where there is one; multiplied with `directions` where there are any",
    "sequence": "the number of each letter among `letters`, from 1; one more than there are for "
    "what is unknown; 0 behind the end, up to `length`",
    "molecule": "RDKit's atoms and bonds in its order, `atoms` and `bonds` of them, zeros behind; "
    "an atom: element among `elements` from 1, one more for another; degree, charge + 3, hydrogens "
    "(each 0 to 6), aromatic, in a ring; a bond: its atoms from 0, and 1 single, 2 double, "
    "3 triple, 4 aromatic",
    "fingerprint": "RDKit's Morgan fingerprint of `radius`, of `bits`",
    "image": "pixels from -1 at `low` to 1 at `high`; channels, then rows, then columns",
    "series": "for each of `length` times: time / `until`; each channel from -1 at `low` to 1 at "
    "`high`, 0 where absent; 1 for each channel that is there, else 0; zeros behind the last time",
}


def recipe(study: Study, statistics: Statistics | None) -> tuple[Input | BlockInput, ...]:
    """The study's inputs in the model's order.

    Args:
        statistics: of all sites together; given exactly where the study has any.
    """
    made = [*_columns(study), *_indicators(study)]
    scaled = [_scaled(one, study, statistics, place) for place, one in enumerate(made)]
    return (*scaled, *_intercepts(study), *_blocks(study, statistics, len(made)))


def _blocks(study: Study, statistics: Statistics | None, place: int) -> Iterator[BlockInput]:
    """Those of the wide columns; `place` is the first scaled input of theirs."""
    for block in study.layout.blocks:
        if block.kind == "table":
            continue
        column = study.data_model.columns[block.name]
        kind: Any = block.kind
        if isinstance(column, MoleculeColumn) and kind == "numbers":
            kind = "fingerprint"
        entry = BlockInput(
            name=block.name,
            kind=kind,
            inputs=block.stop - block.start,
            columns=(block.name,),
            how=HOW[kind],
            facts=_facts(column, study),
        )
        if isinstance(column, NumbersColumn):
            entry = entry.model_copy(update=_numbers(column, block.name, study, statistics, place))
            place += len(column.names)
        yield entry


def _facts(column: Column, study: Study) -> dict[str, Any]:
    found = column.model_dump(mode="json", exclude={"names", "prefix", "description", "kind"})
    if isinstance(column, SequenceColumn):
        found["letters"] = column.letters
    if isinstance(column, MoleculeColumn):
        found["elements"] = list(ELEMENTS)
        found |= {"radius": RADIUS, "bits": study.preprocessing.fingerprint_bits}
    return found


def _numbers(
    column: NumbersColumn, name: str, study: Study, statistics: Statistics | None, place: int
) -> dict[str, Any]:
    count, scaling = len(column.names), study.preprocessing.scaling
    centre, spread = column.scale
    how: dict[str, Any] = {"columns": column.headers, "gap": (centre,) * count}
    if scaling == "public-range":
        how |= {"centre": (centre,) * count, "spread": (spread,) * count, "limit": LIMIT}
    elif scaling == "none":
        how |= {"centre": (0.0,) * count, "spread": (1.0,) * count}
    elif scaling == "federated-standard" and statistics is not None:
        where = slice(place, place + count)
        how["centre"] = tuple(float(one) for one in statistics.mean[where])
        how["spread"] = tuple(float(one) + TINY for one in statistics.deviation[where])
    reduction = study.preprocessing.reduce
    if reduction is not None and reduction.block == name:
        found = statistics.projection if statistics is not None else None
        rows = reduce(np.eye(count), reduction, found, study.training.seed)
        how["directions"] = tuple(tuple(row) for row in rows.T.tolist())
    return how


def _columns(study: Study) -> Iterator[Input]:
    """Each as with public scaling."""
    excluded = study.preprocessing.missing == "exclude"
    for name in study.data.features:
        column = study.data_model.columns[name]
        if isinstance(column, NumberColumn):
            centre, spread = column.scale
            gap = None if excluded else centre
            yield Input(
                name=name,
                kind="number",
                column=name,
                unit=column.unit,
                gap=gap,
                centre=centre,
                spread=spread,
                limit=LIMIT,
            )
            continue
        if not isinstance(column, FlagColumn | CategoryColumn):
            continue
        for code in column.codes[1:]:
            yield Input(
                name=f"{name}_{code}" if isinstance(column, CategoryColumn) else name,
                kind="code",
                column=name,
                equals=code,
                gap=None if excluded else HALF,
                centre=HALF,
                spread=1.0,
                limit=LIMIT,
            )


def _indicators(study: Study) -> Iterator[Input]:
    preprocessing = study.preprocessing
    for name in preprocessing.missing_indicators if preprocessing.missing == "indicator" else ():
        yield Input(
            name=f"{name}_missing",
            kind="missing",
            column=name,
            gap=1.0,
            centre=HALF,
            spread=1.0,
            limit=LIMIT,
        )


def _intercepts(study: Study) -> Iterator[Input]:
    for site in study.sites.names if study.preprocessing.site_intercept else ():
        yield Input(
            name=f"site_{site}",
            kind="site",
            column=None,
            equals=site,
            gap=0.0,
            centre=0.0,
            spread=1.0,
            limit=None,
        )


def _scaled(one: Input, study: Study, statistics: Statistics | None, place: int) -> Input:
    scaling = study.preprocessing.scaling
    if scaling == "public-range":
        return one
    centre: float | None = None
    spread: float | None = None
    if scaling == "none":
        centre, spread = 0.0, 1.0
    elif scaling == "federated-standard" and statistics is not None:
        centre = float(statistics.mean[place])
        spread = float(statistics.deviation[place]) + TINY
    return one.model_copy(update={"centre": centre, "spread": spread, "limit": None})
