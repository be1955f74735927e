"""What synthetic patients are worth, and what they give away of real ones.

    python -m benchmarks.synthetic --data ../shared/data [--study FILE] [--repeats 10] [--json]

The four heart hospitals (`examples/synthetic`), through real messages, policies, approvals, ledgers
and `cohortium study synthesise`. In each repeat a coin decides for each patient whether it trains.

Worth: a logistic regression learns the outcome from synthetic rows and is measured on the patients
who did not train (train on synthetic, test on real; Esteban et al. 2017), beside one that learns
from the real patients who did, and one from columns that are drawn independently.

Given away: two attacks that say of each patient whether it trained (`membership.py`), beside what
the mechanisms that the ledgers hold leave to any attack. Intervals are Student's, over repeats.
"""

import argparse
import csv
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory

import numpy as np
import torch
from examples import prepare
from numpy.typing import NDArray
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.federations import Tables, assembled
from benchmarks.membership import Found, attack, bound, likelihood, nearest
from cohortium.client.data.table import read_table
from cohortium.client.scoring import loaded
from cohortium.common.errors import CohortiumError
from cohortium.common.metrics.auroc import auroc
from cohortium.common.preprocessing.encode import encode_inputs, feature_names
from cohortium.common.privacy.plan import planned_in_all
from cohortium.common.study import Study, load_study
from cohortium.server.coordinator import run_study
from cohortium.server.synthetic import synthesise

Vector = NDArray[np.float32]
Rows = list[dict[str, str]]

EXAMPLE = Path(__file__).parents[1] / "examples" / "synthetic"
OUTCOME = "disease"
DRAWN = 5000  # synthetic rows: for the attack as many as it can use, for the worth more than enough
POLICY = {
    "purposes": '["GRU", "HMB"]',
    "allow_unprotected": "true",
    "minimum_cell": "0",
    "minimum_patients": "5",
    "max_rounds": "1000",
    "max_epsilon_per_study": "20.0",
}


@dataclass(frozen=True)
class Worth:
    """AUROC and accuracy of a classifier on patients who did not train."""

    auroc: float
    accuracy: float


@dataclass(frozen=True)
class Repeat:
    """One division of the patients: worth by what was learnt from, finds by attack."""

    worth: Mapping[str, Worth]
    found: Mapping[str, Found]


def main() -> int:
    options = _options()
    torch.set_num_threads(1)
    study = load_study(options.study)
    try:
        patients = hospitals(options.data)
        seeds = range(options.first, options.first + options.repeats)
        repeats = []
        for seed in seeds:
            repeats.append(run(study, patients, seed))
            print(json.dumps(asdict(repeats[-1])), file=sys.stderr, flush=True)
    except (CohortiumError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps([asdict(repeat) for repeat in repeats], indent=2))
    else:
        print(text(study, repeats))
    return 0


def hospitals(data: Path) -> dict[str, Rows]:
    """The hospitals' tables as `examples/prepare.py` writes them, by site.

    Raises:
        OSError: `data` has not all of them.
    """
    with TemporaryDirectory() as name:
        prepare.synthetic(data, Path(name))
        return {site: prepare.read(Path(name) / f"{site}.csv") for site in prepare.HEART}


def run(study: Study, patients: Mapping[str, Rows], seed: int) -> Repeat:
    """Divide, train, draw, learn and attack once.

    Raises:
        CohortiumError: the study failed.
    """
    rng = np.random.default_rng(seed)
    inside = {site: rng.random(len(rows)) < 0.5 for site, rows in patients.items()}
    with TemporaryDirectory() as name:
        folder = Path(name)
        files = {
            site: _write(folder / f"{site}.csv", rows, inside[site])
            for site, rows in patients.items()
        }
        made, module = _made(study, files, folder, seed)
        real = np.concatenate([_inputs(study, path) for path in files.values()])
        synthetic = _inputs(study, made)
        apart = _inputs(study, _independent(files, made.with_name("apart.csv"), rng))
    members = np.concatenate(list(inside.values()))
    outcome = feature_names(study).index(OUTCOME)
    learnt = {"real": real[members], "synthetic": synthetic, "independent": apart}
    scores = {"nearest": nearest(real, synthetic)}
    if study.model.name == "vae":  # a generator alone has no loss of a patient
        scores["likelihood"] = likelihood(real, module)
    return Repeat(
        worth={name: _worth(rows, real[~members], outcome) for name, rows in learnt.items()},
        found={name: attack(one, members) for name, one in scores.items()},
    )


