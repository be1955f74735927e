"""Reading a hospital's file: what it becomes, and that no error ever tells a patient's value."""

from pathlib import Path

import numpy as np
import pytest

from cohortium.client.data.table import check_table, read_table
from cohortium.common.document import parse
from cohortium.common.errors import DataError
from cohortium.common.schema import Schema

PLANTED = "Kowalska1953"
COLUMNS = {
    "age": {"kind": "number", "low": 0.0, "high": 120.0},
    "chol": {"kind": "number", "low": 50.0, "high": 700.0, "not_measured": [0.0]},
    "sex": {"kind": "flag", "no_label": "female", "yes_label": "male"},
    "cp": {"kind": "category", "codes": ["1", "2", "typical"]},
}
WANTED = ("age", "chol", "sex", "cp")


def schema(**table: object) -> Schema:
    return parse({"name": "ward", "table": table, "columns": COLUMNS}, Schema, "schema.toml")


def write(folder: Path, text: str) -> Path:
    path = folder / "ward.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_gaps_codes_and_numbers_become_what_the_schema_says(tmp_path: Path) -> None:
    text = (
        "note,age,sex,cp,chol\n"
        "x,63, 1 ,1.0,0\n"
        "x,?,0.0,typical,233.5\n"
        "\n"
        "x,nan,NA,2,inf\n"
        'x,"1e2",1,,"50"\n'
    )
    table = read_table(write(tmp_path, text), schema(), WANTED)
    np.testing.assert_array_equal(table.numbers["age"], [63.0, np.nan, np.nan, 100.0])
    np.testing.assert_array_equal(table.numbers["chol"], [np.nan, 233.5, np.nan, 50.0])
    assert table.codes["sex"].tolist() == [1, 0, -1, 1]
    assert table.codes["cp"].tolist() == [0, 2, 1, -1]
    assert table.codes["cp"].dtype == np.int16
    assert (table.rows, table.patient_count) == (4, 4)
    assert table.missing("cp").tolist() == [False, False, False, True]


def test_columns_that_nobody_asked_for_are_not_kept(tmp_path: Path) -> None:
    path = write(tmp_path, f"name,age,split\n{PLANTED},63,train\n{PLANTED},64,test\n")
    table = read_table(path, schema(), ["age"], extra=["split"])
    assert set(table.numbers) == {"age"}
    assert table.codes == {}
    assert table.extra["split"].tolist() == ["train", "test"]
    assert PLANTED not in repr(table)


def test_a_file_without_header_is_read_by_the_schemas_order(tmp_path: Path) -> None:
    path = write(tmp_path, "63;233;1;2\n64;?;0;1\n")
    table = read_table(path, schema(header=False, delimiter=";"), ["cp", "age"])
    assert table.numbers["age"].tolist() == [63.0, 64.0]
    assert table.codes["cp"].tolist() == [1, 0]


def test_a_byte_order_mark_does_not_hide_the_first_column(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, "\ufeffage\n63\n"), schema(), ["age"]).rows == 1


def test_a_declared_code_is_a_code_even_if_it_looks_missing(tmp_path: Path) -> None:
    columns = {"salt": {"kind": "category", "codes": ["K", "NA"]}}
    salts = parse({"name": "lab", "columns": columns}, Schema, "schema.toml")
    table = read_table(write(tmp_path, "salt\nNA\n?\nK\n"), salts, ["salt"])
    assert table.codes["salt"].tolist() == [1, -1, 0]


def test_a_patient_keeps_its_number_when_rows_move(tmp_path: Path) -> None:
    keyed = schema(patient_key="mrn")
    first = read_table(write(tmp_path, "mrn,age\nA7,1\nB8,2\n"), keyed, ["age"])
    again = read_table(write(tmp_path, "mrn,age\nB8,2\nA7,1\n"), keyed, ["age"])
    assert first.patients.tolist() == again.patients.tolist()[::-1]
    assert (first.patients >= 0).all()


@pytest.mark.parametrize(
    ("text", "table", "rule"),
    [
        ("", {}, "the file is empty"),
        ("age,chol,sex,cp\n", {}, "holds no rows"),
        (f"agee,chol,sex,cp\n{PLANTED},1,1,1\n", {}, r'no column "age" \(field 1 has a similar'),
        (f"{PLANTED},age,63\n1,2,3\n", {}, 'no column "chol".*table.header = false'),
        ("age,age,chol,sex,cp\n1,1,1,1,1\n", {}, 'names "age" more than once'),
        (f"age,chol,sex,cp\n1,99,1,1\n1,99,{PLANTED}\n", {}, "line 3: 3 fields where the header"),
        (f"1,99,1,1,{PLANTED}\n", {"header": False}, 'line 1: 5 fields where schema "ward" has 4'),
        (f"age,chol,sex,cp\n{PLANTED},99,1,1\n", {}, 'line 2: column "age": 1 value is not a num'),
        ("age,chol,sex,cp\n1_953,99,1,1\n", {}, "is not a number"),
        (
            "age,chol,sex,cp\n1,99,1,1\n1953,99,1,1\n1954,99,1,1\n",
            {},
            'line 3: column "age": 2 values, each of which is outside the schema\'s bounds',
        ),
        (f"age,chol,sex,cp\n1,99,1,{PLANTED}\n", {}, 'column "cp": 1 value is none of the schema'),
        ("age,chol,sex,cp\n1,99,1,1953\n1953,99,1,1\n", {}, r"and 1 more broken rule"),
        (f'age,chol,sex,cp\n1,99,1,"1953\n{PLANTED}', {}, "quotes or fields are broken"),
        (
            f"{PLANTED},mrn,age,chol,sex,cp\nx,{PLANTED},1,99,1,1\nx,{PLANTED},1,99,1,1\n",
            {"patient_key": "mrn"},
            "1-9 patients have more than one row; rule: one row per patient",
        ),
        ("mrn,age,chol,sex,cp\n?,1,99,1,1\n", {"patient_key": "mrn"}, 'column "mrn": 1 value is m'),
    ],
)
def test_every_error_says_the_rule_and_never_the_value(
    tmp_path: Path, text: str, table: dict[str, object], rule: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=rule) as caught:
        read_table(path, schema(**table), WANTED)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for value in (PLANTED, "1953", "1_953"):
        assert value not in message.removeprefix(str(path))


def test_a_file_that_is_not_there_or_not_text_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "absent.csv", schema(), WANTED)
    with pytest.raises(DataError, match="cannot be read"):
        read_table(tmp_path, schema(), WANTED)
    (tmp_path / "latin.csv").write_bytes("age\nM\xfcller\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_table(tmp_path / "latin.csv", schema(), ["age"])


def test_a_column_that_the_schema_lacks_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='no column "chool"; did you mean "chol"'):
        read_table(write(tmp_path, "chool\n1\n"), schema(), ["chool"])


def test_a_check_counts_gaps_and_broken_rules_apart(tmp_path: Path) -> None:
    text = f"age,chol,sex,cp\n{PLANTED},0,1,1\n?,99,1,9\n63,20,1,8\n"
    summary = check_table(write(tmp_path, text), schema())
    assert (summary.rows, summary.patients) == (3, 3)
    assert summary.missing == {"age": 1, "chol": 1, "sex": 0, "cp": 0}
    found = [(problem.column, problem.count, problem.first_line) for problem in summary.problems]
    assert found == [("age", 1, 2), ("chol", 1, 4), ("cp", 2, 3)]
    assert PLANTED not in repr(summary)
