"""What fairlearn and scikit-learn say of all patients' rows in one place, beside what we say."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equalized_odds_difference,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)
from numpy.typing import NDArray
from sklearn import metrics

from benchmarks.federations import Measured
from cohortium.common.evaluating import Criterion
from cohortium.common.fairness.attributes import SITE
from cohortium.common.fairness.verdicts import Contrast, FairnessAudit
from cohortium.common.metrics.performance import of_study
from cohortium.common.study import Study

Key = tuple[str | None, ...]
Values = Mapping[Key, float]
Flags = NDArray[np.bool_]
Texts = NDArray[np.str_]

SHARES: dict[Criterion, Callable[..., float]] = {
    "demographic_parity": selection_rate,
    "equal_opportunity": true_positive_rate,
    "false_positive_rate": false_positive_rate,
    "predictive_parity": partial(metrics.precision_score, zero_division=0),  # we say: not measured
    "accuracy": metrics.accuracy_score,
}


@dataclass(frozen=True, eq=False)
class Patients:
    """All held-out rows: (n,) each; `levels` by attribute, "" unknown."""

    ill: Flags
    score: NDArray[np.float64]
    called: Flags
    site: Texts
    levels: Mapping[str, Texts]

    def where(self, rows: Flags) -> "Patients":
        """Those of some rows, bool (n,)."""
        return Patients(
            ill=self.ill[rows],
            score=self.score[rows],
            called=self.called[rows],
            site=self.site[rows],
            levels={name: column[rows] for name, column in self.levels.items()},
        )


def pooled(study: Study, found: Measured) -> Patients:
    """Put the sites' rows together, with names for levels."""
    sites = tuple(found.scores)
    score = np.concatenate([found.scores[site] for site in sites])
    levels = {
        name: np.concatenate([_names(study, name, found.levels[site][name]) for site in sites])
        for name in study.fairness.attributes
    }
    for one, other in study.fairness.intersections:
        both = zip(levels[one], levels[other], strict=True)
        levels[f"{one} x {other}"] = np.array([f"{a} x {b}" if a and b else "" for a, b in both])
    site = np.concatenate([[site] * len(found.scores[site]) for site in sites])
    return Patients(
        ill=np.concatenate([found.labels[site] for site in sites]),
        score=score,
        called=score > study.evaluation.thresholds[0],
        site=site,
        levels={**levels, SITE: site},
    )


def of_audit(said: FairnessAudit) -> dict[Key, float]:
    """Every proportion that the audit states, of a group, of its reference, and the gap."""
    return {
        (*_key(one), name): value
        for one in said.contrasts
        if one.criterion in SHARES
        for name in ("value", "reference_value", "gap", "base_rate", "reference_base_rate")
        if (value := getattr(one, name)) is not None
    }


def by_fairlearn(said: FairnessAudit, rows: Patients) -> dict[Key, float]:
    """The same from the rows of those sites that a contrast counts."""
    found: dict[Key, float] = {}
    for one in said.contrasts:
        if one.criterion in SHARES and one.sites:
            there = rows.where(np.isin(rows.site, one.sites))
            frame = MetricFrame(
                metrics={"value": SHARES[one.criterion], "base_rate": _base_rate},
                y_true=there.ill,
                y_pred=there.called,
                sensitive_features=_sides(one, there),
            )
            for name in ("value", "base_rate"):
                by_group = frame.by_group[name]
                for prefix, group in (("", one.level), ("reference_", one.reference)):
                    if group in by_group:
                        found[(*_key(one), prefix + name)] = float(by_group[group])
            value, reference = (
                found.get((*_key(one), name)) for name in ("value", "reference_value")
            )
            if value is not None and reference is not None:
                found[(*_key(one), "gap")] = value - reference
    return found


def of_scores(said: FairnessAudit) -> dict[Key, float]:
    """AUROC within sites, and observed / expected, of groups."""
    return {
        _key(one): one.value
        for one in said.contrasts
        if one.value is not None and (one.criterion == "calibration" or _within_a_site(one))
    }


def by_scores(said: FairnessAudit, rows: Patients) -> dict[Key, float]:
    """The same by scikit-learn, and by hand."""
    found = {}
    for one in said.contrasts:
        if one.value is not None and (one.criterion == "calibration" or _within_a_site(one)):
            there = rows.where(np.isin(rows.site, one.sites))
            group = there.where(_sides(one, there) == one.level)
            found[_key(one)] = (
                float(group.ill.sum() / math.fsum(group.score))
                if one.criterion == "calibration"
                else float(metrics.roc_auc_score(group.ill, group.score))
            )
    return found


