"""The examples on real data: what each study reaches, beside pooled rows and the simplest model.

    python -m benchmarks.examples splice --data DIRECTORY --json splice.json

Each study runs at sites with policies, approvals and ledgers, in this process; then the final model
is measured on all sites' held-out patients at once, which only public data allow. Measures and
intervals come from scikit-learn, lifelines and a bootstrap over patients: none of them is our own.
"""

import argparse
import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from examples.prepare import EXAMPLES
from numpy.typing import NDArray
from tests.any_study import ALLOW

from benchmarks.federations import HeldOut, Tables, held_out
from cohortium.common.participation import Sites
from cohortium.common.study import Study, load_study

FOLDER = Path(__file__).parents[1] / "examples"
RESAMPLES = 1000
POOLED = "pooled"

Floats = NDArray[np.float64]
Measure = Callable[[Floats, Floats], float]


@dataclass(frozen=True)
class Line:
    """One row of an example's table.

    Attributes:
        example, what: which, and whose answers were measured.
        measure: its name; `value`, and the bootstrap's 2.5 and 97.5 % over held-out patients.
        patients: held out. epsilon: the most that a site's ledger held; 0 without privacy.
    """

    example: str
    what: str
    measure: str
    value: float
    low: float
    high: float
    patients: int
    epsilon: float = 0.0


def line(
    example: str,
    what: str,
    measure: str,
    predictions: Floats,
    outcomes: Floats,
    epsilon: float = 0.0,
) -> Line:
    """Measure, and draw the patients again and again for the interval.

    Args:
        predictions: (models, n, ...): the mean over the models is the value.
        outcomes: (n,) or (n, columns).
    """

    def over(rows: NDArray[np.int64]) -> float:
        of = MEASURES[measure]
        return float(np.mean([of(one[rows], outcomes[rows]) for one in predictions]))

    n = len(outcomes)
    rng = np.random.default_rng(0)
    drawn = [over(rng.integers(0, n, n)) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    value, low, high = (round(float(x), 4) for x in (over(np.arange(n)), low, high))
    return Line(example, what, measure, value, low, high, n, round(epsilon, 2))


# ------------------------------------------------------------------ measures


def _accuracy(predictions: Floats, outcomes: Floats) -> float:
    chosen = predictions > 0.5 if predictions.ndim == 1 else predictions.argmax(axis=1)
    return float((chosen == outcomes).mean())


def _auroc(predictions: Floats, outcomes: Floats) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(outcomes, predictions))


def _rmse(predictions: Floats, outcomes: Floats) -> float:
    return float(np.sqrt(np.square(predictions - outcomes).mean()))


def _c_index(survival: Floats, outcomes: Floats) -> float:
    from lifelines.utils import concordance_index

    return float(concordance_index(outcomes[:, 0], survival, outcomes[:, 1]))


MEASURES: Mapping[str, Measure] = {
    "accuracy": _accuracy,
    "AUROC": _auroc,
    "RMSE": _rmse,
    "C-index": _c_index,
}


# ------------------------------------------------------------------ studies


@dataclass(frozen=True)
class Run:
    """One study of an example, and how it is measured.

    Attributes:
        file: of the study, in the example's folder. what: its words in the table.
        measures: names. seeds: so often begun differently; each patient is measured with each.
        pooled: whether it also runs on everybody's rows at one site, as often.
    """

    file: str
    what: str
    measures: tuple[str, ...]
    seeds: int = 1
    pooled: bool = False


ACCURACY = ("accuracy",)
RUNS: Mapping[str, tuple[Run, ...]] = {
    "splice": (
        Run("study.toml", "1D CNN", ACCURACY, 5, pooled=True),
        Run("study-lstm.toml", "two-way LSTM", ACCURACY, pooled=True),
        Run("study-transformer.toml", "Transformer", ACCURACY, pooled=True),
    ),
    "omics": (
        Run("study-mrna.toml", "gene expression alone", ACCURACY, 5),
        Run("study-mirna.toml", "micro-RNA alone", ACCURACY, 5),
        Run("study.toml", "fusion of three blocks", ACCURACY, 5),
    ),
    "expression": (
        Run("study-none.toml", "all 200 genes", ACCURACY, 10),
        Run("study-random.toml", "20 random projections", ACCURACY, 10),
        Run("study-select.toml", "20 genes chosen by all sites", ACCURACY, 10),
        Run("study.toml", "10 principal components", ACCURACY, 10),
    ),
    "barrier": (
        Run("study-barrier-fingerprint.toml", "fingerprint, logistic", ("AUROC",), 3),
        Run("study-barrier.toml", "graph network", ("AUROC",), 3),
    ),
    "solubility": (
        Run("study-solubility-fingerprint.toml", "fingerprint, linear", ("RMSE",), 3),
        Run("study-solubility.toml", "graph network", ("RMSE",), 3),
    ),
    "radiographs": (
        Run("study.toml", "residual network", ("accuracy", "AUROC")),
        Run("study-private.toml", "residual network", ("accuracy", "AUROC")),
    ),
    "survival": (
        Run("study.toml", "Cox", ("C-index",)),
        Run("study-private.toml", "hazards in discrete time", ("C-index",)),
    ),
}
IN_FOLDER = {"barrier": "molecules", "solubility": "molecules"}


