"""By which measures each kind of outcome is followed round by round, and trials are compared."""

from collections.abc import Mapping

from cohortium.common.metrics.summary import Mean, Summary
from cohortium.common.task import Outcome, SurvivalTask

FOLLOWED: Mapping[str, tuple[str, ...]] = {
    "binary": ("log_loss", "auroc", "accuracy"),
    "multiclass": ("log_loss", "accuracy"),
    "multilabel": ("log_loss", "accuracy"),
    "regression": ("mae", "rmse", "r2"),
    "survival": ("concordance", "brier"),
    "cox": ("concordance",),
    "labelling": ("log_loss", "accuracy"),
    "contacts": ("precision_l5", "precision_l", "auroc"),
    "reconstruction": ("mse", "variance_explained"),
    "generation": ("mse", "variance_explained"),
}
LOWER = frozenset({"log_loss", "mae", "rmse", "brier", "mse"})  # is better; of the others, higher


def followed(task: Outcome) -> tuple[str, ...]:
    """The measures of an outcome of this kind, the foremost first."""
    if isinstance(task, SurvivalTask) and task.likelihood == "cox":
        return FOLLOWED["cox"]
    kind: str = getattr(task, "kind", "")
    return FOLLOWED[kind]


def mean_of(scores: Summary | None, name: str) -> float | None:
    """One of them, each site counting once; None where it is not known."""
    if scores is None:
        return None
    found = scores.headline.get(name) or getattr(scores, name, None)  # rounds of older versions
    return found.unweighted if isinstance(found, Mean) else None
