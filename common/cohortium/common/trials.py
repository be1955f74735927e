"""What a trial asks of made-up sites: one process, no wire, nobody's patients."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cohortium.common.errors import UsageError
from cohortium.common.evaluating import Evaluation
from cohortium.common.metrics.tallies import SiteEvaluation
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.study import Split, Study
from cohortium.common.tuning import Tuning

Vector = NDArray[np.float32]

GROUP = "cohortium.trials"  # the entry point by which the site's half is found
FOLD = "tuning-fold"  # the column that says who trains in a fold


@dataclass(frozen=True, eq=False)
class Trained:
    """A site's update, float32 (parameters,); how much it counts; its mean loss where asked for."""

    delta: Vector
    weight: float
    loss: float | None


class FoldSite(Protocol):
    """A made-up site in one fold of the cross-validation."""

    def train(self, start: Vector, round: int) -> Trained:
        """One round from a model, float32 (parameters,); rounds count from 1."""

    def evaluate(self, model: Vector) -> SiteEvaluation:
        """Counts of the patients of this fold, nothing hidden."""


class Bench(Protocol):
    """All made-up sites. `digest`: SHA-256 of the public table; None for mock patients."""

    digest: str | None

    def statistics(self, study: Study, fold: int) -> Statistics | None:
        """Sums over all sites for federated-standard scaling, where the study wants it."""

    def sites(
        self, study: Study, fold: int, statistics: Statistics | None
    ) -> Mapping[str, FoldSite]:
        """Each site with the patients of its own; folds count from 0.

        Raises:
            DataError, RefusedError: a site could not train so.
        """


class OpenBench(Protocol):
    """How the site's half opens one."""

    def __call__(self, study: Study, tuning: Tuning, table: Path | None) -> Bench: ...


def open_bench(study: Study, tuning: Tuning, table: Path | None) -> Bench:
    """Mock patients, or those of a public table, dealt to the study's sites and to folds.

    Raises:
        UsageError: this machine has no training installed.
        DataError: the table does not fit the study.
    """
    found = [entry for entry in entry_points(group=GROUP) if entry.name == "site"]
    if not found:
        raise UsageError("trials train here: pip install 'cohortium[site,coordinator]'")
    opening: OpenBench = found[0].load()
    return opening(study, tuning, table)


def for_trials(study: Study) -> Study:
    """The study with what its training is, and without what is measured or held out beside it.

    Leaving one site out stays: it decides how much noise each round gets.
    """
    leaving_out = study.evaluation.leave_one_site_out
    fields = type(study).model_fields
    defaults = {key: fields[key].default for key in ("fairness", "mitigation", "explanation")}
    sites = {"names": study.sites.training, "evaluate_only": ()}
    return study.model_copy(
        update={
            **defaults,
            "tuning": None,
            "split": Split(column=FOLD),
            "evaluation": Evaluation(leave_one_site_out=leaving_out),
            "sites": study.sites.model_copy(update=sites),
            "training": study.training.model_copy(update={"patience": None}),
        }
    )
