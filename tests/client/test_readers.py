"""Wide columns from every kind of file: what they become, and what is refused."""

import io
import os
import textwrap
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from cohortium.client.config import Dataset
from cohortium.client.data import wide
from cohortium.client.data.table import check_table, read_table
from cohortium.client.fingerprint import Fingerprints
from cohortium.common.document import parse
from cohortium.common.errors import DataError
from cohortium.common.schema import Schema
from cohortium.common.table import Table
from cohortium.common.wide_columns import WIDE

DATA = Path(
    os.environ.get("COHORTIUM_TEST_DATA", str(Path(__file__).parents[2] / "../shared/data"))
)
needs_data = pytest.mark.skipif(
    not (DATA / "breast_tcga").is_dir(),
    reason="public data are not here; COHORTIUM_TEST_DATA names the directory above breast_tcga/",
)
PLANTED = "Kowalska1953"
COLUMNS: dict[str, dict[str, Any]] = {
    "age": {"kind": "number", "low": 0.0, "high": 120.0},
    "dna": {"kind": "sequence", "alphabet": "dna", "length": 8},
    "state": {"kind": "sequence", "alphabet": "HEC", "length": 8},
    "touch": {"kind": "pairs", "length": 8},
    "drug": {"kind": "molecule", "atoms": 4, "bonds": 4},
    "gene": {"kind": "numbers", "names": ["a", "b"], "prefix": "g:", "low": 0.0, "high": 0.1},
    "scan": {"kind": "image", "height": 2, "width": 3},
    "vital": {
        "kind": "series",
        "channels": ["hr", "bp"],
        "length": 3,
        "until": 0.1,
        "low": [0.0, 0.0],
        "high": [0.1, 300.0],
    },
}
FILES = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


def schema(*names: str, **table: object) -> Schema:
    columns = {name: COLUMNS[name] for name in names}
    return parse({"name": "ward", "table": table, "columns": columns}, Schema, "schema.toml")


def csv(folder: Path, *lines: str) -> Path:
    path = folder / "ward.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def npz(folder: Path, **arrays: NDArray[Any]) -> Path:
    path = folder / "ward.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy's stub knows of one keyword more
    return path


def png(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def read(path: Path, *names: str, **table: object) -> Table:
    return read_table(path, schema(*names, **table), names)


def test_letters_pairs_and_molecules_are_kept_as_text_and_gaps_as_empty(tmp_path: Path) -> None:
    path = csv(tmp_path, "dna,touch,drug", "acgN,1-8 2-7,CCO", ",-,?", "NA,,c1c", "A,3-3,")
    with pytest.raises(DataError, match='line 4: column "drug": 1 value is no SMILES'):
        read(path, "dna", "touch", "drug")
    table = read(path, "dna", "touch")
    assert table.wide["dna"].tolist() == ["ACGN", "", "", "A"]
    assert table.wide["touch"].tolist() == ["1-8 2-7", "-", "", "3-3"]
    assert table.missing("touch").tolist() == [False, False, True, False]
    assert table.select(np.array([3, 0])).wide["dna"].tolist() == ["A", "ACGN"]


@pytest.mark.parametrize(
    ("column", "cell", "rule"),
    [
        ("dna", "ACGTACGTA", wide.TOO_LONG),
        ("dna", "ACU", wide.LETTER),
        ("dna", "AC-T", wide.LETTER),
        ("state", "HhE", wide.LETTER),
        ("touch", "1-9", wide.NO_PAIR),
        ("touch", "0-3", wide.NO_PAIR),
        ("touch", "1:3", wide.NO_PAIR),
        ("drug", "CCCCC", wide.TOO_LARGE),
        ("drug", "C(C", wide.NO_SMILES),
        ("scan", "absent.png", wide.NO_IMAGE),
        ("scan", "/etc/hostname", wide.NO_IMAGE),
        ("vital", "0=0.1,3;0=0.1,4", wide.NO_TIMES),
        ("vital", "0.11=0.1,3", wide.NO_TIMES),
        ("vital", "-1=0.1,3", wide.NO_TIMES),
        ("vital", "0=0.1", wide.NO_SERIES),
        ("vital", "0=0.1,x", wide.NO_SERIES),
        ("vital", "0=0.1,3;", wide.NO_SERIES),
        ("vital", "0=0.2,3", wide.OUT_OF_BOUNDS),
        ("vital", "0=inf,3", wide.OUT_OF_BOUNDS),
        ("vital", "0=,1;0.01=,1;0.02=,1;0.03=,1", wide.TOO_LONG),
    ],
)
def test_broken_cells_are_counted_by_rule_and_are_no_gaps(
    tmp_path: Path, column: str, cell: str, rule: str
) -> None:
    path = csv(tmp_path, f"{column}|age", "|1", f"{cell}|2", f"{cell}|3")
    found = check_table(path, schema(column, "age", delimiter="|"))
    (problem,) = found.problems
    assert (problem.column, problem.rule, problem.count, problem.first_line) == (column, rule, 2, 3)
    assert found.missing == {column: 1, "age": 0}


def test_a_series_at_its_bounds_is_within_them(tmp_path: Path) -> None:
    """In float32, 0.1 is above 0.1."""
    path = csv(tmp_path, "vital|age", "0=0.1,300; 0.1=,0|1", "|2")
    found = read(path, "vital", delimiter="|").wide["vital"]
    nan = np.nan
    expected = [[[0, 0.1, 300], [0.1, nan, 0], [nan] * 3], [[nan] * 3] * 3]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))
    as_array = npz(tmp_path, vital=found)
    np.testing.assert_array_equal(read(as_array, "vital").wide["vital"], found)


