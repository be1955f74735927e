"""What joining is worth: alone, together, together without the site, and pooled, at each hospital.

    python -m benchmarks.value [--data DIR] [--epsilon 3 --epsilon 1] [--repeats 5] [--json]

The four heart hospitals where --data names their folder, else three generated wards of 60, 150 and
400 patients. `alone` is each site's own model without noise, `together` the federated one,
`unseen` the federated model that was trained without the site, all measured in one study through
real messages, policies and approvals. `pooled` is what nobody may do with real hospitals and only a
simulation can show: the recipe of `alone` on the training patients of all sites.

AUROC on each site's held-out patients, mean of the repeats: seeds of the split, and of the noise.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from tests.federation import Federation, write_study, write_ward

from benchmarks.federations import Tables, assembled
from benchmarks.heart_studies import POLICY_B, heart, split, tables
from cohortium.client.cohort import Cohort, load_table, prepare
from cohortium.client.own_model import train_own
from cohortium.client.results import KeptResults
from cohortium.client.scoring import scores
from cohortium.common.errors import CohortiumError
from cohortium.common.metrics.auroc import auroc
from cohortium.common.metrics.tallies import BinaryTally
from cohortium.common.study import Study
from cohortium.server.coordinator import run_study
from cohortium.server.store import RoundRecord, of_main_model

Vector = NDArray[np.float32]

ROUNDS = 15
WARDS = {"a": 60, "b": 150, "c": 400}
POLICY = {
    **POLICY_B,
    "purposes": '["GRU", "HMB"]',
    "max_epsilon_per_study": "100.0",
    "allow_unprotected": "true",
    "allow_own_model": "true",
}
PLAIN = {"batches": "shuffle", "batch_size": 16, "local_steps": 20, "learning_rate": 0.1}
FULL = {"batches": "full"}
STRATEGY = {"name": "fedavgm", "learning_rate": 1.5, "momentum": 0.5}


@dataclass(frozen=True)
class Row:
    """AUROC at one site, by model; None where a site's held-out patients have one outcome."""

    site: str
    epsilon: float | None
    alone: float | None
    together: float | None
    unseen: float | None
    pooled: float | None


def main() -> int:
    options = _options()
    torch.set_num_threads(1)
    rows = []
    try:
        for epsilon in (None, *options.epsilon):
            found = compare(epsilon, options.data, options.repeats)
            rows += found
            print(_text(epsilon, found), file=sys.stderr, flush=True)
    except CohortiumError as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    return 0


def compare(epsilon: float | None, data: Path | None, repeats: int) -> list[Row]:
    """One row for each site: the mean of so many splits."""
    found = [row for seed in range(repeats) for row in run(epsilon, data, seed)]
    sites = dict.fromkeys(row.site for row in found)
    return [_mean([row for row in found if row.site == site]) for site in sites]


def run(epsilon: float | None, data: Path | None, seed: int) -> list[Row]:
    """All four models once.

    Raises:
        CohortiumError: the study failed.
    """
    with (
        _asked(epsilon, data, seed) as (study, files),
        assembled(study, files, POLICY) as federation,
    ):
        run_study(study, federation.desk(study))
        records = federation.store.rounds(study.digest)
        cohorts = _cohorts(study, federation)
        pooled = _pooled(study, cohorts)
        return [
            _row(study, federation, records, site, epsilon, cohort, pooled)
            for site, cohort in cohorts.items()
        ]


@contextmanager
def _asked(epsilon: float | None, data: Path | None, seed: int) -> Iterator[tuple[Study, Tables]]:
    parts: dict[str, object] = {
        "split": split(seed),
        "training": {"rounds": ROUNDS, **(FULL if epsilon else PLAIN)},
        "strategy": STRATEGY if epsilon else {},
        "privacy": {"mechanism": "none"}
        if epsilon is None
        else {"mechanism": "gaussian", "epsilon": epsilon, "delta": 1e-5, "clip_norm": 1.0},
        "evaluation": {"every": ROUNDS, "own_model": True, "leave_one_site_out": True},
    }
    if data is not None:
        yield heart(preprocessing={"missing_indicators": ["chol"]}, **parts), tables(data)
        return
    with TemporaryDirectory() as name:
        wards = {
            site: write_ward(Path(name) / f"{site}.csv", 100 * seed + place, patients)
            for place, (site, patients) in enumerate(WARDS.items())
        }
        yield _ward_study(Path(name), parts), wards


def _ward_study(folder: Path, parts: Mapping[str, object]) -> Study:
    some = '[training]\nrounds = 1\nbatches = "full"\n[privacy]\nmechanism = "none"\n'
    values = write_study(folder, some).model_dump()
    values["sites"]["min_sites"] = len(WARDS) - 1
    return Study.model_validate({**values, **parts})


def _cohorts(study: Study, federation: Federation) -> dict[str, Cohort]:
    return {
        name: prepare(
            load_table(study, site.directory.load_dataset(study.data.dataset), name), study, name
        )
        for name, site in federation.sites.items()
    }


def _pooled(study: Study, cohorts: Mapping[str, Cohort]) -> Vector:
    features = np.concatenate([cohort.features for cohort in cohorts.values()])
    labels = np.concatenate([cohort.labels for cohort in cohorts.values()])
    return train_own(study, features, labels)[0]


def _row(
    study: Study,
    federation: Federation,
    records: list[RoundRecord],
    site: str,
    epsilon: float | None,
    cohort: Cohort,
    pooled: Vector,
) -> Row:
    kept = KeptResults(federation.sites[site].database).of(study.digest)
    if kept is None:
        raise CohortiumError(f"{site} was not measured")
    said = scores(study, pooled, cohort.test_features)
    unseen = next(r.evaluations for r in reversed(records) if r.left_out == site and r.evaluations)
    together = of_main_model(records)[-1].evaluations
    return Row(
        site=site,
        epsilon=epsilon,
        alone=_auroc(kept.models["own"].overall),
        together=_auroc(together[site].overall),
        unseen=_auroc(unseen[site].overall),
        pooled=auroc(said, cohort.test_labels > 0.5),
    )


def _auroc(tally: object) -> float | None:
    assert isinstance(tally, BinaryTally)
    return tally.auroc


def _mean(rows: list[Row]) -> Row:
    def over(name: str) -> float | None:
        known = [value for row in rows if (value := getattr(row, name)) is not None]
        return fmean(known) if known else None

    models = {name: over(name) for name in ("alone", "together", "unseen", "pooled")}
    return Row(site=rows[0].site, epsilon=rows[0].epsilon, **models)


def _text(epsilon: float | None, rows: list[Row]) -> str:
    title = "no privacy" if epsilon is None else f"epsilon {epsilon:g} over all models"
    lines = [f"{title}\n{'site':14}{'alone':>10}{'together':>10}{'unseen':>10}{'pooled':>10}"]
    for row in rows:
        cells = (row.alone, row.together, row.unseen, row.pooled)
        shown = "".join(f"{'-' if value is None else f'{value:.3f}':>10}" for value in cells)
        lines.append(f"{row.site:14}{shown}")
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, help="folder with the four heart hospitals' files")
    parser.add_argument("--epsilon", type=float, action="append", default=[], help="and with this")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="the rows on stdout")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
