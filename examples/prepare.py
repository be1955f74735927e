"""Deal public data to the sites of an example, as files that `cohortium demo --tables` takes.

    python examples/prepare.py splice --data DIRECTORY --out tables
    cohortium demo --study examples/splice/study.toml --tables tables

DIRECTORY holds the public files (examples/README.md says from where). The split is the same
whenever it is made. None of it belongs to this project, and none of it is copied into it.
"""

import argparse
import csv
import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Rows = list[dict[str, str]]

FOUR = ("northgate", "riverside", "st-anne", "harbour")
TEST_FRACTION = 0.25


def hashed(text: str) -> float:
    """A number in [0, 1) that is the same for ever."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def read(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Iterable[Mapping[str, str]], columns: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def splice(data: Path, out: Path) -> None:
    """3,186 windows of 60 bases around primate splice junctions, dealt evenly to four sites.

    Windows with one sequence are kept at one site and on one side of the split.
    """
    by_site: dict[str, Rows] = defaultdict(list)
    for row in read(data / "dna" / "splice_junctions.csv"):
        site = FOUR[int(hashed(f"site/{row['sequence']}") * len(FOUR))]
        row["split"] = "test" if hashed(f"split/{row['sequence']}") < TEST_FRACTION else "train"
        by_site[site].append(row)
    for site, rows in by_site.items():
        write(out / f"{site}.csv", rows, ("sequence", "junction", "split"))


def omics(data: Path, out: Path) -> None:
    """Breast cancers with three omics blocks; `harbour` never measured proteins.

    The published split: of its test patients nobody has proteins.
    """
    train, test = (read(data / "breast_tcga" / f"{part}.csv") for part in ("train", "test"))
    columns = [*train[0], "split"]
    without = [name for name in columns if not name.startswith("protein:")]
    by_site: dict[str, Rows] = defaultdict(list)
    for split, rows in (("train", train), ("test", test)):
        for row in rows:
            site = FOUR[int(hashed(f"site/{row['patient']}") * len(FOUR))]
            by_site[site].append({**row, "split": split})
    for site, rows in by_site.items():
        write(out / f"{site}.csv", rows, without if site == "harbour" else columns)


def expression(data: Path, out: Path) -> None:
    """The same patients with their gene expression alone: more genes than patients at any site."""
    by_site: dict[str, Rows] = defaultdict(list)
    for split in ("train", "test"):
        for row in read(data / "breast_tcga" / f"{split}.csv"):
            site = FOUR[int(hashed(f"site/{row['patient']}") * len(FOUR))]
            by_site[site].append({**row, "split": split})
    columns = [n for n in next(iter(by_site.values()))[0] if not n.startswith(("mirna", "protein"))]
    for site, rows in by_site.items():
        write(out / f"{site}.csv", rows, columns)


def _scaffold(molecule: Any) -> str:
    """Rings and what links them, without regard to handedness; empty for a chain."""
    from rdkit.Chem.Scaffolds import MurckoScaffold

    found: Any = MurckoScaffold
    return str(found.MurckoScaffoldSmiles(mol=molecule))


def _molecules(rows: Rows, out: Path, columns: Sequence[str]) -> None:
    """Whole Bemis-Murcko scaffolds go to one site and one side of the split."""
    from rdkit import Chem, rdBase

    quiet = rdBase.BlockLogs()
    by_site: dict[str, Rows] = defaultdict(list)
    for row in rows:
        molecule = Chem.MolFromSmiles(row["smiles"])
        if molecule is None or molecule.GetNumAtoms() > 64 or not molecule.GetNumBonds():
            continue
        scaffold = _scaffold(molecule) or row["smiles"]
        row["split"] = "test" if hashed(f"split/{scaffold}") < TEST_FRACTION else "train"
        by_site[FOUR[int(hashed(f"site/{scaffold}") * len(FOUR))]].append(row)
    del quiet
    for site, rows_there in by_site.items():
        write(out / f"{site}.csv", rows_there, [*columns, "split"])


def barrier(data: Path, out: Path) -> None:
    """BBBP: which molecules pass the blood-brain barrier, by scaffold."""
    rows = read(data / "molecules" / "BBBP.csv")
    _molecules(
        [{"smiles": r["smiles"], "passes": r["BBBP"]} for r in rows], out, ("smiles", "passes")
    )


def solubility(data: Path, out: Path) -> None:
    """ESOL: how well molecules dissolve in water, by scaffold."""
    measured = "measured log solubility in mols per litre"
    rows = read(data / "molecules" / "delaney-processed.csv")
    made = [{"smiles": r["smiles"].strip(), "log_solubility": r[measured]} for r in rows]
    _molecules(made, out, ("smiles", "log_solubility"))


def radiographs(data: Path, out: Path) -> None:
    """PneumoniaMNIST in four parts; the validation images train, the test images are held out."""
    import numpy as np

    whole = np.load(data / "pneumonia" / "pneumoniamnist.npz")
    images = np.concatenate([whole[f"{part}_images"] for part in ("train", "val", "test")])
    labels = np.concatenate([whole[f"{part}_labels"] for part in ("train", "val", "test")])[:, 0]
    held = np.arange(len(images)) >= len(images) - len(whole["test_images"])
    place = np.array([int(hashed(f"site/{row}") * len(FOUR)) for row in range(len(images))])
    out.mkdir(parents=True, exist_ok=True)
    for number, site in enumerate(FOUR):
        here = place == number
        np.savez_compressed(
            out / f"{site}.npz",
            image=images[here],
            pneumonia=labels[here],
            split=np.where(held[here], "test", "train"),
        )


def _relapse_free(row: dict[str, str]) -> tuple[str, str]:
    """Days until recurrence or death, whichever is first, and whether either came."""
    if row["recur"] == "1":
        return row["rtime"], "1"
    return row["dtime"], row["death"]


def _size(millimetres: str) -> str:
    mm = float(millimetres)
    return "<=20" if mm <= 20 else "20-50" if mm <= 50 else ">50"


def survival(data: Path, out: Path) -> None:
    """Breast cancer in Rotterdam (2,982) and at the German Breast Cancer Study Group (686).

    Royston & Altman 2013, BMC Med Res Methodol 13:33. Counts of nodes and receptors as ln(1 + x).
    """
    shared = ("age", "meno", "size", "grade", "hormon")
    logs = ("nodes", "pgr", "er")
    for site, file in (("rotterdam", "rotterdam.csv"), ("germany", "gbsg.csv")):
        rows = read(data / "survival" / file)
        for row in rows:
            if site == "rotterdam":
                row["days"], row["relapse"] = _relapse_free(row)
            else:
                row["days"], row["relapse"] = row["rfstime"], row["status"]
                row["size"] = _size(row["size"])
            for name in logs:
                row[f"log_{name}"] = f"{math.log1p(float(row[name])):.6f}"
            drawn = hashed(f"{site}/{row['pid']}")
            row["split"] = "test" if drawn < TEST_FRACTION else "train"
        columns = (*shared, *(f"log_{name}" for name in logs), "days", "relapse", "split")
        write(out / f"{site}.csv", rows, columns)


HEART = ("cleveland", "hungarian", "switzerland", "va")
HEART_COLUMNS = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang")


def synthetic(data: Path, out: Path) -> None:
    """Angiography at four hospitals, the rows and the split of the FLamby benchmark."""
    for site in HEART:
        rows = read(data / "heart_flamby" / f"{site}.csv")
        for row in rows:
            row |= {name: f"{float(row[name]):g}" for name in (*HEART_COLUMNS, "oldpeak")}
            row["disease"] = row["label"]
        write(out / f"{site}.csv", rows, (*HEART_COLUMNS, "oldpeak", "disease", "split"))


EXAMPLES: Mapping[str, Callable[[Path, Path], None]] = {
    "splice": splice,
    "omics": omics,
    "expression": expression,
    "barrier": barrier,
    "solubility": solubility,
    "radiographs": radiographs,
    "survival": survival,
    "synthetic": synthetic,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("example", choices=sorted(EXAMPLES))
    parser.add_argument("--data", type=Path, required=True, help="where the public files are")
    parser.add_argument("--out", type=Path, required=True, help="a directory for the sites' files")
    given = parser.parse_args()
    EXAMPLES[given.example](given.data, given.out)
    print(f"{given.example}: {len(list(given.out.iterdir()))} sites in {given.out}")


if __name__ == "__main__":
    main()
