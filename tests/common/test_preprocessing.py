"""Encoding: every kind of column under every scaling, by hand, and what must be refused."""

import numpy as np
import pytest
import torch

from cohortium.common.document import parse
from cohortium.common.errors import CohortiumError, DataError, ProtocolError
from cohortium.common.preprocessing.encode import (
    encode,
    feature_names,
    require_classes,
    site_statistics,
)
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.study import Study
from cohortium.common.table import Table

NAN = float("nan")


def study(preprocessing: dict[str, object] | None = None, **changes: object) -> Study:
    columns = {
        "age": {"kind": "number", "low": 0.0, "high": 100.0, "centre": 50.0, "spread": 10.0},
        "smoker": {"kind": "flag", "yes_label": "smoker", "no_label": "other"},
        "stage": {"kind": "category", "codes": ["I", "II", "III"]},
        "score": {"kind": "number", "low": 0.0, "high": 10.0},
        "split": {"kind": "category", "codes": ["train", "test"]},
    }
    values = {
        "name": "made-up",
        "purpose": {"text": "to test the encoding", "duo": "GRU", "legal_basis": "consent"},
        "data": {"dataset": "ward", "features": ["stage", "age", "smoker"]},
        "data_model": {"name": "ward", "columns": columns},
        "task": {"kind": "binary", "label": "score", "positive_above": 5.0},
        "model": {"name": "logistic"},
        "preprocessing": preprocessing or {},
        "split": {"column": "split"},
        "training": {"rounds": 1, "batches": "shuffle", "batch_size": 4, "learning_rate": 0.1},
        "privacy": {"mechanism": "none"},
        "fairness": {"attributes": ["age", "smoker"], "bands": {"age": [40.0, 60.0]}},
        "sites": {"names": ["north", "south"], "min_sites": 1},
    }
    return parse({**values, **changes}, Study, "study.toml")


def table(age: list[float], score: list[float], split: list[str] | None = None) -> Table:
    rows = len(age)
    place = np.arange(rows)
    return Table(
        numbers={"age": np.array(age), "score": np.array(score)},
        codes={
            "smoker": (place % 2).astype(np.int16),
            "stage": (place % 4 - 1).astype(np.int16),
        },
        patients=place.astype(np.int64),
        extra={"split": np.array(split or ["train"] * (rows - 1) + ["test"])},
    )


FOUR = table(age=[40.0, NAN, 100.0, 60.0], score=[9.0, 1.0, 5.0, 6.0])


def test_public_range_scaling_by_hand_with_gaps_at_exactly_zero() -> None:
    preprocessing = {"missing_indicators": ["age"], "site_intercept": True}
    chosen = study(preprocessing)
    assert feature_names(chosen) == (
        "stage_II",
        "stage_III",
        "age",
        "smoker",
        "age_missing",
        "site_north",
        "site_south",
    )
    encoded = encode(FOUR, chosen, "south")
    assert encoded.features.dtype == np.float32
    assert encoded.features.tolist() == [
        [0.0, 0.0, -1.0, -0.5, -0.5, 0.0, 1.0],  # stage missing
        [-0.5, -0.5, 0.0, 0.5, 0.5, 0.0, 1.0],  # age missing
        [0.5, -0.5, 2.5, -0.5, -0.5, 0.0, 1.0],  # 5 spreads above, clipped
        [-0.5, 0.5, 1.0, 0.5, -0.5, 0.0, 1.0],
    ]
    assert encoded.labels.tolist() == [1.0, 0.0, 0.0, 1.0]  # 5.0 is not above 5.0
    assert encoded.train.tolist() == [True, True, True, False]


def test_a_band_holds_its_lower_edge_and_a_gap_is_no_band() -> None:
    encoded = encode(FOUR, study(), "north")
    assert study().attribute_levels("age") == ("<40", "40 to <60", ">=60")
    assert encoded.attributes["age"].tolist() == [1, -1, 2, 2]
    assert encoded.attributes["smoker"].tolist() == [0, 1, 0, 1]


def test_without_scaling_numbers_stay_and_gaps_are_neutral() -> None:
    encoded = encode(FOUR, study({"scaling": "none", "missing": "impute"}), "north")
    assert encoded.features.tolist() == [
        [0.5, 0.5, 40.0, 0.0],
        [0.0, 0.0, 50.0, 1.0],
        [1.0, 0.0, 100.0, 0.0],
        [0.0, 1.0, 60.0, 1.0],
    ]


