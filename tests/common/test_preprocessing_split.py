"""Splits by seed, and statistics that merge."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohortium.common.document import parse
from cohortium.common.errors import DataError, ProtocolError
from cohortium.common.preprocessing.split import train_mask
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.study import Study
from cohortium.common.table import Table


def study(seed: int = 0, key: str | None = None, fraction: float = 0.25) -> Study:
    table = {"patient_key": key} if key else {}
    columns = {
        "age": {"kind": "number", "low": 0.0, "high": 100.0},
        "ill": {"kind": "flag"},
        "mrn": {"kind": "flag"},
    }
    values = {
        "name": "made-up",
        "purpose": {"text": "to test the split", "duo": "GRU", "legal_basis": "consent"},
        "data": {"dataset": "ward", "features": ["age"]},
        "data_model": {"name": "ward", "table": table, "columns": columns},
        "task": {"kind": "binary", "label": "ill", "positive_codes": ["1"]},
        "model": {"name": "logistic"},
        "split": {"test_fraction": fraction, "seed": seed},
        "training": {"rounds": 1, "batches": "full"},
        "privacy": {"mechanism": "none"},
        "sites": {"names": ["north"], "min_sites": 1},
    }
    return parse(values, Study, "study.toml")


def table(patients: list[int]) -> Table:
    return Table({}, {}, np.array(patients, dtype=np.int64), {})


def held_out(patients: list[int], chosen: Study, site: str = "north") -> set[int]:
    rows = table(patients)
    return set(rows.patients[~train_mask(rows, chosen, site)].tolist())


@given(rows=st.lists(st.integers(0, 30)), seed=st.integers(0, 2**31))
def test_a_patient_is_never_on_both_sides(rows: list[int], seed: int) -> None:
    patients = [*rows, *range(100, 200)]  # enough that neither side is ever empty
    mask = train_mask(table(patients), study(seed), "north")
    train = {patient for patient, kept in zip(patients, mask, strict=True) if kept}
    test = {patient for patient, kept in zip(patients, mask, strict=True) if not kept}
    assert train.isdisjoint(test)


@given(seed=st.integers(0, 2**31))
def test_a_patient_who_joins_or_leaves_moves_nobody_else(seed: int) -> None:
    patients = list(range(60))
    without = held_out(patients[:-1], study(seed))
    assert held_out(patients, study(seed)) - {59} == without


def test_the_share_held_out_is_the_one_asked_for() -> None:
    patients = list(range(20_000))
    assert len(held_out(patients, study(seed=5))) / 20_000 == pytest.approx(0.25, abs=0.01)


def test_a_split_is_the_same_again_and_differs_by_seed_and_site() -> None:
    patients = list(range(400))
    first = held_out(patients, study(seed=1))
    assert held_out(patients, study(seed=1)) == first
    assert held_out(patients, study(seed=2)) != first
    assert held_out(patients, study(seed=1), "south") != first  # row 7 is somebody else there


def test_a_keyed_patient_keeps_its_side_at_another_site_and_in_another_row_order() -> None:
    patients = list(range(400))
    chosen = study(key="mrn")
    assert held_out(patients[::-1], chosen, "south") == held_out(patients, chosen, "north")


@pytest.mark.parametrize("patients", [[1], [1, 1, 1], [1, 2]])
def test_a_site_may_hold_out_nobody_but_must_train_on_somebody(patients: list[int]) -> None:
    assert train_mask(table(patients), study(fraction=1e-9), "north").all()
    with pytest.raises(DataError, match="no row is left to train on"):
        train_mask(table(patients), study(fraction=1 - 1e-9), "north")


inputs = st.lists(
    st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)), min_size=1, max_size=20
).map(lambda rows: np.array(rows, dtype=np.float64))


@given(a=inputs, b=inputs, c=inputs)
def test_statistics_merge_in_any_order_to_those_of_one_table(
    a: np.ndarray, b: np.ndarray, c: np.ndarray
) -> None:
    x, y, z = (Statistics.from_encoded(rows) for rows in (a, b, c))
    pooled = np.vstack([a, b, c])
    for merged in ((x + y) + z, x + (y + z), z + (y + x)):
        assert merged.count == len(pooled)
        np.testing.assert_allclose(merged.mean, pooled.mean(axis=0), atol=1e-9)
        np.testing.assert_allclose(merged.deviation, pooled.std(axis=0, ddof=1), atol=1e-3)
    assert x + y == y + x


def test_statistics_of_other_columns_do_not_merge() -> None:
    one = Statistics(count=1, total=(1.0,), squares=(1.0,))
    two = Statistics(count=1, total=(1.0, 2.0), squares=(1.0, 4.0))
    with pytest.raises(ProtocolError, match="1 and 2 inputs"):
        one + two
