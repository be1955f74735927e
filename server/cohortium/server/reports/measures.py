"""What the measures of a model are called for people, and how their values are written."""

from collections.abc import Callable

from cohortium.common.metrics.performance import Performance
from cohortium.server.reports import numbers

NAMES = {
    "prevalence": "Base rate",
    "auroc": "AUROC",
    "brier": "Brier score",
    "observed_to_expected": "Observed / expected",
    "accuracy": "Accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "Positive predictive value",
    "npv": "Negative predictive value",
    "f1": "F1 score",
    "mcc": "Matthews correlation",
}
SHARES = frozenset(("prevalence", "accuracy", "sensitivity", "specificity", "ppv", "npv"))


def title(found: Performance) -> str:
    """`Sensitivity (score above 0.5)`."""
    name = NAMES[found.measure]
    return name if found.threshold is None else f"{name} (score above {found.threshold:g})"


def writer(measure: str) -> Callable[[float], str]:
    """Shares in percent, scores with three digits."""
    return numbers.percent if measure in SHARES else numbers.three_digits


def interval(measure: str, low: float, high: float) -> str:
    """`70.1 to 88.2 %`, `0.701 to 0.882`."""
    if measure in SHARES:
        return numbers.interval(low, high)
    return f"{low:.3f} to {high:.3f}".replace(" ", numbers.NO_BREAK)
