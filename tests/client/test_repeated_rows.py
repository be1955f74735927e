"""Several rows of one patient become one: nobody weighs more, or loses more, than one person."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.federation import FULL, SCHEMA, write_study

from cohortium.client import local_round
from cohortium.client.cohort import prepare
from cohortium.client.data.table import check_table, read_table
from cohortium.client.training.full_batch import clipped_sum
from cohortium.common.document import digest, parse
from cohortium.common.errors import DataError, DocumentError
from cohortium.common.models.building import build_seeded
from cohortium.common.schema import Schema, load_schema
from cohortium.common.study import Study, load_study

KEY = "Kowalska1953"
COLUMNS = {
    "chol": {"kind": "number", "low": 50.0, "high": 700.0, "not_measured": [0.0]},
    "sex": {"kind": "flag", "no_label": "female", "yes_label": "male"},
    "cp": {"kind": "category", "codes": ["1", "2", "3"]},
    "ill": {"kind": "flag"},
}
WANTED = ("chol", "sex", "cp", "ill")
VISITS = f"""mrn,chol,sex,cp,ill,split
B8,300,1,3,1,test
{KEY},200,0,1,0,train
{KEY},0,?,2,?,train
C9,?,1,,0,train
{KEY},250,,?,0,train
B8,310,0,3,1,test
"""


def schema(repeated: str) -> Schema:
    table = {"patient_key": "mrn", "repeated": repeated}
    return parse({"name": "ward", "table": table, "columns": COLUMNS}, Schema, "schema.toml")


def write(folder: Path, text: str) -> Path:
    path = folder / "ward.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("repeated", "chol", "sex", "cp", "ill"),
    [
        ("first", [300, 200, np.nan], [1, 0, 1], [2, 0, -1], [1, 0, 0]),
        ("last", [310, 250, np.nan], [0, -1, 1], [2, -1, -1], [1, 0, 0]),
        ("mean", [305, 225, np.nan], [0, 0, 1], [2, 1, -1], [1, 0, 0]),
    ],
)
def test_the_rows_of_a_patient_become_one_as_the_schema_says(
    tmp_path: Path,
    repeated: str,
    chol: list[float],
    sex: list[int],
    cp: list[int],
    ill: list[int],
) -> None:
    path = write(tmp_path, VISITS)
    table = read_table(path, schema(repeated), WANTED, ["split"], ["ill"])
    np.testing.assert_array_equal(table.numbers["chol"], chol)
    assert [table.codes[name].tolist() for name in ("sex", "cp", "ill")] == [sex, cp, ill]
    assert table.extra["split"].tolist() == ["test", "train", "train"]
    assert (table.rows, table.patient_count) == (3, 3)


@pytest.mark.parametrize(
    ("column", "old", "new"),
    [("ill", f"{KEY},250,,?,0,train", f"{KEY},250,,?,1,train"), ("split", "1,test", "1,train")],
)
def test_a_mean_over_two_labels_or_both_sides_of_the_split_is_refused_and_names_nobody(
    tmp_path: Path, column: str, old: str, new: str
) -> None:
    path = write(tmp_path, VISITS.replace(old, new, 1))
    with pytest.raises(DataError, match=f'column "{column}": 1-9 patients.*do not agree') as caught:
        read_table(path, schema("mean"), WANTED, ["split"], ["ill"])
    assert KEY not in str(caught.value)
    assert read_table(path, schema("last"), WANTED, ["split"], ["ill"]).rows == 3


def test_a_number_that_is_the_label_is_not_averaged_into_another_one(tmp_path: Path) -> None:
    columns = {"dose": {"kind": "number", "low": 0.0, "high": 1.0}}
    table = {"patient_key": "mrn", "repeated": "mean"}
    doses = parse({"name": "d", "table": table, "columns": columns}, Schema, "schema.toml")
    path = write(tmp_path, "mrn,dose\nA,0.1\nA,0.1\nA,0.1\n")
    assert read_table(path, doses, ["dose"], agreeing=["dose"]).numbers["dose"].tolist() == [0.1]


def test_people_are_counted_beside_their_rows(tmp_path: Path) -> None:
    summary = check_table(write(tmp_path, VISITS), schema("mean"))
    assert (summary.rows, summary.patients, summary.problems) == (6, 3, ())
    assert summary.size == "3 patients in 6 rows"


def test_rows_that_may_not_repeat_are_found_when_the_table_is_registered(tmp_path: Path) -> None:
    summary = check_table(write(tmp_path, VISITS), schema("refuse"))
    ((problem),) = summary.problems
    assert (problem.column, problem.count, problem.first_line) == ("mrn", 3, 4)
    assert KEY not in repr(summary)


def test_a_schema_without_a_key_cannot_say_how_patients_repeat(tmp_path: Path) -> None:
    path = tmp_path / "schema.toml"
    path.write_text('name = "w"\n[table]\nrepeated = "last"\n[columns.x]\nkind = "flag"\n')
    with pytest.raises(DocumentError, match=r'repeated = "last" needs a patient_key'):
        load_schema(path)


def test_another_way_to_repeat_is_another_schema_and_so_another_approval() -> None:
    assert len({digest(schema(how)) for how in ("refuse", "first", "last", "mean")}) == 4


# ------------------------------------------------------------------ the unit of privacy

CLIP = 1.0


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Without held-out patients among the few that matter: the split is a column."""
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, FULL)
    keyed = '[table]\npatient_key = "mrn"\nrepeated = "mean"\n'
    (folder / "schema.toml").write_text(SCHEMA.replace("[columns.age]", keyed + "[columns.age]", 1))
    text = (folder / "study.toml").read_text()
    (folder / "study.toml").write_text(text.replace("test_fraction = 0.3", 'column = "side"'))
    return load_study(folder / "study.toml")


