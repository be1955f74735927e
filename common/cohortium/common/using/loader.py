"""Predictions of an exported model for new patients; needs numpy and onnxruntime, and no Cohortium.

    python load_model.py new-patients.csv > predictions.csv

A model that makes rows of nobody takes how many instead, and what to draw them by:

    python load_model.py 100 7 > synthetic.csv

Beside this file lie `model.onnx` and `study.json`, whose `recipe` says how a row becomes numbers.
Molecules need RDKit as well. Values are taken as they are: bounds of the schema are not checked.
"""

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Recipe = Sequence[Mapping[str, Any]]


class Model:
    """An exported model in a folder."""

    def __init__(self, folder: str | Path) -> None:
        facts = json.loads((Path(folder) / "study.json").read_text(encoding="utf-8"))
        schema = facts["study"]["data_model"]
        self.recipe: list[dict[str, Any]] = facts["recipe"]
        self.outputs: list[str] = facts["outputs"]
        self.answer: dict[str, Any] = facts["answer"]
        self.columns: dict[str, dict[str, Any]] = schema["columns"]
        self.table, self.order = schema["table"], schema["order"]
        self.missing = set(self.table["missing"])
        self.excludes = facts["study"]["preprocessing"]["missing"] == "exclude"
        self.onnx = Path(folder) / "model.onnx"

    def predict(self, rows: Sequence[Mapping[str, Any]], site: str = "") -> "np.ndarray":
        """Predictions (n, ...), as the graph gives them; NaN where a needed value is missing.

        One number for each of `outputs`; of states along a sequence (n, length, states), of
        contacts (n, length^2), of inputs given back (n, inputs) in the recipe's order and scale.

        Args:
            rows: a value for each column: text as in a CSV file; of images and series arrays.
            site: whose patients they are, for a model with an intercept for each.
        """
        return self._predicted(self.features(rows, site))

    def cells(self, rows: Sequence[Mapping[str, Any]], site: str = "") -> list[list[str]]:
        """What `cohortium predict` writes of each patient: text for each of `outputs`."""
        features, kind = self.features(rows, site), self.answer["kind"]
        found = self._predicted(features)
        if kind in ("labelling", "contacts"):
            along = [str(row.get(self.answer["of"], "")).strip() for row in rows]
            texts = ["" if text in self.missing else text for text in along]
            write = _states if kind == "labelling" else _contacts
            lines = [[write(*pair, self.answer)] for pair in zip(texts, found, strict=True)]
        elif kind == "reconstruction":
            lines = given_back(self.recipe, self.columns, features, found)
        else:
            lines = [[f"{value:.6g}" for value in row] for row in found.tolist()]
        gone = np.isnan(features).any(axis=1).tolist()
        return [[""] * len(o) if g else o for o, g in zip(lines, gone, strict=True)]

    def draw(self, rows: int, seed: int = 0) -> dict[str, list[str]]:
        """So many rows of nobody, as cells by column; of a model of kind generation.

        Codes are drawn from a standard normal distribution. Of a VAE, whose rows are means of many
        patients, codes of a column are drawn as often as they say, and numbers about them.
        """
        rng = np.random.default_rng(seed)
        made = self._run(rng.standard_normal((rows, self.answer["latent"])))
        return drawn(self.recipe, self.columns, made, self.answer["spread"], rng)

    def _predicted(self, features: "np.ndarray") -> "np.ndarray":
        if self.answer["takes"] != "features":
            raise ValueError("this model makes rows of nobody: give it how many, and no patients")
        found = self._run(np.nan_to_num(features))
        gone = np.isnan(features).any(axis=1)
        return np.where(gone.reshape(-1, *[1] * (found.ndim - 1)), np.nan, found)

    def _run(self, rows: "np.ndarray") -> Any:
        import onnxruntime

        session = onnxruntime.InferenceSession(self.onnx, providers=["CPUExecutionProvider"])
        return session.run(None, {self.answer["takes"]: rows.astype(np.float32)})[0]

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
            codes = _codes(column)
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
        if values is None:
            return np.full(entry["inputs"], np.nan if self.excludes else 0.0)
        return [1.0, *values]

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


class Part(NamedTuple):
    """Values (n,) of a column in its own unit, or the share (n, codes) of each of its codes.

    spread: what 1 is worth in the model's scale; gone: the share (n,) of "it is missing", if told.
    """

    header: str
    column: Mapping[str, Any]
    values: "np.ndarray"
    spread: "float | np.ndarray"
    gone: "np.ndarray | None" = None


def parts(recipe: Recipe, columns: Mapping[str, Any], rows: "np.ndarray") -> Iterator[Part]:
    """The columns of single values that inputs (n, inputs) hold, in the recipe's order."""
    ends = np.cumsum([entry.get("inputs", 1) for entry in recipe]).tolist()
    placed = [(e, rows[:, end - e.get("inputs", 1) :]) for e, end in zip(recipe, ends, strict=True)]
    gone = {e["column"]: mine[:, 0] + 0.5 for e, mine in placed if e["kind"] == "missing"}
    shares = dict[str, list[Any]]()
    for entry, mine in placed:
        column = columns.get(entry.get("column") or entry["name"])
        if column is None or entry["kind"] not in ("number", "code", "numbers"):
            continue
        if entry["kind"] == "numbers":
            if entry["directions"] is not None:
                continue
            for place, header in enumerate(entry["columns"]):
                centre, spread = entry["centre"][place], entry["spread"][place]
                values = centre + spread * mine[:, 1 + place]
                yield Part(header, column, values, spread, 1.0 - mine[:, 0])
            continue
        name, values = entry["column"], entry["centre"] + entry["spread"] * mine[:, 0]
        if entry["kind"] == "code":
            told = shares.setdefault(name, [])
            told.append(values)
            if len(told) + 1 < len(_codes(column)):
                continue
            values = np.column_stack([1.0 - sum(told), *told])
        yield Part(name, column, values, entry["spread"], gone.get(name))


