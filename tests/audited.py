"""Patients by site, and the evaluations that their sites would send, counted here and not there."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohortium.common.document import parse
from cohortium.common.metrics.auroc import auroc, auroc_variance
from cohortium.common.metrics.tallies import BinaryTally, SiteEvaluation
from cohortium.common.study import Study

COLUMNS: dict[str, Any] = {
    "age": {"kind": "number", "low": 0.0, "high": 120.0},
    "sex": {"kind": "flag", "no_label": "female", "yes_label": "male"},
    "insurance": {"kind": "category", "codes": ["public", "private", "none"]},
    "marker": {"kind": "number", "low": 0.0, "high": 10.0},
    "ill": {"kind": "flag"},
    "stage": {"kind": "category", "codes": ["I", "II", "III"]},
    "other": {"kind": "flag"},
    "other_number": {"kind": "number", "low": 0.0, "high": 10.0},
}
FAIRNESS: dict[str, Any] = {
    "attributes": ["sex", "insurance"],
    "intersections": [["sex", "insurance"]],
    "reference": {"sex": "male"},
}
BINARY: dict[str, Any] = {"kind": "binary", "label": "ill", "positive_codes": ["1"]}
LOGISTIC = {"name": "logistic"}
LEVELS = {"sex": ("female", "male"), "insurance": ("public", "private", "none")}

Rows = Mapping[str, NDArray[Any]]  # ill, score, and each attribute's level ("" unknown), (n,) each


def study(
    sites: tuple[str, ...] = ("north", "south", "west"),
    fairness: Mapping[str, Any] = FAIRNESS,
    task: Mapping[str, Any] = BINARY,
    model: Mapping[str, Any] = LOGISTIC,
) -> Study:
    """A study of made-up wards."""
    values = {
        "name": "made-up",
        "purpose": {"text": "to test the audit", "duo": "GRU", "legal_basis": "consent"},
        "data": {"dataset": "ward", "features": ["marker"]},
        "data_model": {"name": "ward", "columns": COLUMNS},
        "task": task,
        "model": model,
        "split": {"test_fraction": 0.5},
        "training": {"rounds": 1, "batches": "full"},
        "privacy": {"mechanism": "none"},
        "fairness": fairness,
        "sites": {"names": sites, "min_sites": 1},
    }
    return parse(values, Study, "study.toml")


def ward(seed: int, patients: int, harder: str = "") -> Rows:
    """Patients whose scores tell less of their illness if they are of level `harder`."""
    rng = np.random.default_rng(seed)
    sex = rng.choice(LEVELS["sex"], patients)
    insurance = rng.choice(LEVELS["insurance"], patients, p=(0.6, 0.3, 0.1))
    ill = rng.random(patients) < 0.25 + 0.1 * seed
    strength = np.where((sex == harder) | (insurance == harder), 0.3, 1.2)
    logit = strength * rng.normal(2.0 * ill - 1, 1.5)
    return {"ill": ill, "score": 1 / (1 + np.exp(-logit)), "sex": sex, "insurance": insurance}


def pooled(wards: Mapping[str, Rows]) -> Rows:
    """All rows in one place, with a column `site`."""
    names = next(iter(wards.values())).keys()
    together = {name: np.concatenate([rows[name] for rows in wards.values()]) for name in names}
    site = np.concatenate([[site] * len(rows["ill"]) for site, rows in wards.items()])
    return {**together, "site": site}


def count(rows: Rows, among: NDArray[np.bool_] | None = None) -> BinaryTally:
    """The tally of the rows, or of those that are `among` them, at threshold 0.5."""
    among = np.ones(len(rows["ill"]), bool) if among is None else among
    ill, score = rows["ill"][among], rows["score"][among].astype(float)
    called = score > 0.5
    n, positives = len(ill), int(ill.sum())
    tp, fp = int((called & ill).sum()), int((called & ~ill).sum())
    return BinaryTally(
        n=n,
        positives=positives,
        correct=tp + n - positives - fp,
        tp=tp,
        fp=fp,
        tn=n - positives - fp,
        fn=positives - tp,
        log_loss=None,
        auroc=auroc(score, ill),
        auroc_variance=auroc_variance(score, ill),
        mean_score=float(score.mean()) if n else None,
        reason="" if n else "no patients",
    )


def counts(tp: int, fp: int, tn: int, fn: int, **more: Any) -> BinaryTally:
    """A tally from its table."""
    n, positives = tp + fp + tn + fn, tp + fn
    cells = {"tp": tp, "fp": fp, "tn": tn, "fn": fn, "log_loss": None, "auroc": None}
    shown = {"n": n, "positives": positives, "correct": tp + tn, **cells, **more}
    return BinaryTally.model_validate(shown)


def hidden(reason: str = "fewer than 10 patients in a cell") -> BinaryTally:
    """A tally that shows nothing."""
    names = ("n", "positives", "correct", "tp", "fp", "tn", "fn", "log_loss", "auroc")
    return BinaryTally.model_validate({**dict.fromkeys(names), "reason": reason})


def evaluation(rows: Rows) -> SiteEvaluation:
    """All that a site would send if nothing had to be hidden."""
    groups = {name: _by_level(rows, rows[name], levels) for name, levels in LEVELS.items()}
    both = np.char.add(np.char.add(rows["sex"], " x "), rows["insurance"])
    both[(rows["sex"] == "") | (rows["insurance"] == "")] = ""
    pairs = tuple(f"{a} x {b}" for a in LEVELS["sex"] for b in LEVELS["insurance"])
    groups["sex x insurance"] = _by_level(rows, both, pairs)
    return SiteEvaluation(overall=count(rows), groups=groups)


def _by_level(rows: Rows, column: NDArray[Any], levels: tuple[str, ...]) -> dict[str, BinaryTally]:
    found = {level: count(rows, column == level) for level in levels}
    if (column == "").any():
        found["unknown"] = count(rows, column == "")
    return found


def of_sex(
    female: BinaryTally, male: BinaryTally, overall: BinaryTally | None = None, noise: float = 0.0
) -> SiteEvaluation:
    """An evaluation that is broken down by sex alone."""
    return SiteEvaluation(
        overall=overall or hidden(),
        groups={"sex": {"female": female, "male": male}},
        noise_std=noise,
    )
