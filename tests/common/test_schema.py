"""A data model that contradicts itself is refused where it is written."""

from pathlib import Path

import pytest

from cohortium.common.document import digest
from cohortium.common.errors import DocumentError
from cohortium.common.schema import NumberColumn, load_schema

NUMBER = 'kind = "number"\nlow = 18\nhigh = 100\n'


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ('kind = "number"\nlow = 5\nhigh = 5', "low (5.0) must be below high (5.0)"),
        ('kind = "number"\nlow = 5', '"columns.x.high" is missing'),
        (NUMBER + "centre = 101", "centre (101.0) must lie between low and high"),
        (NUMBER + "spread = 0", "spread"),
        (NUMBER + "hgih = 3", 'did you mean "high"?'),
        (NUMBER + "codes = ['a', 'b']", "codes"),
        ('kind = "flag"\nno = "1"', 'no and yes are both "1"'),
        ('kind = "flag"\nno = 0', "no: "),
        ('kind = "flag"\nno_label = "yes"', 'no_label and yes_label are both "yes"'),
        ('kind = "category"\ncodes = ["a"]', "codes"),
        ('kind = "category"\ncodes = ["a", "a"]', "codes holds a code twice"),
        ('kind = "category"\ncodes = ["a", ""]', "codes.1"),
        ('kind = "category"\ncodes = ["a", "b"]\nlabels = ["A"]', "2 codes but 1 labels"),
        ('kind = "category"\ncodes = ["a", "b"]\nlabels = ["A", "A"]', "a label twice"),
        ('kind = "nmuber"', "columns.x"),
        ("low = 1", "columns.x"),
    ],
)
def test_a_column_that_contradicts_itself_is_refused(
    tmp_path: Path, column: str, says: str
) -> None:
    path = tmp_path / "schema.toml"
    path.write_text(f'name = "ward"\n[columns.x]\n{column}\n')
    with pytest.raises(DocumentError) as caught:
        load_schema(path)
    message = str(caught.value)
    assert says in message
    assert message.startswith(str(path))
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('name = "ward"\ncolumns = {}', "columns"),
        ('name = "../ward"\n[columns.x]\n' + NUMBER, "name"),
        ('name = "ward"\n[columns."a b"]\n' + NUMBER, "columns"),
        (
            'name = "ward"\n[table]\nheader = false\npatient_key = "id"\n[columns.x]\n' + NUMBER,
            'patient_key "id" is no column',
        ),
        ('name = "ward"\n[table]\ndelimiter = ";;"\n[columns.x]\n' + NUMBER, "delimiter"),
        ('name = "ward"\n[table]\nheadr = false\n[columns.x]\n' + NUMBER, 'mean "header"?'),
    ],
)
def test_a_table_that_nobody_could_read_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "schema.toml"
    path.write_text(text)
    with pytest.raises(DocumentError) as caught:
        load_schema(path)
    assert says in str(caught.value)


def test_a_range_without_a_centre_is_five_spreads_wide() -> None:
    column = NumberColumn(kind="number", low=0, high=10)
    assert column.scale == (5.0, 2.0)
    given = NumberColumn(kind="number", low=0, high=10, centre=3, spread=1)
    assert given.scale == (3.0, 1.0)


def test_every_changed_bound_code_or_unit_is_another_schema(tmp_path: Path) -> None:
    texts = [
        'name = "ward"\n[columns.x]\n' + NUMBER,
        'name = "ward2"\n[columns.x]\n' + NUMBER,
        'name = "ward"\n[columns.y]\n' + NUMBER,
        'name = "ward"\n[columns.x]\n' + NUMBER.replace("100", "101"),
        'name = "ward"\n[columns.x]\nunit = "years"\n' + NUMBER,
        'name = "ward"\n[columns.x]\nnot_measured = [99]\n' + NUMBER,
        'name = "ward"\n[table]\nheader = false\n[columns.x]\n' + NUMBER,
        'name = "ward"\n[columns.x]\nkind = "flag"',
        'name = "ward"\n[columns.x]\nkind = "flag"\nyes = "2"',
        'name = "ward"\n[columns.x]\nkind = "category"\ncodes = ["a", "b"]',
        'name = "ward"\n[columns.x]\nkind = "category"\ncodes = ["b", "a"]',
    ]
    digests = set()
    for text in texts:
        (tmp_path / "schema.toml").write_text(text)
        digests.add(digest(load_schema(tmp_path / "schema.toml")))
    assert len(digests) == len(texts)