def test_excluding_drops_rows_with_a_missing_input_and_a_missing_label_always() -> None:
    five = table(age=[1.0, 2.0, 3.0, NAN, 5.0, 6.0, 7.0], score=[9.0, 1.0, 9.0, 1.0, 1.0, NAN, 9.0])
    chosen = study({"missing": "exclude", "scaling": "none"})
    encoded = encode(five, chosen, "north")  # rows 0 and 4 have no stage, 3 no age, 5 no label
    assert encoded.features[:, 2].tolist() == [2.0, 3.0, 7.0]
    assert encoded.patients.tolist() == [1, 2, 6]


def test_site_standard_equals_torch_bit_for_bit() -> None:
    rng = np.random.default_rng(3)
    rows = table(age=rng.uniform(20, 90, 200).tolist(), score=rng.uniform(0, 10, 200).tolist())
    rows.extra["split"][::3] = "test"
    encoded = encode(rows, study({"scaling": "site-standard"}), "north")
    plain = encode(rows, study({"scaling": "none"}), "north").features
    inputs, train = torch.from_numpy(plain), torch.from_numpy(encoded.train)
    expected = (inputs - inputs[train].mean(0)) / (inputs[train].std(0) + 1e-9)
    assert encoded.features.tobytes() == expected.numpy().tobytes()


def test_federated_standard_equals_one_table_of_all_sites() -> None:
    rng = np.random.default_rng(4)
    chosen = study({"scaling": "federated-standard", "site_intercept": True})
    north, south = (
        table(age=rng.uniform(20, 90, n).tolist(), score=rng.uniform(0, 10, n).tolist())
        for n in (50, 70)
    )
    merged = site_statistics(north, chosen, "north") + site_statistics(south, chosen, "south")
    parts = [
        encode(rows, chosen, site, merged) for rows, site in ((north, "north"), (south, "south"))
    ]
    pooled = np.vstack([part.features[part.train, :4] for part in parts])
    np.testing.assert_allclose(pooled.mean(axis=0), 0.0, atol=1e-6)
    np.testing.assert_allclose(pooled.std(axis=0, ddof=1), 1.0, atol=1e-5)
    assert parts[1].features[:, 4:].tolist() == [[0.0, 1.0]] * 70  # the intercepts stay 0 and 1


def test_federated_standard_without_statistics_is_refused() -> None:
    chosen = study({"scaling": "federated-standard"})
    narrow = Statistics(count=9, total=(1.0,), squares=(1.0,))
    for statistics in (None, narrow):
        with pytest.raises(ProtocolError, match="statistics of 4 inputs"):
            encode(FOUR, chosen, "north", statistics)


def test_codes_can_be_the_label() -> None:
    chosen = study(
        task={"kind": "binary", "label": "stage", "positive_codes": ["III", "I"]},
        data={"dataset": "ward", "features": ["age"]},
    )
    encoded = encode(table(age=[1.0] * 8, score=[0.0] * 8), chosen, "north")
    assert encoded.labels.tolist() == [1.0, 0.0, 1.0, 1.0, 0.0, 1.0]  # rows 0 and 4 have no stage


@pytest.mark.parametrize(
    ("score", "split", "rule"),
    [
        ([9.0, 9.0, 9.0, 1.0], None, r"label has one class only at this site \(1-9 training"),
        ([NAN] * 4, None, "no row has a label"),
        ([9.0, 1.0, 9.0, 1.0], ["test"] * 4, "no row is left to train on"),
        ([9.0, 1.0, 9.0, 1.0], ["train"] + ["test"] * 3, "fewer than 2 rows"),
        ([9.0, 1.0, 9.0, 1.0], ["train", "test", "Train", "train"], "1-9 rows say neither"),
    ],
)
def test_a_site_that_cannot_train_hears_why_and_no_count(
    score: list[float], split: list[str] | None, rule: str
) -> None:
    rows = table(age=[71.625] * 4, score=score, split=split)
    with pytest.raises(DataError, match=rule) as caught:
        require_classes(encode(rows, study(), "north"), study(), "north")
    assert "71.625" not in str(caught.value)
    assert "Train" not in str(caught.value)
    assert isinstance(caught.value, CohortiumError)
