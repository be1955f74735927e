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
    "log_loss": "Log loss",
    "balanced_accuracy": "Balanced accuracy",
    "all_right": "All labels right",
    "calibration_intercept": "Calibration intercept",
    "calibration_slope": "Calibration slope",
    "observed_risk": "Observed risk",
    "predicted_risk": "Predicted risk",
    "macro_sensitivity": "Sensitivity, mean of the classes",
    "macro_ppv": "Positive predictive value, mean of the classes",
    "macro_f1": "F1 score, mean of the classes",
    "micro_sensitivity": "Sensitivity, all labels",
    "micro_ppv": "Positive predictive value, all labels",
    "micro_f1": "F1 score, all labels",
    "bias": "Mean error",
    "mse": "Mean squared error",
    "rmse": "Root mean squared error",
    "mae": "Mean absolute error",
    "r2": "R²",
    "concordance": "Concordance (Harrell's C)",
    "precision_l5": "Precision of the likeliest L/5 pairs",
    "precision_l": "Precision of the likeliest L pairs",
    "contact_share": "Pairs that touch (guessing)",
    "variance_explained": "Share of variance explained",
}
SHARES = frozenset(
    (
        "prevalence",
        "accuracy",
        "balanced_accuracy",
        "all_right",
        "sensitivity",
        "specificity",
        "selection_rate",
        "ppv",
        "npv",
        "macro_sensitivity",
        "macro_ppv",
        "micro_sensitivity",
        "micro_ppv",
        "observed_risk",
        "predicted_risk",
        "precision_l5",
        "precision_l",
        "contact_share",
    )
)
IN_UNITS = frozenset(("bias", "mse", "rmse", "mae"))  # of the outcome
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
    """`Sensitivity (score above 0.5)`, `Brier score (within 365)`, `late: AUROC`."""
    called = name(found.measure)
    if found.part:
        called = f"{found.part}: {called}"
    if found.horizon is not None:
        return f"{called} (within {found.horizon:g})"
    return called if found.threshold is None else f"{called} (score above {found.threshold:g})"


def writer(measure: str) -> Callable[[float], str]:
    """Shares in percent, scores with three digits, anything else with three that count."""
    if measure in SHARES:
        return numbers.percent
    known = measure in NAMES and measure not in IN_UNITS
    return numbers.three_digits if known else numbers.plain


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
