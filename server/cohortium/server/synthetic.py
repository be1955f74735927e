"""Patients who never were, drawn from a released model of a generation study.

They are made of the model and of random numbers alone, so that they cost no privacy beyond what
training cost (post-processing; Dwork & Roth 2014, Proposition 2.1).
"""

import csv
import json
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from cohortium.common import arrays
from cohortium.common.errors import UsageError
from cohortium.common.files import write_whole
from cohortium.common.models.building import released_module
from cohortium.common.preprocessing.decode import Chance, decode
from cohortium.common.study import Study
from cohortium.server.model_file import final_vector
from cohortium.server.store import Store, StudyRow

ABOUT = (
    "Synthetic rows: no row is a patient. What the model has learnt of patients is bounded by the "
    "epsilon below, over all rows however many are drawn. They are no substitute for patients: "
    "check every finding on real ones."
)


@runtime_checkable
class Generator(Protocol):
    """A model that makes rows (rows, inputs) of nobody, and says how far inputs lie from them."""

    @property
    def spread(self) -> float: ...

    def sample(self, rows: int, generator: torch.Generator) -> torch.Tensor: ...


def synthesise(row: StudyRow, store: Store, rows: int, seed: int, out: Path) -> Path:
    """Write so many rows as a table of the study's schema; the file that says what they are.

    Raises:
        UsageError: the study generates nobody, or a file lies there.
    """
    study = row.study
    _check(study, out)
    module = released_module(study)
    assert isinstance(module, Generator)
    arrays.load_into(module, final_vector(row, store))
    with torch.no_grad():
        drawn = module.eval().sample(rows, torch.Generator().manual_seed(seed)).numpy()
    chance = Chance(module.spread, np.random.default_rng(seed)) if module.spread else None
    columns = decode(drawn, study, chance)
    with out.open("x", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=study.data_model.table.delimiter, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    about = out.with_name(out.name + ".about.json")
    write_whole(about, json.dumps(_about(row, rows, seed), indent=2) + "\n")
    return about


def _check(study: Study, out: Path) -> None:
    if study.task.kind != "generation":
        raise UsageError(
            f"{study.name} generates nobody: synthetic patients come from a study with task.kind = "
            '"generation"'
        )
    if not study.data_model.table.header or study.data_model.table.patient_key:
        raise UsageError(
            f"{study.name}: its schema has no header, or a patient_key that nobody invented has; "
            "synthetic patients have neither"
        )
    if out.exists():
        raise UsageError(f"{out} exists and is not overwritten: give another --out")


def _about(row: StudyRow, rows: int, seed: int) -> dict[str, object]:
    privacy = row.study.privacy
    return {
        "about": ABOUT,
        "study": row.study.name,
        "digest": row.digest,
        "rows": rows,
        "seed": seed,
        "epsilon": privacy.epsilon,
        "delta": privacy.delta,
        "protected": privacy.mechanism != "none",
    }
