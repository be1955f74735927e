"""Molecules as atoms and bonds, or as Morgan fingerprints; RDKit reads the SMILES.

A graph is `ATOM` whole numbers for each of the column's `atoms`, then `BOND` for each of its
`bonds`:

atom: element (its place in ELEMENTS from 1, or len(ELEMENTS) + 1 for any other; 0 is padding),
    neighbours (0 to 6), charge + 3 (0 to 6), hydrogens (0 to 6), aromatic (0 or 1), in a ring (0/1)
bond: the places of its two atoms, from 0, and its type (1 single, 2 double, 3 triple, 4 aromatic;
    0 is padding)
"""

from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cohortium.common.errors import UsageError
from cohortium.common.layout import ATOM, BOND
from cohortium.common.wide_columns import MoleculeColumn

ELEMENTS: Final = ("C", "N", "O", "F", "P", "S", "Cl", "Br", "I", "B", "Si", "Na")
MOST: Final = 6  # neighbours, hydrogens, and the largest charge + 3 that are told apart
LEVELS: Final = (len(ELEMENTS) + 2, MOST + 1, MOST + 1, MOST + 1, 2, 2)  # of an atom's numbers
BOND_LEVELS: Final = 5
BONDS: Final = {"SINGLE": 1, "DOUBLE": 2, "TRIPLE": 3, "AROMATIC": 4}
RADIUS: Final = 2

Floats = NDArray[np.float32]


class TooLargeError(ValueError):
    """More atoms or bonds than the schema allows."""


@lru_cache(maxsize=1)
def _chem() -> Any:
    try:
        from rdkit import Chem, RDLogger
    except ImportError:
        raise UsageError(
            'reading molecules needs a package: pip install "cohortium[molecules]"'
        ) from None
    quiet: Any = RDLogger
    quiet.DisableLog("rdApp.*")  # it would print what a cell holds
    return Chem


def read_smiles(text: str, column: MoleculeColumn) -> Any:
    """RDKit's molecule.

    Raises:
        ValueError: it is none, TooLargeError where it does not fit the column.
    """
    found = _chem().MolFromSmiles(text)
    if found is None or not found.GetNumAtoms():
        raise ValueError("no SMILES")
    if found.GetNumAtoms() > column.atoms or found.GetNumBonds() > column.bonds:
        raise TooLargeError("too large")
    return found


def graph(text: str, column: MoleculeColumn) -> Floats:
    """(atoms * ATOM + bonds * BOND,) of one molecule."""
    molecule = read_smiles(text, column)
    atoms = np.zeros((column.atoms, ATOM), np.float32)
    bonds = np.zeros((column.bonds, BOND), np.float32)
    for place, atom in enumerate(molecule.GetAtoms()):
        atoms[place] = _atom(atom)
    for place, bond in enumerate(molecule.GetBonds()):
        kind = BONDS.get(str(bond.GetBondType()), 1)  # a dative bond counts as single
        bonds[place] = (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), kind)
    return np.concatenate([atoms.ravel(), bonds.ravel()])


def _atom(atom: Any) -> tuple[float, ...]:
    symbol = atom.GetSymbol()
    element = ELEMENTS.index(symbol) if symbol in ELEMENTS else len(ELEMENTS)
    return (
        element + 1,
        min(atom.GetDegree(), MOST),
        min(max(atom.GetFormalCharge() + 3, 0), MOST),
        min(atom.GetTotalNumHs(), MOST),
        atom.GetIsAromatic(),
        atom.IsInRing(),
    )


def fingerprint(text: str, column: MoleculeColumn, bits: int) -> Floats:
    """(bits,) 0 or 1: the circular substructures of radius 2 (Rogers & Hahn 2010, ECFP4)."""
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=bits)
    found: Floats = generator.GetFingerprintAsNumPy(read_smiles(text, column))
    return found.astype(np.float32)