def given_back(
    recipe: Recipe, columns: Mapping[str, Any], features: "np.ndarray", found: "np.ndarray"
) -> list[list[str]]:
    """Of each patient its columns as the model gives them back, then the error of all inputs.

    A number is in its own unit; of codes it is the likeliest. The error is the mean over the inputs
    of the squared difference, in the scale that the model reads them in (both are (n, inputs)).
    """
    cells = []
    for part in parts(recipe, columns, found):
        if part.values.ndim == 1:
            cells.append([f"{value:.6g}" for value in part.values.tolist()])
        else:
            cells.append([_codes(part.column)[n] for n in part.values.argmax(axis=1).tolist()])
    error = ((found.astype(np.float64) - features) ** 2).mean(axis=1)
    return [list(row) for row in zip(*cells, [f"{one:.6g}" for one in error], strict=True)]


def drawn(
    recipe: Recipe, columns: Mapping[str, Any], made: "np.ndarray", spread: float, rng: Any
) -> dict[str, list[str]]:
    """Cells of a table from rows that a model made (n, inputs); numbers within their bounds.

    spread: of an input about its mean; 0 where rows are no means and stay as they are.
    """
    gaps, found = dict[int, Any](), dict[str, list[str]]()
    for part in parts(recipe, columns, made.astype(np.float64)):
        if part.values.ndim == 1:
            noise = spread * part.spread * rng.standard_normal(len(made))
            cells = [_within(value, part) for value in (part.values + noise).tolist()]
        else:
            reached = part.values.clip(min=0).cumsum(axis=1)
            draws = rng.uniform(size=(len(made), 1)) * reached[:, -1:]
            chosen = (draws >= reached[:, :-1]).sum(axis=1) if spread else part.values.argmax(1)
            cells = [_codes(part.column)[place] for place in chosen.tolist()]
        if part.gone is not None:  # of a block one draw for all its columns
            limits = rng.uniform(size=len(made)) if spread else 0.5
            gone = gaps.setdefault(id(part.column), part.gone > limits)
            cells = ["" if g else cell for g, cell in zip(gone.tolist(), cells, strict=True)]
        found[part.header] = cells
    return found


def _within(value: float, part: Part) -> str:
    low, high = part.column["low"], part.column["high"]
    digits = max(0, 3 - int(np.floor(np.log10(part.spread))))
    return f"{min(max(round(value, digits), low), high):g}"


def _codes(column: Mapping[str, Any]) -> Any:
    return column.get("codes") or [column["no"], column["yes"]]


def _states(text: str, found: "np.ndarray", answer: Mapping[str, Any]) -> str:
    """The likeliest state at each place."""
    return "".join(answer["states"][place] for place in found.argmax(axis=1).tolist())[: len(text)]


def _contacts(text: str, found: "np.ndarray", answer: Mapping[str, Any]) -> str:
    """Pairs of places that touch more likely than not; "-" for none, empty without a sequence."""
    length = round(len(found) ** 0.5)
    likely = np.triu(found.reshape(length, length) > 0.5, answer["apart"])
    pairs = np.argwhere(likely[: len(text), : len(text)]).tolist()
    return (" ".join(f"{a + 1}-{b + 1}" for a, b in pairs) or "-") if text else ""


def main(words: Sequence[str]) -> None:
    model, delimiter = Model(Path(__file__).parent), ","
    if model.answer["kind"] == "generation":
        if not 1 <= len(words) <= 2 or not all(word.isdecimal() for word in words):
            raise SystemExit("give how many rows to make and, if wanted, a seed")
        made, delimiter = model.draw(*map(int, words)), model.table["delimiter"]
        header, lines = list(made), [list(row) for row in zip(*made.values(), strict=True)]
    else:
        if len(words) != 1:
            raise SystemExit("give one file: the table of the patients")
        header, lines = _predicted(model, words[0])
    writer = csv.writer(sys.stdout, delimiter=delimiter, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)


def _predicted(model: Model, path: str) -> tuple[list[str], list[list[str]]]:
    """By patient key where the schema has one, else by row from 1."""
    key, names = model.table["patient_key"], None if model.table["header"] else model.order
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, names, delimiter=model.table["delimiter"]))
        found = model.cells(rows)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path}: {getattr(error, 'strerror', '') or error}") from None
    whose = [str(row[key]) if key else str(n) for n, row in enumerate(rows, start=1)]
    lines = [[one, *cells] for one, cells in zip(whose, found, strict=True)]
    return [key or "row", *model.outputs], lines


if __name__ == "__main__":
    main(sys.argv[1:])
