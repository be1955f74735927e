"""The four heart hospitals' tables: real ones from a folder, or made-up ones that resemble them."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.heart_studies import SITES
from cohortium.common.errors import UsageError

HEADER = (
    "age",
    "sex",
    "cp",
    "trestbps",
    "chol",
    "fbs",
    "restecg",
    "thalach",
    "exang",
    "oldpeak",
    "label",
)
ORIGINAL = "processed.{site}.data"  # of the UCI repository, without a header
NUM = 13  # place of the outcome in it: vessels narrowed
# Patients, how many of them are ill, and the share of men, about as at the real hospitals.
MADE_UP = {
    "cleveland": (303, 139, 0.68),
    "hungarian": (261, 98, 0.74),
    "switzerland": (46, 45, 0.92),
    "va": (130, 101, 0.97),
}


def hospitals(folder: Path | None, into: Path) -> dict[str, Path]:
    """Each hospital's table: FLamby's SITE.csv or the original files; without a folder, made up.

    Raises:
        UsageError: the folder holds neither.
    """
    if folder is None:
        return {site: _write(_made_up(site), into / f"{site}.csv") for site in SITES}
    tables = {site: folder / f"{site}.csv" for site in SITES}
    if all(path.is_file() for path in tables.values()):
        return tables
    originals = {site: folder / ORIGINAL.format(site=site) for site in SITES}
    if not all(path.is_file() for path in originals.values()):
        raise UsageError(
            f"{folder}: needs a {SITES[0]}.csv or {ORIGINAL.format(site=SITES[0])} for each of "
            f"{', '.join(SITES)}; leave --data-dir out for generated patients"
        )
    return {site: _write(_original(path), into / f"{site}.csv") for site, path in originals.items()}


def _original(path: Path) -> Iterable[Sequence[object]]:
    with path.open(newline="") as file:
        for row in csv.reader(file):
            if row:
                yield (*row[: len(HEADER) - 1], int(float(row[NUM]) > 0))


def _made_up(site: str) -> Iterable[Sequence[object]]:
    patients, ill, men = MADE_UP[site]
    rng = np.random.default_rng(SITES.index(site))
    for place in rng.permutation(patients):
        sick = bool(place < ill)
        age = np.clip(rng.normal(52 + 4 * sick, 9), 28, 78)
        man = rng.random() < men
        pain = rng.choice(4, p=(0.1, 0.1, 0.2, 0.6) if sick else (0.1, 0.3, 0.4, 0.2)) + 1
        pressure, cholesterol = rng.normal(132, 18), rng.normal(235 + 15 * sick, 45)
        rate = rng.normal(157 - 17 * sick - 5 * man, 20)
        depression = max(0.0, rng.normal(0.3 + 1.1 * sick, 0.8))
        yield (
            round(age),
            int(man),
            pain,
            round(pressure),
            round(cholesterol),
            int(rng.random() < 0.15),
            rng.integers(3),
            round(rate),
            int(rng.random() < (0.6 if sick else 0.2)),
            round(depression, 1),
            int(sick),
        )


def _write(rows: Iterable[Sequence[object]], path: Path) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        writer.writerows(rows)
    return path