def test_values_of_a_series_without_a_time_are_not_dropped_in_silence(tmp_path: Path) -> None:
    rows = np.full((1, 2, 3), np.nan)
    rows[0, 0] = 0.0, 0.1, 3.0
    rows[0, 1, 2] = 80.0
    with pytest.raises(DataError, match="not rising"):
        read(npz(tmp_path, vital=rows), "vital")


def test_a_block_is_all_columns_or_none(tmp_path: Path) -> None:
    whole = read(csv(tmp_path, "g:b,g:a,age", "0.1,0,1", ",NA,2", ",0.05,3"), "gene").wide["gene"]
    np.testing.assert_array_equal(whole, [[0, 0.1], [np.nan] * 2, [0.05, np.nan]])
    without = read(csv(tmp_path, "age", "1", "2"), "gene", "age")
    assert without.missing("gene").all()
    with pytest.raises(DataError, match='lacks 1 of the 2 columns of block "gene"'):
        read(csv(tmp_path, "g:b,age", "0.1,1"), "gene")
    with pytest.raises(DataError, match="has one value a row; its block needs"):
        read(csv(tmp_path, "gene,age", "0.1,1"), "gene")


def test_a_block_of_a_file_without_header_takes_as_many_fields(tmp_path: Path) -> None:
    path = csv(tmp_path, "30,0.01,0.02,ACGT", "40,0.03,,C")
    table = read(path, "age", "gene", "dna", header=False)
    np.testing.assert_array_equal(table.wide["gene"], [[0.01, 0.02], [0.03, np.nan]])
    assert table.wide["dna"].tolist() == ["ACGT", "C"]


def test_gaps_of_a_block_are_counted_as_rows(tmp_path: Path) -> None:
    lines = ["g:a,g:b", ",", "0.05,", "7,", "x,0.1"]
    found = check_table(csv(tmp_path, *lines), schema("gene"))
    assert found.missing == {"gene": 1}
    assert [(p.column, p.rule, p.count) for p in found.problems] == [
        ("g:a", wide.OUT_OF_BOUNDS, 1),
        ("g:a", wide.NO_NUMBER, 1),
    ]
    array = np.array([[np.nan, np.nan], [0.1, np.nan], [7.0, 0.0]], np.float32)
    found = check_table(npz(tmp_path, gene=array), schema("gene"))
    assert (found.missing, found.problems[0].first_line) == ({"gene": 1}, 3)