def spans(said: FairnessAudit) -> dict[Key, float]:
    """Largest difference between any two levels of an attribute, over all sites."""
    gaps: dict[Key, list[float]] = {}
    for one in said.contrasts:
        if one.site is None and one.attribute != SITE and one.gap is not None:
            gaps.setdefault((one.attribute, one.criterion), [0.0]).append(one.gap)
    found = {key: max(known) - min(known) for key, known in gaps.items()}
    parity = {key: span for key, span in found.items() if key[1] == "demographic_parity"}
    odds: dict[Key, float] = {}
    for (attribute, criterion), span in found.items():
        if criterion in ("equal_opportunity", "false_positive_rate"):
            key = (attribute, "equalized_odds")
            odds[key] = max(span, odds.get(key, 0.0))
    return {**parity, **odds}


def spans_by_fairlearn(said: FairnessAudit, rows: Patients) -> dict[Key, float]:
    """The same by fairlearn's own functions, of those whose attribute is known."""
    found: dict[Key, float] = {}
    for attribute in {one.attribute for one in said.contrasts} - {SITE}:
        known = rows.where(rows.levels[attribute] != "")
        column = {"sensitive_features": known.levels[attribute]}
        parity = demographic_parity_difference(known.ill, known.called, **column)
        odds = equalized_odds_difference(known.ill, known.called, **column)
        found[(attribute, "demographic_parity")] = float(parity)
        found[(attribute, "equalized_odds")] = float(odds)
    return found


OF_ALL: dict[str, Callable[[Flags, Flags], float]] = {
    "accuracy": metrics.accuracy_score,
    "balanced_accuracy": metrics.balanced_accuracy_score,
    "sensitivity": metrics.recall_score,
    "specificity": lambda y, called: float(metrics.recall_score(~y, ~called)),
    "selection_rate": lambda _, called: float(called.mean()),
    "ppv": metrics.precision_score,
    "npv": lambda y, called: float(metrics.precision_score(~y, ~called)),
    "f1": metrics.f1_score,
    "mcc": metrics.matthews_corrcoef,
}
OF_SCORES: dict[str, Callable[[Flags, NDArray[np.float64]], float]] = {
    "prevalence": lambda y, _: float(y.mean()),
    "brier": metrics.brier_score_loss,
    "log_loss": metrics.log_loss,
    "observed_to_expected": lambda y, score: float(y.sum() / math.fsum(score)),
    "auroc": metrics.roc_auc_score,
    "auprc": metrics.average_precision_score,
}


def of_performance(study: Study, found: Measured) -> dict[Key, float]:
    """Every measure of all patients, at each site and pooled; AUROC and AUPRC within sites."""
    values: dict[Key, float] = {}
    for one in of_study(found.evaluations, study):
        for site, estimate in (*one.sites.items(), (None, one.pooled)):
            if estimate.value is not None and one.measure in {**OF_ALL, **OF_SCORES}:
                values[(one.measure, str(one.threshold), site)] = estimate.value
    return values


def by_scikit_learn(study: Study, rows: Patients) -> dict[Key, float]:
    """The same from rows, wherever they say something."""
    values: dict[Key, float] = {}
    for site in (*np.unique(rows.site).tolist(), None):
        own = rows if site is None else rows.where(rows.site == site)
        if own.ill.all() or not own.ill.any():
            continue
        for name, score in OF_SCORES.items():
            values[(name, "None", site)] = float(score(own.ill, own.score))
        for threshold in study.evaluation.thresholds:
            for name, called in OF_ALL.items():
                found = called(own.ill, own.score > threshold)
                values[(name, str(threshold), site)] = float(found)
    return values


def _key(one: Contrast) -> Key:
    return one.attribute, one.level, one.criterion, one.site


def _within_a_site(one: Contrast) -> bool:
    return one.criterion == "auroc" and (one.site is not None or one.attribute == SITE)


def _sides(one: Contrast, rows: Patients) -> Texts:
    """Each row's level; where sites are compared, the site or all others."""
    if one.attribute != SITE:
        return rows.levels[one.attribute]
    return np.where(rows.site == one.level, one.level, one.reference)


def _names(study: Study, attribute: str, places: NDArray[np.int16]) -> Texts:
    return np.array([*study.attribute_levels(attribute), ""])[places]


def _base_rate(ill: Flags, _: Flags) -> float:
    return float(np.mean(ill))
