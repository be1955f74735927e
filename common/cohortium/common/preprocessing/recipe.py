"""From a row to the model's inputs, as plain facts that travel with the model.

Whoever has the file needs neither the study nor this program: each input says which column it
reads, what a gap becomes, and how it is scaled. `encode` does the same for whole tables.
"""

from collections.abc import Iterator
from typing import Literal

from cohortium.common.document import Document
from cohortium.common.preprocessing.encode import HALF, LIMIT, TINY
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.schema import CategoryColumn, FlagColumn, NumberColumn
from cohortium.common.study import Study


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


def recipe(study: Study, statistics: Statistics | None) -> tuple[Input, ...]:
    """The study's inputs in the model's order.

    Args:
        statistics: of all sites together; given exactly with `federated-standard` scaling.
    """
    made = [*_columns(study), *_indicators(study)]
    scaled = [_scaled(one, study, statistics, place) for place, one in enumerate(made)]
    return (*scaled, *_intercepts(study))


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
