"""What atoms add to an answer: adds up, stands at the right atom, and leaves by kind alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cohortium.client.cohort import Cohort
from cohortium.client.explaining import leaves, reasons
from cohortium.common.arrays import flatten
from cohortium.common.document import parse
from cohortium.common.errors import DocumentError
from cohortium.common.explaining.atoms import KINDS, atom_names, kind_names, kinds_of
from cohortium.common.explaining.attribution import answers, attribute
from cohortium.common.explaining.document import Mean, Told
from cohortium.common.explaining.told import check_told
from cohortium.common.models.building import study_module
from cohortium.common.preprocessing.wide.molecule import graph
from cohortium.common.study import Study, load_study
from cohortium.common.wide_columns import MoleculeColumn

EXAMPLES = Path(__file__).parents[2] / "examples" / "molecules"
PHENOL, ETHANOL, CYCLOHEXANE, ACETONITRILE = "Oc1ccccc1", "CCO", "C1CCCCC1", "CC#N"


def study_of(*methods: str) -> Study:
    study = load_study(EXAMPLES / "study-barrier.toml")
    asked = {"methods": methods or ("integrated_gradients",), "patients": 200}
    return parse({**study.model_dump(), "explanation": asked}, Study, "study")


def rows_of(study: Study, *smiles: str) -> NDArray[np.float32]:
    (block,) = study.layout.blocks
    column = study.data_model.columns[block.name]
    assert isinstance(column, MoleculeColumn)
    rows = np.ones((len(smiles), study.layout.inputs), np.float32)
    rows[:, block.first :] = [graph(one, column) for one in smiles]
    return rows


def test_what_atoms_add_is_the_answer_less_that_of_atoms_of_no_kind() -> None:
    study = study_of()
    module = study_module(study).eval()
    rows = rows_of(study, PHENOL, ETHANOL, CYCLOHEXANE, ACETONITRILE)
    found = attribute(study, module, rows, "integrated_gradients")
    beside = answers(study, module, rows, "integrated_gradients")
    assert found.sum(axis=1) == pytest.approx(answers(study, module, rows) - beside, abs=1e-2)
    (block,) = study.layout.blocks
    assert np.abs(found).sum(axis=1).min() > 0
    assert (found[:, block.first + 6 * 7 :] == 0).all(), "beyond the seven atoms of phenol"


def test_where_a_model_counts_oxygens_an_oxygen_has_all_of_it() -> None:
    study = study_of()
    module = study_module(study).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name == "enter.weight":
                keep = parameter[:, 3].clone()  # of element 3, as ELEMENTS counts from 1
                parameter.zero_()
                parameter[:, 3] = keep
            elif name == "enter.bias" or "heard" in name:
                parameter.zero_()
    found = attribute(study, module, rows_of(study, PHENOL, ETHANOL), "integrated_gradients")
    (block,) = study.layout.blocks
    atoms = found[:, block.first :: 6]
    assert [np.flatnonzero(np.abs(one) > 1e-4).tolist() for one in atoms] == [[0], [2]]


def test_an_atoms_kind_is_its_element_and_where_it_stands() -> None:
    study = study_of()
    (block,) = study.layout.blocks
    rows = rows_of(study, PHENOL, CYCLOHEXANE)
    assert atom_names(block, rows[0])[:2] == (
        f"{block.name}, atom 1: O in a chain",
        f"{block.name}, atom 2: C in an aromatic ring",
    )
    assert len(atom_names(block, rows[0])) == 7
    assert {KINDS[kind] for kind in kinds_of(block, rows[1:])[0] if kind >= 0} == {"C in a ring"}


def cohort_of(study: Study, rows: NDArray[np.float32]) -> Cohort:
    nobody = np.zeros((0, study.layout.inputs), np.float32)
    return Cohort(nobody, np.zeros(0, np.float32), rows, np.zeros(len(rows)), {}, 10, "10-19")


def test_a_kind_that_too_few_have_is_left_out_and_the_others_are_plain_means() -> None:
    study = study_of()
    rows = rows_of(study, *[PHENOL] * 11, *[ETHANOL] * 3, *[ACETONITRILE] * 9)
    model = flatten(study_module(study))
    (told,) = leaves(study, cohort_of(study, rows), model, minimum_cell=5)
    (block,) = study.layout.blocks
    of_kinds = set(told.columns)  # and no whole molecule, less which that would be the nitrogen
    shown = {"C in an aromatic ring", "O in a chain", "C in a chain"}  # 11, 14 and 12 have one
    assert of_kinds == {f"{block.name}: {kind}" for kind in shown}
    found = attribute(study, study_module(study).eval(), rows, "integrated_gradients")
    oxygen = found[:, block.first + 6 * np.array([0, 2])][range(14), [0] * 11 + [1] * 3]
    assert told.columns[f"{block.name}: O in a chain"].size == pytest.approx(
        np.abs(oxygen).sum() / len(rows), rel=1e-3
    )
    check_told(study, (told,))
    one_more = rows_of(study, *[PHENOL] * 11, *[ETHANOL] * 3, *[ACETONITRILE] * 10)
    (told,) = leaves(study, cohort_of(study, one_more), model, minimum_cell=5)
    assert {block.name, f"{block.name}: N in a chain"} < set(told.columns)


def test_a_site_sees_each_atom_of_one_molecule() -> None:
    study = study_of()
    row = rows_of(study, ETHANOL)[0]
    found = reasons(study, flatten(study_module(study)), row, "integrated_gradients")
    assert {name for name, _ in found.columns} == set(atom_names(study.layout.blocks[0], row))
    adds = sum(added for _, added in found.columns)
    assert adds == pytest.approx(found.answer - found.empty, abs=1e-2)


def test_a_kind_that_there_is_not_is_no_explanation() -> None:
    study = study_of()
    name = kind_names(study.layout.blocks[0])[0].replace("C in", "Xe in")
    made_up = Told(method="integrated_gradients", columns={name: Mean(size=1, signed=1)})
    with pytest.raises(ValueError, match="columns that the study does not read"):
        check_told(study, (made_up,))


@pytest.mark.parametrize("method", ["gradient_shap", "kernel_shap", "lime"])
def test_a_graph_is_not_taken_apart_otherwise(method: str) -> None:
    with pytest.raises(DocumentError, match="cannot take a graph of atoms apart; use integrated"):
        study_of(method)