def gradients(study: Study, folder: Path, rows: list[str]) -> np.ndarray:
    """The clipped sum that a site would add noise to."""
    others = [f"P{i},{20 + i},{i % 2},{i / 4},{i % 2},train" for i in range(30)]
    held_out = [f"T{i},50,0,{i / 4},{i % 2},test" for i in range(10)]
    lines = ["mrn,age,sex,marker,ill,side", *others, *rows, *held_out]
    path = write(folder, "\n".join(lines) + "\n")
    label = study.task.columns
    table = read_table(path, study.data_model, study.columns_read, ["side"], label)
    cohort = prepare(table, study, "a")
    module = build_seeded(study.model, study.layout, 1, study.training.seed)
    x, y = torch.tensor(cohort.features), torch.tensor(cohort.labels)
    return clipped_sum(module, x, y, "binary", CLIP)


@settings(max_examples=25, deadline=None)
@given(
    visits=st.lists(
        st.tuples(st.integers(18, 100), st.integers(0, 1), st.integers(0, 10)),
        min_size=1,
        max_size=200,
    ),
    ill=st.integers(0, 1),
)
def test_a_patient_with_many_rows_moves_the_sum_by_no_more_than_one_clipped_gradient(
    study: Study,
    tmp_path_factory: pytest.TempPathFactory,
    visits: list[tuple[int, int, int]],
    ill: int,
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    rows = [f"{KEY},{age},{sex},{marker},{ill},train" for age, sex, marker in visits]
    without, with_them = gradients(study, folder, []), gradients(study, folder, rows)
    assert np.linalg.norm(with_them - without) <= CLIP + 1e-6
    ages, sexes, markers = zip(*visits, strict=True)
    mean = f"{KEY},{np.mean(ages)},{sexes[-1]},{np.mean(markers)},{ill},train"
    assert gradients(study, folder, [mean]) == pytest.approx(with_them, abs=1e-5)


def test_held_out_patients_are_counted_as_people_not_as_rows(study: Study, tmp_path: Path) -> None:
    train = [f"P{i},{20 + i},{i % 2},{i / 4},{i % 2},train" for i in range(30)]
    rows = [f"T{i},50,{i % 2},{i / 4},{i % 2},test" for i in range(12)]
    counted = []
    for times in (1, 7):
        text = "\n".join(["mrn,age,sex,marker,ill,side", *train, *rows * times]) + "\n"
        path = write(tmp_path, text)
        label = study.task.columns
        table = read_table(path, study.data_model, study.columns_read, ["side"], label)
        model = np.zeros(4, np.float32)
        found = local_round.evaluate(study, prepare(table, study, "a"), model, 0, last=True)
        counted.append(found.leaves)
    once, often = counted
    assert often == once
    assert once.overall.n == 12
    assert [level.n for level in once.groups["sex"].values()] == [6, 6]
