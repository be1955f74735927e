"""Federated against pooled: does an audit from counts say what all rows in one place would?

    python -m benchmarks.fairness [--data-dir DIR] [--json]

The four heart hospitals train together in this process, through the real messages, policies and
disclosure control. Then the same held-out patients are put in one place, which no hospital allows,
and scikit-learn and fairlearn measure them there. DIR holds FLamby's four SITE.csv or the original
processed.SITE.data; without it patients are generated.

First with `minimum_cell = 0`, so that everything can be compared: counts must agree within 1e-9,
AUROC over all patients from histograms of 256 bins (as secure aggregation would add them up; they
leave no site here) within 0.004. Then with `minimum_cell = 10`: what is still shown must be as
right, on the sites that show it, and the rest is named.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from sklearn.metrics import roc_auc_score

from benchmarks.fairness_oracles import (
    Patients,
    Values,
    by_fairlearn,
    by_scikit_learn,
    by_scores,
    of_audit,
    of_performance,
    of_scores,
    pooled,
    spans,
    spans_by_fairlearn,
)
from benchmarks.federations import Measured, Policy, Tables, measured
from benchmarks.heart_studies import POLICY_AUDITED, study_audited
from benchmarks.heart_tables import hospitals
from cohortium.common.errors import CohortiumError
from cohortium.common.fairness.audit import audit
from cohortium.common.fairness.verdicts import FairnessAudit, Invisible
from cohortium.common.metrics.histogram import Histogram, auroc, merge
from cohortium.common.study import Study

EXACT, ROUNDED, BINNED = 1e-9, 0.005, 0.004
MINIMUM_CELL = 10


@dataclass(frozen=True)
class Difference:
    """The largest absolute difference of so many numbers, and what it may be."""

    what: str
    peer: str
    numbers: int
    largest: float
    target: float

    @property
    def passes(self) -> bool:
        return self.numbers > 0 and self.largest <= self.target


@dataclass(frozen=True)
class Run:
    """One federation at a minimum cell."""

    minimum_cell: int
    differences: tuple[Difference, ...]
    bytes_sent: dict[str, int]
    contrasts: dict[str, int]
    invisible: tuple[Invisible, ...]


def main() -> int:
    options = _options()
    torch.set_num_threads(1)
    try:
        with TemporaryDirectory() as folder:
            runs = compare(hospitals(options.data_dir, Path(folder)))
    except CohortiumError as error:
        print(error, file=sys.stderr)
        return 1
    for run in runs:
        print(_text(run), file=sys.stderr)
    if options.json:
        print(json.dumps([_document(run) for run in runs], indent=2))
    return 0 if all(one.passes for run in runs for one in run.differences) else 1


def compare(tables: Tables) -> tuple[Run, Run]:
    """With everything shown, and with small cells hidden."""
    study = study_audited()
    return _run(study, tables, 0), _run(study, tables, MINIMUM_CELL)


def _run(study: Study, tables: Tables, minimum_cell: int) -> Run:
    policy: Policy = {**POLICY_AUDITED, "minimum_cell": str(minimum_cell)}
    found = measured(study, tables, policy)
    said, rows = audit(study, found.evaluations), pooled(study, found)
    verdicts = [contrast.verdict for contrast in said.contrasts]
    return Run(
        minimum_cell=minimum_cell,
        differences=tuple(_differences(study, found, said, rows, everything=minimum_cell == 0)),
        bytes_sent=dict(found.sent),
        contrasts={verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))},
        invisible=said.invisible,
    )


def _differences(
    study: Study, found: Measured, said: FairnessAudit, rows: Patients, *, everything: bool
) -> Iterator[Difference]:
    """Counts are exact always; means and AUROC leave a site rounded if anything is hidden."""
    ours, theirs = of_audit(said), by_fairlearn(said, rows)
    yield _difference("groups, pooled and by site", "fairlearn", ours, theirs, EXACT)
    ours, theirs = of_scores(said), by_scores(said, rows)
    within = EXACT if everything else ROUNDED
    yield _difference("AUROC and calibration of groups", "scikit-learn", ours, theirs, within)
    if not everything:
        return
    ours, theirs = spans(said), spans_by_fairlearn(said, rows)
    yield _difference("largest gaps", "fairlearn", ours, theirs, EXACT)
    ours, theirs = of_performance(study, found), by_scikit_learn(study, rows)
    yield _difference("all patients, pooled and by site", "scikit-learn", ours, theirs, EXACT)
    area = auroc(merge(Histogram.of(found.scores[s], found.labels[s]) for s in found.scores))
    binned: Values = {("auroc",): area.value} if area else {}
    exactly: Values = {("auroc",): float(roc_auc_score(rows.ill, rows.score))}
    yield _difference("AUROC of all, by histograms", "scikit-learn", binned, exactly, BINNED)


def _difference(what: str, peer: str, ours: Values, theirs: Values, target: float) -> Difference:
    """Over all that we say; what the peer cannot say counts as a difference without end."""
    apart = [abs(value - theirs.get(key, float("inf"))) for key, value in ours.items()]
    return Difference(what, peer, len(apart), max(apart, default=0.0), target)


def _document(run: Run) -> dict[str, object]:
    values = asdict(run)
    values["differences"] = [{**asdict(one), "passes": one.passes} for one in run.differences]
    values["invisible"] = [one.model_dump() for one in run.invisible]
    return values


def _text(run: Run) -> str:
    lines = [f"minimum_cell {run.minimum_cell}"]
    lines += [
        f"  {one.what:34} {one.peer:13} {one.numbers:5} numbers, largest difference "
        f"{one.largest:.1e} (at most {one.target:g}){'' if one.passes else '   *** TOO MUCH ***'}"
        for one in run.differences
    ]
    lines += [f"  {site:34} {sent:6} bytes sent" for site, sent in run.bytes_sent.items()]
    lines += [f"  {verdict:34} {count:5} contrasts" for verdict, count in run.contrasts.items()]
    return "\n".join([*lines, *_unseen(run.invisible)])


def _unseen(invisible: tuple[Invisible, ...]) -> Iterator[str]:
    """One line for each group and reason."""
    where: dict[tuple[str, str, str], list[str]] = {}
    for one in invisible:
        if one.site is not None:
            where.setdefault((one.attribute, one.level, one.reason), []).append(one.site)
    for (attribute, level, reason), sites in where.items():
        yield f"  invisible: {attribute}, {level}, at {', '.join(sites)}: {reason}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Federated tallies against pooled rows")
    parser.add_argument("--data-dir", type=Path, help="the hospitals' files; default: generated")
    parser.add_argument("--json", action="store_true", help="one JSON list on stdout")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
