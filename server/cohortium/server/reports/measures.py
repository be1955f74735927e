"""What the measures of a model are called for people, and how their values are written."""

from collections.abc import Callable

from cohortium.common.metrics.performance import Estimate, Performance
from cohortium.server.reports import numbers

NAMES = {
    "prevalence": "Base rate",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "brier": "Brier score",
    "ece": "Expected calibration error",
    "observed_to_expected": "Observed / expected",
    "accuracy": "Accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "selection_rate": "Predicted positive",
    "ppv": "Positive predictive value",
    "npv": "Negative predictive value",
    "f1": "F1 score",
    "mcc": "Matthews correlation",
    "net_benefit": "Net benefit",
    "mse": "Mean squared error",
    "rmse": "Root mean squared error",
    "mae": "Mean absolute error",
    "r2": "R²",
    "concordance": "Concordance (Harrell's C)",
}
SHARES = frozenset(
    ("prevalence", "accuracy", "sensitivity", "specificity", "selection_rate", "ppv", "npv")
)
CRITERIA = {
    "demographic_parity": "Predicted positive (demographic parity)",
    "equal_opportunity": "Sensitivity (equal opportunity)",
    "false_positive_rate": "False positive rate",
    "predictive_parity": "Positive predictive value (predictive parity)",
    "accuracy": "Accuracy",
    "auroc": "AUROC",
    "calibration": "Observed / expected (calibration)",
}
SHARE_CRITERIA = frozenset(CRITERIA) - {"auroc", "calibration"}


def name(measure: str) -> str:
    """`ppv` is `Positive predictive value`; a measure without a name of its own is spelt out."""
    return NAMES.get(measure) or measure.replace("_", " ").capitalize()


def title(found: Performance) -> str:
    """`Sensitivity (score above 0.5)`."""
    called = name(found.measure)
    return called if found.threshold is None else f"{called} (score above {found.threshold:g})"


def writer(measure: str) -> Callable[[float], str]:
    """Shares in percent, scores with three digits, anything else with three that count."""
    if measure in SHARES:
        return numbers.percent
    return numbers.three_digits if measure in NAMES else numbers.plain


def interval(measure: str, low: float, high: float) -> str:
    """`70.1 to 88.2 %`, `0.701 to 0.882`."""
    if measure in SHARES:
        return numbers.interval(low, high)
    write = writer(measure)
    return f"{write(low)} to {write(high)}".replace(" ", numbers.NO_BREAK)


def estimate(measure: str, shown: Estimate, absent: str = "not known") -> str:
    """`81.2 % (70.1 to 88.2 %)`, without the bracket where there is no interval."""
    if shown.value is None:
        return absent
    text = writer(measure)(shown.value)
    if shown.low is None or shown.high is None:
        return text
    return f"{text} ({interval(measure, shown.low, shown.high)})"
