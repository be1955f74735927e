"""What the atoms of a molecule add to an answer: one by one, and by what kind of atom they are."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cohortium.common.layout import ATOM, Block
from cohortium.common.preprocessing.wide.molecule import ELEMENTS

Floats = NDArray[np.float32]

WHERE: Final = ("in a chain", "in a ring", "in an aromatic ring")
KINDS: Final = tuple(f"{symbol} {where}" for symbol in (*ELEMENTS, "other") for where in WHERE)
NONE: Final = -1  # where a molecule has no atom any more


def kind_names(block: Block) -> tuple[str, ...]:
    """What means over the atoms of each kind are called, in the order of `KINDS`."""
    return tuple(f"{block.name}: {kind}" for kind in KINDS)


def kinds_of(block: Block, rows: Floats) -> NDArray[np.int64]:
    """(n, atoms) the place of each atom's kind in `KINDS`, `NONE` where there is none."""
    atoms = _atoms(block, rows).astype(np.int64)
    element, aromatic, ring = atoms[:, :, 0], atoms[:, :, 4], atoms[:, :, 5]
    kinds = (element - 1) * len(WHERE) + np.where(aromatic > 0, 2, ring)
    return np.where(element > 0, kinds, NONE)


def added_by_atom(block: Block, attributions: Floats) -> NDArray[np.float64]:
    """(n, atoms) what each adds, from attributions (n, inputs)."""
    added: NDArray[np.float64] = _atoms(block, attributions).astype(np.float64).sum(axis=2)
    return added


def added_by_kind(
    block: Block, rows: Floats, attributions: Floats
) -> Iterator[tuple[str, NDArray[np.bool_], NDArray[np.float64]]]:
    """By kind: its name, which patients have such an atom (n,), and what all of theirs add (n,)."""
    kinds, added = kinds_of(block, rows), added_by_atom(block, attributions)
    for number, name in enumerate(kind_names(block)):
        here = kinds == number
        yield name, here.any(axis=1), np.where(here, added, 0.0).sum(axis=1)


def atom_names(block: Block, row: Floats) -> tuple[str, ...]:
    """Of one molecule, row (inputs,): its atoms in the order of its SMILES, as people see them."""
    kinds = kinds_of(block, row[None])[0]
    return tuple(
        f"{block.name}, atom {number}: {KINDS[kind]}"
        for number, kind in enumerate(kinds, start=1)
        if kind != NONE
    )


def _atoms(block: Block, rows: Floats) -> Floats:
    """(n, atoms, ATOM) of the rows, which may be their attributions too."""
    values = rows[:, block.first : block.first + block.sizes[0] * ATOM]
    return values.reshape(len(rows), block.sizes[0], ATOM)