@pytest.mark.parametrize("shape", [(4, 2, 3), (4, 1, 2, 3), (4, 2, 3, 1)])
def test_images_of_an_archive_may_have_their_channel_first_last_or_not(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    pixels = np.arange(24, dtype=np.uint8)
    found = read(npz(tmp_path, scan=pixels.reshape(shape)), "scan").wide["scan"]
    np.testing.assert_array_equal(found, pixels.reshape(4, 1, 2, 3))
    assert found.dtype == np.float32


def test_an_image_with_a_bright_or_broken_pixel_is_counted_once(tmp_path: Path) -> None:
    pixels = np.zeros((4, 2, 3), np.float32)
    pixels[1, 0, 0], pixels[2, 0, 0], pixels[3] = 256, np.nan, np.nan
    found = check_table(npz(tmp_path, scan=pixels), schema("scan"))
    assert [(p.rule, p.count, p.first_line) for p in found.problems] == [
        (wide.NO_PIXEL, 1, 3),
        (wide.OUT_OF_BOUNDS, 1, 2),
    ]
    assert found.missing == {"scan": 1}


def test_image_files_lie_beside_the_table(tmp_path: Path) -> None:
    pixels = np.array([[0, 50, 255], [1, 2, 3]], np.uint8)
    png(tmp_path / "in/side/a.png", pixels)
    png(tmp_path / "out.png", pixels)
    png(tmp_path / "in/large.png", np.zeros((3, 3), np.uint8))
    (tmp_path / "in/link.png").symlink_to(tmp_path / "out.png")
    (tmp_path / "in/text.png").write_text("no image")
    inside = tmp_path / "in"
    found = read(csv(inside, "scan", "side/a.png", "?"), "scan").wide["scan"]
    np.testing.assert_array_equal(found[0, 0], pixels)
    assert np.isnan(found[1]).all()
    cells = ["../out.png", str(tmp_path / "out.png"), "link.png", "text.png", "side", "large.png"]
    counted = check_table(csv(inside, "scan", *cells), schema("scan"))
    assert [(p.rule, p.count) for p in counted.problems] == [
        (wide.NO_IMAGE, 5),
        (wide.IMAGE_SIZE, 1),
    ]


def test_an_array_is_no_cell_and_a_cell_no_array(tmp_path: Path) -> None:
    square = np.zeros((2, 2))
    for name in ("dna", "drug", "touch", "age"):
        with pytest.raises(DataError, match="must have one value a row"):
            read(npz(tmp_path, **{name: square}), name)
    words = np.full((2, 2, 3), "x")
    for name in ("scan", "vital"):
        with pytest.raises(DataError, match="holds text"):
            read(npz(tmp_path, **{name: words}), name)
    with pytest.raises(DataError, match="2 numbers a row are needed"):
        read(npz(tmp_path, gene=np.zeros((2, 3))), "gene")
    with pytest.raises(DataError, match="up to 3 times of 3 numbers"):
        read(npz(tmp_path, vital=np.zeros((2, 4, 3))), "vital")
    with pytest.raises(DataError, match="images of 1 x 2 x 3"):
        read(npz(tmp_path, scan=np.zeros((2, 3, 2))), "scan")


def test_archives_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ward.npz"
    with pytest.raises(DataError, match="no such file"):
        read(path, "age")
    for raw in (b"", b"no archive", b"PK\x03\x04cut off"):
        path.write_bytes(raw)
        with pytest.raises(DataError, match="no NPZ archive"):
            read(path, "age")
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(path)
    with pytest.raises(DataError, match="is one array"):
        read(path, "age")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("age", "no array")
    with pytest.raises(DataError, match="is no array"):
        read(path, "age")
    objects = npz(tmp_path, age=np.array([PLANTED, 3], dtype=object))
    with pytest.raises(DataError, match="Python objects") as caught:
        read(objects, "age")
    assert PLANTED not in str(caught.value)
    with pytest.raises(DataError, match="one number of rows"):
        read(npz(tmp_path, age=np.zeros(3), dna=np.array(["A"])), "age", "dna")


def test_parquet_cells_are_what_a_csv_file_would_hold(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path / "ward.parquet"
    columns = {
        "age": pa.array([30, None, 50], pa.int64()),
        "dna": pa.array(["acg", None, "T"]),
        "g:a": pa.array([0.1, float("nan"), None], pa.float64()),
        "g:b": pa.array([0.0, 0.05, None], pa.float64()),
        "drug": pa.array([b"CCO", b"C", None]),
    }
    parquet.write_table(pa.table(columns), path)
    table = read(path, "age", "dna", "gene", "drug")
    np.testing.assert_array_equal(table.numbers["age"], [30, np.nan, 50])
    np.testing.assert_array_equal(table.wide["gene"], [[0.1, 0], [np.nan, 0.05], [np.nan] * 2])
    assert table.wide["dna"].tolist() == ["ACG", "", "T"]
    assert table.wide["drug"].tolist() == ["CCO", "C", ""]
    with pytest.raises(DataError, match='has no column "state" among its 5'):
        read(path, "state")
    parquet.write_table(pa.table({"age": pa.array([[1.0], [2.0]])}), path)
    with pytest.raises(DataError, match="holds lists"):
        read(path, "age")
    path.write_bytes(b"PAR1 not")
    with pytest.raises(DataError, match="no Parquet file"):
        read(path, "age")


CELLS = st.fixed_dictionaries(
    {
        "age": st.one_of(st.none(), st.floats(0, 120)),
        "dna": st.one_of(st.just(""), st.text("ACGTN", min_size=1, max_size=8)),
        "g:a": st.one_of(st.none(), st.floats(0, 0.1)),
        "g:b": st.one_of(st.none(), st.floats(0, 0.1)),
    }
).filter(lambda row: row["dna"] != "NA")


@FILES
@given(st.lists(CELLS, min_size=1, max_size=6))
def test_a_table_is_the_same_whatever_it_is_a_file_of(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    names = ("age", "dna", "gene")
    header = ("age", "dna", "g:a", "g:b")
    text = [",".join("" if row[n] is None else str(row[n]) for n in header) for row in rows]
    delimited = read(csv(tmp_path, ",".join(header), *text), *names)
    parquet.write_table(
        pa.Table.from_pylist(
            rows,
            pa.schema(
                [
                    ("age", pa.float64()),
                    ("dna", pa.string()),
                    ("g:a", pa.float64()),
                    ("g:b", pa.float64()),
                ]
            ),
        ),
        tmp_path / "ward.pq",
    )
    block = np.array([[row["g:a"], row["g:b"]] for row in rows], np.float64)
    archive = npz(
        tmp_path,
        age=np.array([row["age"] for row in rows], np.float64),
        dna=np.array([row["dna"] for row in rows]),
        gene=block,
    )
    for path in (tmp_path / "ward.pq", archive):
        other = read(path, *names)
        np.testing.assert_array_equal(other.numbers["age"], delimited.numbers["age"])
        np.testing.assert_array_equal(other.wide["gene"], delimited.wide["gene"])
        assert other.wide["dna"].tolist() == delimited.wide["dna"].tolist()


@FILES
@given(
    st.sampled_from(sorted(set(COLUMNS) - {"age", "gene"})),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters='\r\n"|'), max_size=40)
    | st.text("ACGNHEC0123456789-=,; .()#[]", max_size=20),
)
def test_no_cell_whatever_it_holds_crashes_or_is_quoted(
    tmp_path: Path, name: str, cell: str
) -> None:
    path = csv(tmp_path, f"{name}|age", f"{PLANTED}|1", f"{cell}|2")
    with pytest.raises(DataError) as caught:
        read(path, name, delimiter="|")
    assert PLANTED not in str(caught.value)
    found = check_table(path, schema(name, "age", delimiter="|"))
    assert sum(p.count for p in found.problems) + found.missing[name] <= 2
    assert min(found.missing.values()) >= 0


def whole_files() -> dict[str, bytes]:
    import pyarrow as pa
    from pyarrow import parquet

    made = {name: io.BytesIO() for name in ("ward.npz", "ward.parquet", "a.png", "a.jpg")}
    rng = np.random.default_rng(5)
    np.savez_compressed(made["ward.npz"], age=rng.uniform(0, 99, 40))
    parquet.write_table(pa.table({"age": rng.uniform(0, 99, 40)}), made["ward.parquet"])
    pixels = Image.fromarray(rng.integers(0, 255, (2, 3)).astype(np.uint8))
    pixels.save(made["a.png"], "PNG")
    pixels.save(made["a.jpg"], "JPEG")
    return {name: file.getvalue() for name, file in made.items()}


WHOLE = whole_files()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_a_damaged_file_is_refused_or_read_and_nothing_else(
    tmp_path: Path, name: str, data: st.DataObject
) -> None:
    raw = bytearray(WHOLE[name])
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw))) :]
    for _ in range(data.draw(st.integers(0, 3)) if raw else 0):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / name).write_bytes(raw)
    image = name.startswith("a.")
    path = csv(tmp_path, "scan", name) if image else tmp_path / name
    try:
        table = read(path, "scan" if image else "age")
    except DataError:
        return
    assert table.rows in (1, 40)


