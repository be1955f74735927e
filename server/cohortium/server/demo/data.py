"""Real patients' data for the demonstration, split over four hospitals, with schema and study.

Diabetes ships inside scikit-learn (442 patients; Efron et al. 2004) and is dealt to four fictional
hospitals. Heart disease is four real hospitals' own files (UCI; Detrano et al. 1989), as they are.
"""

import csv
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from cohortium.common.errors import CohortiumError, UsageError

DIABETES_COLUMNS = (
    "age",
    "sex",
    "bmi",
    "blood_pressure",
    "cholesterol",
    "ldl",
    "hdl",
    "cholesterol_ratio",
    "log_triglycerides",
    "glucose",
    "progression",
)
HEART_SITES = ("cleveland", "hungarian", "switzerland", "va")

# These patients were published long ago. A real site's default would hide nearly every group of
# so few of them: cells of 1 to 9 and all from which such a cell could be computed.
MINIMUM_CELL = 2

Row = Sequence[float]


@dataclass(frozen=True)
class DemoData:
    """What the demonstration runs on; `minimum_cell` is for the policy of these sites."""

    sites: tuple[str, ...]
    csv: Mapping[str, Path]
    schema: Path
    study: Path
    minimum_cell: int


@dataclass(frozen=True)
class Hospital:
    """Gets `patients` of those left, the likelier the larger `pull(row)`; None takes the rest."""

    name: str
    patients: int | None
    pull: Callable[[Row], float]


# Four hospitals whose patients differ: an older town, a young suburb, a ward for hypertension.
HOSPITALS = (
    Hospital("harbour", 53, lambda row: math.exp((row[3] - 95) / 14)),
    Hospital("st-anne", 88, lambda row: math.exp((50 - row[0]) / 13)),
    Hospital("riverside", 124, lambda row: math.exp((row[0] - 50) / 18)),
    Hospital("northgate", None, lambda row: 1.0),
)


def write_diabetes(directory: Path) -> DemoData:
    """Deal scikit-learn's diabetes patients to four hospitals, always in the same way.

    Writes `<site>/patients.csv`, `schema.toml` and `study.toml` into `directory`.

    Raises:
        UsageError: scikit-learn is not installed.
        CohortiumError: the directory cannot be written.
    """
    rows = _diabetes()
    dealt = deal(rows, HOSPITALS)
    sites = ("northgate", "riverside", "st-anne", "harbour")
    tables = {site: directory / site / "patients.csv" for site in sites}
    try:
        schema, study = _write_documents("diabetes", directory)
        for site, path in tables.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_table(path, site, [rows[row] for row in dealt[site]])
    except OSError as error:
        raise _unwritable(directory, error) from None
    return DemoData(sites, tables, schema, study, MINIMUM_CELL)


def write_heart(data_dir: Path, directory: Path) -> DemoData:
    """Use the four original UCI files where they are; write schema and study into `directory`.

    Raises:
        UsageError: one of the files is not in `data_dir`.
        CohortiumError: the directory cannot be written.
    """
    tables = {site: data_dir / f"processed.{site}.data" for site in HEART_SITES}
    for path in tables.values():
        if not path.is_file():
            raise UsageError(
                f"{path}: no such file; give the directory that holds the four processed.*.data "
                "files of the UCI heart disease data"
            )
    try:
        schema, study = _write_documents("heart", directory)
    except OSError as error:
        raise _unwritable(directory, error) from None
    return DemoData(HEART_SITES, tables, schema, study, MINIMUM_CELL)


def deal(rows: Sequence[Row], hospitals: Sequence[Hospital]) -> dict[str, list[int]]:
    """Which rows each hospital gets, in their order; the first hospital chooses first.

    Weighted sampling without replacement (Efraimidis and Spirakis 2006, algorithm A): the rows
    with the largest u ** (1 / weight), u being uniform and derived from a hash, hence for ever
    the same.
    """
    left = list(range(len(rows)))
    dealt = {}
    for hospital in hospitals:
        ranked = sorted(left, key=lambda row: _key(hospital, row, rows[row]), reverse=True)
        dealt[hospital.name] = sorted(ranked[: hospital.patients])
        left = ranked[len(dealt[hospital.name]) :]
    return dealt


def _key(hospital: Hospital, row: int, values: Row) -> float:
    digest = hashlib.sha256(f"{hospital.name}/{row}".encode()).digest()
    uniform = (int.from_bytes(digest[:6], "big") + 0.5) / 2**48
    return math.log(uniform) / hospital.pull(values)


def _diabetes() -> list[list[float]]:
    """442 rows in the order of DIABETES_COLUMNS, in the units of the schema."""
    try:
        from sklearn.datasets import load_diabetes
    except ImportError:
        raise UsageError(
            "the demonstration's data ships with scikit-learn, which is not installed; "
            'run: pip install "cohortium[demo]"'
        ) from None
    found: Any = load_diabetes(scaled=False)
    pairs = zip(found.data.tolist(), found.target.tolist(), strict=True)
    return [[*inputs, outcome] for inputs, outcome in pairs]


def _write_table(path: Path, site: str, rows: Sequence[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("patient", *DIABETES_COLUMNS))
        for number, values in enumerate(rows, start=1):
            writer.writerow((f"{site}-{number:03d}", *(f"{value:g}" for value in values)))


def _write_documents(name: str, directory: Path) -> tuple[Path, Path]:
    """Copy the packaged schema.toml and study.toml, comments included."""
    directory.mkdir(parents=True, exist_ok=True)
    source = resources.files("cohortium.server.demo").joinpath(name)
    for file in ("schema.toml", "study.toml"):
        text = source.joinpath(file).read_text(encoding="utf-8")
        (directory / file).write_text(text, encoding="utf-8", newline="\n")
    return directory / "schema.toml", directory / "study.toml"


def _unwritable(directory: Path, error: OSError) -> CohortiumError:
    return CohortiumError(
        f"{directory}: the demonstration's data cannot be written ({error.strerror}); "
        "choose another directory"
    )
