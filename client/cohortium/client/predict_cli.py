"""`cohortium predict`: an exported model's predictions for a table of patients, here and for us."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cohortium.common.console import JsonFlag, emit
from cohortium.common.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from cohortium.common.study import Study
    from cohortium.common.table import Table
    from cohortium.common.using.described import Described

ROWS_AT_ONCE = 1024


def predict(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL_DIR", help="What `cohortium study export` wrote.")
    ],
    table: Annotated[Path, typer.Option(help="The patients: as the model's schema says.")],
    out: Annotated[Path, typer.Option(help="CSV file to write, one line a patient.")],
    site: Annotated[
        str, typer.Option(help="Whose patients, for a model with an intercept for each site.")
    ] = "",
    signed_by: Annotated[
        str,
        typer.Option(help="Fingerprint that the coordinator told: refuse what another key signed."),
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Predict for patients whose outcome nobody knows yet; the outcome's column is not read.

    Where release.json lies in MODEL_DIR, a file that is not as it was signed is refused, with exit
    code 3.

    Example: cohortium predict model --table new-patients.csv --out predictions.csv
    """
    from cohortium.client.data.table import read_table
    from cohortium.common.using.described import load_described
    from cohortium.common.using.sealed import check_folder

    if out.exists():
        raise UsageError(f"{out} exists and is not overwritten: give another --out")
    signer = check_folder(model, signed_by)
    found = load_described(model)
    study = found.study
    _check(found, site)
    key = study.data_model.table.patient_key
    read = read_table(table, study.data_model, study.data.features, (key,) if key else ())
    known = _complete(read, study)
    _write(out, found.outputs, key, read, list(_cells(model, found, read, site)), known)
    unknown = read.rows - int(known.sum())
    document = {
        "out": str(out),
        "patients": read.rows,
        "without": unknown,
        "signed_by": signer or None,
    }
    gaps = f"; {unknown} lack an input that the model needs, and have none" if unknown else ""
    whose = f"; the model is signed by {signer}" if signer else "; nobody's signature was checked"
    text = f"{out}: predictions of {study.name} for {read.rows} patients{gaps}{whose}"
    emit(document, text, as_json)


def _check(found: "Described", site: str) -> None:
    study = found.study
    if not found.outputs:
        raise UsageError(
            f"{study.name}: a model of kind {study.task.kind} makes rows of nobody and says "
            "nothing of a patient; load_model.py beside it draws such rows"
        )
    if study.preprocessing.site_intercept and site not in study.sites.names:
        names = ", ".join(study.sites.names)
        raise UsageError(f"this model has an intercept for each site: give --site, one of {names}")
    if site and not study.preprocessing.site_intercept:
        raise UsageError("--site: this model makes no difference between sites; leave it out")


def _cells(
    folder: Path, found: "Described", table: "Table", site: str
) -> "Iterator[Sequence[str]]":
    """Of each patient, made a few rows at a time."""
    import numpy as np
    import torch

    from cohortium.client.predicted import cells
    from cohortium.common.predict import predictions
    from cohortium.common.preprocessing.encode import encode_inputs
    from cohortium.common.using.described import load_module

    module, study = load_module(folder, found.study), found.study
    for start in range(0, table.rows, ROWS_AT_ONCE):
        part = table.select(np.arange(start, min(start + ROWS_AT_ONCE, table.rows)))
        features = encode_inputs(part, study, site, found.statistics)
        with torch.no_grad():
            values = predictions(study, module(torch.from_numpy(features)))
        yield from cells(found, part, features, values)


def _complete(table: "Table", study: "Study") -> "NDArray[np.bool_]":
    """Rows that training would have used: with `exclude`, those without a gap."""
    import numpy as np

    there = np.ones(table.rows, np.bool_)
    for name in study.data.features if study.preprocessing.missing == "exclude" else ():
        there &= ~table.missing(name)
    return there


def _write(
    out: Path,
    names: "Sequence[str]",
    key: str | None,
    table: "Table",
    cells: "Sequence[Sequence[str]]",
    known: "NDArray[np.bool_]",
) -> None:
    """By patient key where the schema has one, else by row from 1."""
    import csv

    whose = table.extra[key].tolist() if key else range(1, table.rows + 1)
    draft = out.with_name(f".{out.name}.draft")
    with draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([key or "row", *names])
        for patient, row, there in zip(whose, cells, known.tolist(), strict=True):
            writer.writerow([patient, *(row if there else [""] * len(row))])
    os.replace(draft, out)