def lines(example: str, tables: Tables, only: str | None = None) -> list[Line]:
    """Run an example's studies, or only that of one file, and measure them."""
    found: list[Line] = []
    simplest: list[Line] = []
    for run in RUNS[example]:
        if only in (None, run.file):
            study = load_study(FOLDER / IN_FOLDER.get(example, example) / run.file)
            seen = [held_out(one, tables, ALLOW) for one in begun(study, run.seeds)]
            private = "" if study.privacy.mechanism == "none" else ", private"
            where = f"{run.what}{private}, {len(tables)} sites" + _seeds(run)
            found += _measured(example, where, run, seen)
            simplest = simplest or _simplest(example, study, seen[0])
            if run.pooled:
                with TemporaryDirectory() as name:
                    alike = [pooled(one, tables, Path(name)) for one in begun(study, run.seeds)]
                    together = [held_out(*one, ALLOW) for one in alike]
                found += _measured(example, f"{run.what}, pooled rows{_seeds(run)}", run, together)
    return simplest + found


def _seeds(run: Run) -> str:
    return f", {run.seeds} seeds" if run.seeds > 1 else ""


def begun(study: Study, count: int) -> list[Study]:
    """The same study, begun and shuffled differently."""
    return [
        study.model_copy(update={"training": study.training.model_copy(update={"seed": seed})})
        for seed in range(count)
    ]


def pooled(study: Study, tables: Tables, folder: Path) -> tuple[Study, Tables]:
    """The same study at one site that has everybody's rows, and as many batches in all."""
    sites = Sites(names=(POOLED,), min_sites=1)
    training = study.training
    if training.local_steps is not None:
        steps = training.local_steps * len(tables)
        training = training.model_copy(update={"local_steps": steps})
    changed = study.model_copy(update={"sites": sites, "training": training})
    return changed, {POOLED: in_one_file(tables, folder)}


def in_one_file(tables: Tables, folder: Path) -> Path:
    rows = []
    for path in tables.values():
        with path.open(encoding="utf-8", newline="") as file:
            rows += list(csv.DictReader(file))
    out = folder / f"{POOLED}.csv"
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return out


def _measured(example: str, what: str, run: Run, seen: Sequence[HeldOut]) -> list[Line]:
    found = []
    for measure in run.measures:
        predictions = np.stack([_ranking(one.predictions, measure) for one in seen])
        epsilon = max(one.epsilon for one in seen)
        found.append(line(example, what, measure, predictions, seen[0].outcomes, epsilon))
    return found


def _ranking(predictions: Floats, measure: str) -> Floats:
    """Of survival, what is higher for those who stay longer: the end's probability, or -log HR."""
    if measure != "C-index":
        return predictions
    return -predictions if predictions.ndim == 1 else predictions[:, -1]


def _simplest(example: str, study: Study, seen: HeldOut) -> list[Line]:
    """What one reaches without any input, who knows how common each outcome is at the held-out."""
    outcomes = seen.outcomes
    match study.task.kind:
        case "multiclass":
            said = np.zeros_like(seen.predictions)
            said[:, np.bincount(outcomes.astype(int)).argmax()] = 1.0
            return [line(example, "commonest class", "accuracy", said[None], outcomes)]
        case "binary" if "accuracy" in RUNS[example][0].measures:
            said = np.full(len(outcomes), outcomes.mean() > 0.5, np.float64)
            return [line(example, "commonest class", "accuracy", said[None], outcomes)]
        case "regression":
            said = np.full(len(outcomes), outcomes.mean())
            return [line(example, "their mean", "RMSE", said[None], outcomes)]
        case _:
            return []  # of AUROC and C, it is 0.5


# ------------------------------------------------------------------ tables


def measured(example: str, data: Path) -> list[Line]:
    """Deal the public files to the sites, and run all of an example's studies."""
    with TemporaryDirectory() as name:
        EXAMPLES[example](data, Path(name))
        return lines(example, tables_in(Path(name)))


def tables_in(folder: Path) -> Tables:
    return {path.stem: path for path in sorted(folder.iterdir())}


def text(found: Sequence[Line]) -> str:
    """As the examples' pages show it."""
    rows = [
        "| | measure | value | 95 % interval | patients | epsilon |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in found:
        epsilon = f"{one.epsilon:g}" if one.epsilon else "none"
        rows.append(
            f"| {one.what} | {one.measure} | {one.value:.3f} | {one.low:.3f} to {one.high:.3f} | "
            f"{one.patients} | {epsilon} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("example", choices=sorted(RUNS))
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--data", type=Path, help="where the public files are")
    given.add_argument("--tables", type=Path, help="what examples/prepare.py made of them")
    parser.add_argument("--study", help="only this file of the example")
    parser.add_argument("--json", type=Path, help="write the lines there too")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.data:
        found = measured(asked.example, asked.data)
    else:
        found = lines(asked.example, tables_in(asked.tables), asked.study)
    print(text(found))
    if asked.json:
        asked.json.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