def _made(study: Study, files: Tables, folder: Path, seed: int) -> tuple[Path, torch.nn.Module]:
    """Synthetic rows and the model that they are drawn from."""
    with assembled(study, files, POLICY) as federation:
        model = run_study(study, federation.desk(study))
        row = federation.store.study(study.name)
        out = folder / "synthetic.csv"
        synthesise(row, federation.store, DRAWN, seed, out)
    return out, loaded(study, model)


def _worth(rows: Vector, held_out: Vector, outcome: int) -> Worth:
    """Of a classifier that learns `outcome`, a place among the inputs (n, f), from rows."""
    others = np.arange(rows.shape[1]) != outcome
    ill, truth = rows[:, outcome] > 0, held_out[:, outcome] > 0
    if len(np.unique(ill)) < 2:
        return Worth(0.5, float((truth == ill[0]).mean()))
    learner = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    learner.fit(rows[:, others], ill)
    said = learner.predict_proba(held_out[:, others])[:, 1].astype(np.float64)
    area = auroc(said, truth)
    assert area is not None
    return Worth(area, float(((said > 0.5) == truth).mean()))


def _inputs(study: Study, path: Path) -> Vector:
    table = read_table(path, study.data_model, study.columns_read)
    return encode_inputs(table, study)


def _independent(files: Tables, out: Path, rng: np.random.Generator) -> Path:
    """Each column drawn by itself from the patients who trained: the least that a model can do."""
    rows = []
    for path in files.values():
        with path.open(newline="") as file:
            rows += [row for row in csv.DictReader(file) if row["split"] == "train"]
    drawn = {name: rng.choice([row[name] for row in rows], DRAWN) for name in rows[0]}
    with out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(drawn)
        writer.writerows(zip(*drawn.values(), strict=True))
    return out


def _write(path: Path, rows: Rows, inside: NDArray[np.bool_]) -> Path:
    divided = [
        {**row, "split": "train" if trains else "test"}
        for row, trains in zip(rows, inside, strict=True)
    ]
    prepare.write(path, divided, list(divided[0]))
    return path


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval of it (Student), for two values or more."""
    mean = fmean(values)
    reach = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return mean, mean - reach, mean + reach


def text(study: Study, repeats: Sequence[Repeat]) -> str:
    """A table to read; the bound is that of the study's plan, which is what the ledgers hold."""
    return "\n".join(_lines(study, repeats))


def _lines(study: Study, repeats: Sequence[Repeat]) -> Iterator[str]:
    yield f"{study.name}, {len(repeats)} repeats, epsilon {study.privacy.epsilon or 'none'}"
    for name in repeats[0].worth:
        area = _shown([repeat.worth[name].auroc for repeat in repeats])
        right = _shown([repeat.worth[name].accuracy for repeat in repeats])
        yield f"  learnt from {name:12} AUROC {area}   accuracy {right}"
    for name in repeats[0].found:
        area = _shown([repeat.found[name].auc for repeat in repeats])
        members = _shown([repeat.found[name].members for repeat in repeats])
        yield f"  attack by {name:14} AUC   {area}   found at 1 % {members}"
    plan = planned_in_all(study)
    if plan is not None:
        most = bound([plan])
        yield f"  any attack, at most      AUC   {most.auc:.3f}   found at 1 % {most.members:.3f}"


def _shown(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f}"
    mean, low, high = interval(values)
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="holds heart_flamby/")
    parser.add_argument("--study", type=Path, default=EXAMPLE / "study-private.toml")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first repeat's seed")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