@needs_data
def test_omics_with_and_without_proteins(tmp_path: Path) -> None:
    with (DATA / "breast_tcga/train.csv").open() as file:
        header = file.readline().strip().split(",")
    blocks = {
        block: [n.split(":", 1)[1] for n in header if n.startswith(f"{block}:")]
        for block in ("mrna", "mirna", "protein")
    }
    omics = parse(
        {
            "name": "omics",
            "columns": {
                block: {
                    "kind": "numbers",
                    "names": names,
                    "prefix": f"{block}:",
                    "low": -20.0,
                    "high": 30.0,
                }
                for block, names in blocks.items()
            },
        },
        Schema,
        "schema.toml",
    )
    train = read_table(DATA / "breast_tcga/train.csv", omics, tuple(blocks))
    test = read_table(DATA / "breast_tcga/test.csv", omics, tuple(blocks))
    assert {name: found.shape for name, found in train.wide.items()} == {
        "mrna": (150, 200),
        "mirna": (150, 184),
        "protein": (150, 142),
    }
    assert test.missing("protein").all()
    assert not test.missing("mrna").any()
    assert check_table(DATA / "breast_tcga/test.csv", omics).missing["protein"] == 70


@needs_data
def test_every_molecule_of_moleculenet_is_read_or_counted() -> None:
    columns = {"smiles": {"kind": "molecule", "atoms": 64, "bonds": 72}}
    drugs = parse({"name": "drugs", "columns": columns}, Schema, "schema.toml")
    found = check_table(DATA / "molecules/BBBP.csv", drugs)
    assert found.rows == 2050
    counts = {problem.rule: problem.count for problem in found.problems}
    assert counts.keys() == {wide.NO_SMILES, wide.TOO_LARGE}, counts
    assert check_table(DATA / "molecules/delaney-processed.csv", drugs).problems == ()


