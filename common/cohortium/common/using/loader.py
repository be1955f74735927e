"""Predictions of an exported model for new patients; needs numpy and onnxruntime, and no Cohortium.

    python load_model.py new-patients.csv > predictions.csv

Beside this file lie `model.onnx` and `study.json`, whose `recipe` says how a row becomes numbers.
Molecules need RDKit as well. Values are taken as they are: bounds of the schema are not checked.
"""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class Model:
    """An exported model in a folder."""

    def __init__(self, folder: str | Path) -> None:
        facts = json.loads((Path(folder) / "study.json").read_text(encoding="utf-8"))
        schema = facts["study"]["data_model"]
        self.recipe: list[dict[str, Any]] = facts["recipe"]
        self.outputs: list[str] = facts["outputs"]
        self.columns: dict[str, dict[str, Any]] = schema["columns"]
        self.missing = set(schema["table"]["missing"])
        self.onnx = Path(folder) / "model.onnx"

    def predict(self, rows: Sequence[Mapping[str, Any]], site: str = "") -> "np.ndarray":
        """Predictions (n, k), in the order of `outputs`; NaN where a needed value is missing.

        Args:
            rows: a value for each column: text as in a CSV file; of images and series arrays.
            site: whose patients they are, for a model with an intercept for each.
        """
        import onnxruntime

        features = self.features(rows, site)
        session = onnxruntime.InferenceSession(self.onnx, providers=["CPUExecutionProvider"])
        found = session.run(None, {"features": np.nan_to_num(features)})[0]
        return np.where(np.isnan(features).any(axis=1)[:, None], np.nan, found)

    def features(self, rows: Sequence[Mapping[str, Any]], site: str = "") -> "np.ndarray":
        """float32 (n, inputs); a row of NaN where it can have no prediction."""
        made = [
            [x for entry in self.recipe for x in self._inputs(entry, row, site)] for row in rows
        ]
        features = np.array(made, np.float32)
        features[np.isnan(features).any(axis=1)] = np.nan
        return features

    def _inputs(self, entry: Mapping[str, Any], row: Mapping[str, Any], site: str) -> Any:
        if entry["kind"] not in ("number", "code", "missing", "site"):
            return self._block(entry, row)
        value = self._value(entry, row, site)
        if value is None:
            return [np.nan]
        return [_scaled(value, entry["centre"], entry["spread"], entry["limit"])]

    def _value(self, entry: Mapping[str, Any], row: Mapping[str, Any], site: str) -> float | None:
        """Before scaling; None where there is none and nothing stands in for it."""
        if entry["kind"] == "site":
            return float(entry["equals"] == site)
        cell = str(row.get(entry["column"], "")).strip()
        column = self.columns[entry["column"]]
        if column["kind"] == "number":
            number = self._number(cell, column)
            gone, value = np.isnan(number), number
        else:
            codes = column.get("codes") or [column["no"], column["yes"]]
            gone = cell in self.missing and cell not in codes
            value = float(not gone and _code(cell, codes) == entry["equals"])
        if entry["kind"] == "missing":
            return float(gone)
        gap: float | None = entry["gap"]
        return gap if gone else value

    def _number(self, cell: str, column: Mapping[str, Any]) -> float:
        try:
            number = np.nan if cell in self.missing else float(cell)
        except ValueError:
            raise ValueError("a cell is not a number") from None
        return np.nan if not np.isfinite(number) or number in column["not_measured"] else number

    def _block(self, entry: Mapping[str, Any], row: Mapping[str, Any]) -> Any:
        """1 and the values, or zeros where the row lacks the column."""
        name, facts = entry["name"], entry["facts"]
        if entry["kind"] == "numbers":
            values = self._numbers(entry, row)
        elif isinstance(row.get(name), np.ndarray):
            gone = np.isnan(row[name]).all()
            values = None if gone else ARRAYS[entry["kind"]](row[name], facts)
        elif str(row.get(name, "")).strip() in self.missing:
            values = None
        else:
            values = TEXTS[entry["kind"]](str(row[name]).strip(), facts)
        return np.zeros(entry["inputs"]) if values is None else [1.0, *values]

    def _numbers(self, entry: Mapping[str, Any], row: Mapping[str, Any]) -> Any:
        if isinstance(row.get(entry["name"]), np.ndarray):
            numbers = np.asarray(row[entry["name"]], np.float64)
        else:
            cells = [str(row.get(column, "")).strip() for column in entry["columns"]]
            numbers = np.array([self._number(cell, entry["facts"]) for cell in cells])
        if np.isnan(numbers).all():
            return None
        filled = np.where(np.isnan(numbers), entry["gap"], numbers)
        scaled = _scaled(
            filled, np.array(entry["centre"]), np.array(entry["spread"]), entry["limit"]
        )
        return scaled if entry["directions"] is None else np.array(entry["directions"]) @ scaled


