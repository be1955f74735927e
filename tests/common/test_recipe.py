"""What a model's file says of its inputs must be what `encode` does, for every row and scaling."""

from pathlib import Path

import numpy as np
import pytest
from tests.federation import PLAIN, write_study

from cohortium.common.preprocessing.encode import encode, feature_names, site_statistics
from cohortium.common.preprocessing.recipe import Input, recipe
from cohortium.common.study import Study
from cohortium.common.table import Table

ROWS = 60


@pytest.fixture
def table() -> Table:
    """Ages with gaps, sexes with gaps, markers beyond their bounds."""
    rng = np.random.default_rng(3)
    age = rng.uniform(18, 100, ROWS)
    age[::7] = np.nan
    sex = rng.integers(0, 2, ROWS).astype(np.int16)
    sex[::11] = -1
    return Table(
        numbers={"age": age, "marker": rng.uniform(-5, 20, ROWS)},
        codes={"sex": sex, "ill": (np.arange(ROWS) % 2).astype(np.int16)},
        patients=np.arange(ROWS),
        extra={},
    )


def by_hand(one: Input, table: Table, row: int, site: str) -> float:
    """One input of one row, from the recipe alone."""
    value = gap = None
    if one.kind == "site":
        value = float(one.equals == site)
    elif one.column is not None and one.column in table.numbers:
        number = float(table.numbers[one.column][row])
        value, gap = number, np.isnan(number)
    elif one.column is not None:
        code = table.codes[one.column][row]
        value, gap = float(str(code) == one.equals), code < 0
    if one.kind == "missing":
        value = float(bool(gap))
    elif gap:
        value = one.gap
    assert value is not None
    assert one.centre is not None
    assert one.spread is not None
    scaled = (value - one.centre) / one.spread
    return scaled if one.limit is None else float(np.clip(scaled, -one.limit, one.limit))


def study_with(folder: Path, **values: object) -> Study:
    study = write_study(folder, PLAIN)
    return study.model_copy(update={"preprocessing": study.preprocessing.model_copy(update=values)})


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"missing_indicators": ("age", "sex")},
        {"missing": "impute"},
        {"missing": "exclude"},
        {"site_intercept": True},
        {"scaling": "none"},
        {"scaling": "federated-standard", "missing_indicators": ("age",)},
    ],
    ids=str,
)
def test_the_recipe_gives_what_training_saw(
    tmp_path: Path, table: Table, values: dict[str, object]
) -> None:
    study = study_with(tmp_path, **values)
    scaling = study.preprocessing.scaling
    statistics = site_statistics(table, study, "b") if scaling == "federated-standard" else None
    seen = encode(table, study, "b", statistics).features
    made = [one for one in recipe(study, statistics) if isinstance(one, Input)]
    assert tuple(one.name for one in made) == feature_names(study)
    kept = list(range(ROWS))
    if study.preprocessing.missing == "exclude":
        gaps = np.isnan(table.numbers["age"]) | (table.codes["sex"] < 0)
        kept = [row for row in kept if not gaps[row]]
        assert all(one.gap is None for one in made)
    narrow = [one for one in made if isinstance(one, Input)]
    expected = [[by_hand(one, table, row, "b") for one in narrow] for row in kept]
    assert np.allclose(seen, expected, atol=1e-6)


def test_a_scale_that_is_each_sites_own_is_not_made_up(tmp_path: Path) -> None:
    made = recipe(study_with(tmp_path, scaling="site-standard"), None)
    assert {(one.centre, one.spread, one.limit) for one in made} == {(None, None, None)}
