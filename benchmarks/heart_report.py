"""The report of a private study of the four heart hospitals, to look at.

    python -m benchmarks.heart_report OUT [--data DIR] [--blinded] [--minimum-cell N]

Epsilon 3, sex, age bands and both together, two thresholds, small cells hidden by each hospital as
in care, although these data are public. Everything runs in this process through the real messages.
"""

import argparse
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tests.federation import approve, coordinate, make_any_site

from benchmarks.federations import write_documents
from benchmarks.heart_studies import DELTA, POLICY_B, study_b, tables
from cohortium.client.config import DatasetConfig
from cohortium.common.document import parse
from cohortium.common.errors import CohortiumError
from cohortium.common.identity import SigningKey
from cohortium.common.study import Study
from cohortium.server.config import CoordinatorConfig
from cohortium.server.coordinator import run_study
from cohortium.server.outcome import Evidence, publish
from cohortium.server.release_report import release_report
from cohortium.server.signed import Signatures

ROOT = Path(__file__).parent.parent
EPSILON, CAP = 3.0, 8.0


def main() -> int:
    options = _options()
    torch.set_num_threads(1)
    try:
        page = report(options.data, options.out, options.blinded, options.minimum_cell)
    except CohortiumError as error:
        print(error, file=sys.stderr)
        return 1
    print(page)
    return 0


def report(data: Path, out: Path, blinded: bool, minimum_cell: int) -> Path:
    """Run the study at new sites and write its report; returns the page."""
    study = looked_at(blinded)
    policy = {**POLICY_B, "minimum_cell": str(minimum_cell)}
    with TemporaryDirectory() as name:
        root, key = Path(name), SigningKey.generate()
        write_documents(study, root)
        sites = {}
        for site, path in tables(data).items():
            dataset = DatasetConfig(
                path=path.resolve(),
                schema_file=root / "schema.toml",
                epsilon_cap=CAP,
                delta_cap=DELTA,
            )
            chosen = {study.data.dataset: dataset}
            sites[site] = make_any_site(root / site, site, key.public, chosen, policy)
        federation = coordinate(root, key, sites)
        try:
            for one in sites.values():
                approve(one, study)
            run_study(study, federation.desk(study))
            store, log = federation.store, federation.log
            row = store.study(study.name)
            signed = Signatures(store.database, lambda: key)
            return publish(
                row,
                store,
                log,
                Evidence(CoordinatorConfig(name="bench", host="127.0.0.1"), "", ""),
                out,
                shared_by=key,
                release=release_report(row, store, log, signed),
            )
        finally:
            federation.close()


def looked_at(blinded: bool) -> Study:
    """Track B on a fresh split, by sex, age band and both."""
    values = study_b(EPSILON, split_seed=0).model_dump()
    values["evaluation"] = {"every": 5, "thresholds": (0.5, 0.3), "blinded": blinded}
    values["fairness"] = {
        "attributes": ("sex", "age"),
        "bands": {"age": (50.0, 60.0)},
        "intersections": (("sex", "age"),),
        "reference": {"sex": "male"},
    }
    return parse(values, Study, "benchmarks/heart_report.py")


def _options() -> argparse.Namespace:
    data = Path(os.environ.get("COHORTIUM_TEST_DATA", ROOT / ".." / "shared" / "data"))
    parser = argparse.ArgumentParser(description="The report of the four heart hospitals")
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=data / "heart_flamby")
    parser.add_argument("--blinded", action="store_true")
    parser.add_argument("--minimum-cell", type=int, default=10)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
