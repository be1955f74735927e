"""What the final model goes by on this site's held-out patients: what leaves, and what stays."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cohortium.client.cohort import Cohort
from cohortium.client.scoring import loaded
from cohortium.common.explaining.atoms import added_by_atom, atom_names
from cohortium.common.explaining.attribution import answers, attribute, chosen_classes
from cohortium.common.explaining.columns import columns
from cohortium.common.explaining.document import Told
from cohortium.common.explaining.told import classes, told
from cohortium.common.explanation import Method
from cohortium.common.study import Study

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Reasons:
    """Of one patient, for the site alone.

    Attributes:
        about: the class that is explained; empty where a model has one answer.
        answer, empty: what the model says of the patient, and of one without anything known, in
            the units of `attribution.answer`.
        columns: what each adds, the largest first.
        inputs: (inputs,) what each adds, as in the row that was explained.
    """

    about: str
    answer: float
    empty: float
    columns: tuple[tuple[str, float], ...]
    inputs: Floats


def leaves(study: Study, cohort: Cohort, model: Floats, minimum_cell: int) -> tuple[Told, ...]:
    """Means over the first patients that the study asks for; a method with too few is left out."""
    asked = study.explanation
    if asked is None:
        return ()
    rows = cohort.test_features[: asked.patients]
    module = loaded(study, model)
    chosen = _chosen(module, rows)
    found = (
        told(study, method, rows, attribute(study, module, rows, method), chosen, minimum_cell)
        for method in asked.methods
    )
    return tuple(one for one in found if one is not None)


def reasons(study: Study, model: Floats, row: Floats, method: Method) -> Reasons:
    """Why the model says what it says of one patient; row is (inputs,) as encoded."""
    module = loaded(study, model)
    rows = row[None]
    inputs = attribute(study, module, rows, method)[0]
    chosen = _chosen(module, rows)
    names = classes(study)
    return Reasons(
        about=names[int(chosen[0])] if len(names) > 1 else "",
        answer=float(answers(study, module, rows)[0]),
        empty=float(answers(study, module, rows, method)[0]),
        columns=tuple(sorted(_added(study, row, inputs), key=lambda one: -abs(one[1]))),
        inputs=inputs,
    )


def _added(study: Study, row: Floats, inputs: Floats) -> Iterator[tuple[str, float]]:
    """What each column adds, and of a molecule each atom."""
    blocks = {block.name: block for block in study.layout.blocks if block.kind == "molecule"}
    for column in columns(study):
        if column.block not in blocks:
            yield column.name, float(inputs[list(column.places)].sum())
    for block in blocks.values():
        added = added_by_atom(block, inputs[None])[0].tolist()
        yield from zip(atom_names(block, row), added, strict=False)  # beyond its atoms is nothing


def _chosen(module: torch.nn.Module, rows: Floats) -> NDArray[np.int64]:
    with torch.no_grad():
        return chosen_classes(module(torch.from_numpy(rows))).numpy()