def _scaled(value: Any, centre: Any, spread: Any, limit: float | None) -> Any:
    if centre is None or np.size(centre) < np.size(value):
        raise ValueError("this model scales by each site's own statistics, which are not in it")
    scaled = (value - centre) / spread
    return scaled if limit is None else np.clip(scaled, -limit, limit)


def _code(cell: str, codes: Sequence[str]) -> str:
    """The code that a cell writes: itself, or the same whole number."""
    if cell in codes:
        return cell
    try:
        return next(code for code in codes if float(code) == float(cell))
    except (ValueError, StopIteration):
        raise ValueError("a cell holds none of the schema's codes") from None


def _sequence(text: str, facts: Mapping[str, Any]) -> Any:
    letters = facts["letters"]
    text = text.upper() if facts["alphabet"] in ("dna", "rna", "protein") else text
    if len(text) > facts["length"]:
        raise ValueError("a sequence is longer than the schema allows")
    values = np.zeros(facts["length"])
    values[: len(text)] = [(letters.find(letter) % (len(letters) + 1)) + 1 for letter in text]
    return values


def _molecule(text: str, facts: Mapping[str, Any]) -> Any:
    molecule, elements = _read_molecule(text, facts), facts["elements"]
    atoms, bonds = np.zeros((facts["atoms"], 6)), np.zeros((facts["bonds"], 3))
    for place, atom in enumerate(molecule.GetAtoms()):
        symbol = atom.GetSymbol()
        atoms[place] = (
            1 + (elements.index(symbol) if symbol in elements else len(elements)),
            min(atom.GetDegree(), 6),
            min(max(atom.GetFormalCharge() + 3, 0), 6),
            min(atom.GetTotalNumHs(), 6),
            atom.GetIsAromatic(),
            atom.IsInRing(),
        )
    types = ["SINGLE", "DOUBLE", "TRIPLE", "AROMATIC"]
    for place, bond in enumerate(molecule.GetBonds()):
        kind = str(bond.GetBondType())
        number = types.index(kind) + 1 if kind in types else 1
        bonds[place] = (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), number)
    return np.concatenate([atoms.ravel(), bonds.ravel()])


def _fingerprint(text: str, facts: Mapping[str, Any]) -> Any:
    from rdkit.Chem import rdFingerprintGenerator

    make = rdFingerprintGenerator.GetMorganGenerator(radius=facts["radius"], fpSize=facts["bits"])
    return make.GetFingerprintAsNumPy(_read_molecule(text, facts))


def _read_molecule(text: str, facts: Mapping[str, Any]) -> Any:
    from rdkit import Chem

    found = Chem.MolFromSmiles(text)
    if found is None:
        raise ValueError("a cell is no SMILES of a molecule")
    if found.GetNumAtoms() > facts["atoms"] or found.GetNumBonds() > facts["bonds"]:
        raise ValueError("a molecule is larger than the schema allows")
    return found


def _image(pixels: Any, facts: Mapping[str, Any]) -> Any:
    """From pixels (C, H, W), or (H, W) of a grey image."""
    low, high = facts["low"], facts["high"]
    return ((np.asarray(pixels, np.float64) - (low + high) / 2) / ((high - low) / 2)).ravel()


def _series(rows: Any, facts: Mapping[str, Any]) -> Any:
    """From rows (t, 1 + channels): a time, then a value of each channel or NaN."""
    low, high = np.array(facts["low"]), np.array(facts["high"])
    seen = ~np.isnan(rows[:, 1:])
    scaled = np.nan_to_num((rows[:, 1:] - (low + high) / 2) / ((high - low) / 2))
    times = np.nan_to_num(rows[:, :1] / facts["until"])
    values = np.zeros((facts["length"], 1 + 2 * len(low)))
    values[: len(rows)] = np.concatenate([times, scaled, seen], axis=1)
    return values.ravel()


def _written_series(text: str, facts: Mapping[str, Any]) -> Any:
    parts = [part.replace("=", ",").split(",") for part in text.split(";")]
    return _series(np.array([[float(x) if x.strip() else np.nan for x in p] for p in parts]), facts)


TEXTS = {
    "sequence": _sequence,
    "molecule": _molecule,
    "fingerprint": _fingerprint,
    "series": _written_series,
}
ARRAYS = {"image": _image, "series": _series}


def main(path: str) -> None:
    model = Model(Path(__file__).parent)
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        found = model.predict(rows)
    except ValueError as error:
        raise SystemExit(f"{path}: {error}") from None
    writer = csv.writer(sys.stdout)
    writer.writerow(model.outputs)
    writer.writerows(found.tolist())


if __name__ == "__main__":
    main(sys.argv[1])