@needs_data
def test_radiographs_and_junctions_are_read_whole(tmp_path: Path) -> None:
    columns = {"train_images": {"kind": "image", "height": 28, "width": 28}}
    scans = parse({"name": "scans", "columns": columns}, Schema, "schema.toml")
    path = DATA / "pneumonia/pneumoniamnist.npz"
    found = read_table(path, scans, ["train_images"]).wide["train_images"]
    np.testing.assert_array_equal(found[:, 0], np.load(path)["train_images"])
    columns = {"sequence": {"kind": "sequence", "alphabet": "dna", "length": 60}}
    genes = parse({"name": "genes", "columns": columns}, Schema, "schema.toml")
    assert check_table(DATA / "dna/splice_junctions.csv", genes).rows == 3186


def test_an_image_that_changes_makes_it_another_dataset(tmp_path: Path) -> None:
    for name in ("a", "b"):
        png(tmp_path / f"{name}.png", np.zeros((2, 3), np.uint8))
    path = csv(tmp_path, "scan,age", "a.png,1", "absent.png,2", "?,3")
    dataset = Dataset("ward", path, schema("scan", "age"), 1.0, 1e-5)
    known = Fingerprints()
    before = known.of_dataset(dataset)
    assert known.of_dataset(dataset) == Fingerprints().of_dataset(dataset) == before
    png(tmp_path / "b.png", np.ones((2, 3), np.uint8))  # which no cell names
    assert known.of_dataset(dataset) == before
    png(tmp_path / "a.png", np.full((2, 3), 7, np.uint8))
    changed = known.of_dataset(dataset)
    png(tmp_path / "absent.png", np.zeros((2, 3), np.uint8))
    assert len({before, changed, known.of_dataset(dataset)}) == 3
    plain = Dataset("ward", path, schema("age"), 1.0, 1e-5)
    assert known.of_dataset(plain) == known.of(path)  # as approvals of older versions have it


def test_several_rows_of_a_patient_become_one_or_are_refused(tmp_path: Path) -> None:
    lines = ("mrn,g:a,g:b,dna", "x,0.02,,ACG", "y,0.1,0,", "x,0.04,0.05,")
    kept = {"first": [0.02, np.nan], "last": [0.04, 0.05], "mean": [0.03, 0.05]}
    for repeated, expected in kept.items():
        path = csv(tmp_path, *lines)
        table = read(path, "gene", "dna", patient_key="mrn", repeated=repeated)
        np.testing.assert_allclose(table.wide["gene"], [expected, [0.1, 0]])
    assert table.wide["dna"].tolist() == ["ACG", ""]
    torn = csv(tmp_path, "mrn,dna", "x,ACG", "x,ACT")
    with pytest.raises(DataError, match="one sequence or molecule"):
        read(torn, "dna", patient_key="mrn", repeated="mean")
    scans = npz(tmp_path, mrn=np.array(["x", "x"]), scan=np.zeros((2, 2, 3)))
    assert read(scans, "scan", patient_key="mrn", repeated="last").rows == 1
    with pytest.raises(DataError, match="has no mean of several rows"):
        read(scans, "scan", patient_key="mrn", repeated="mean")


def test_the_page_about_readers_shows_a_schema_that_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs/readers.md").read_text()
    start, end = page.index("    name ="), page.index("| kind | in text")
    shown = textwrap.dedent(page[start:end])
    kinds = {column.kind for column in parse(tomllib.loads(shown), Schema, "page").columns.values()}
    assert kinds == {"category", "flag", *WIDE}
