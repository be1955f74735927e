"""Evaluations that no table gives: one hostile site must not break the report of the others."""

from typing import Any

import pytest

from cohortium.common.document import parse
from cohortium.common.errors import ProtocolError
from cohortium.common.metrics.tallies import BinaryTally, SiteEvaluation
from cohortium.common.study import Study
from cohortium.server.plausible_evaluation import check_evaluation

STUDY = parse(
    {
        "name": "made-up",
        "purpose": {"text": "to test what is possible", "duo": "GRU", "legal_basis": "consent"},
        "data": {"dataset": "ward", "features": ["age"]},
        "data_model": {
            "name": "ward",
            "columns": {
                "age": {"kind": "number", "low": 0.0, "high": 100.0},
                "ill": {"kind": "flag"},
            },
        },
        "task": {"kind": "binary", "label": "ill", "positive_codes": ["1"]},
        "model": {"name": "logistic"},
        "split": {"test_fraction": 0.5},
        "training": {"rounds": 1, "batches": "full"},
        "privacy": {"mechanism": "none"},
        "evaluation": {"thresholds": [0.5, 0.3, 0.7]},
        "sites": {"names": ["north"], "min_sites": 1},
    },
    Study,
    "study.toml",
)

POSSIBLE = {
    "n": 100,
    "positives": 50,
    "correct": 70,
    "tp": 30,
    "fp": 10,
    "tn": 40,
    "fn": 20,
    "log_loss": 0.5,
    "auroc": 0.8,
    "auroc_variance": 0.002,
    "brier": 0.2,
    "brier_squares": 0.08,
    "mean_score": 0.45,
    "further": [{"tp": 40, "fp": 20}, {"tp": 20, "fp": 0}],
}


def evaluation(**values: Any) -> SiteEvaluation:
    overall = parse({**POSSIBLE, **values}, BinaryTally, "message")
    return SiteEvaluation(overall=overall, groups={})


def test_a_possible_evaluation_passes_whole_cut_short_or_without_means() -> None:
    check_evaluation(STUDY, evaluation(), last=True)
    check_evaluation(STUDY, evaluation(further=POSSIBLE["further"][:1]), last=True)  # type: ignore[index]
    bare = dict.fromkeys(("auroc", "auroc_variance", "brier", "brier_squares", "mean_score"))
    check_evaluation(STUDY, evaluation(**bare), last=True)
    nothing = {key: None for key in POSSIBLE if key != "further"}
    check_evaluation(STUDY, evaluation(**nothing, further=[]), last=True)


@pytest.mark.parametrize(
    "values",
    [
        {"tn": 60},  # more without the outcome than there are
        {"fn": 10},
        {"correct": 71},
        {"further": [{"tp": 40, "fp": 20}] * 3},  # three more, the study names two
        {"further": [{"tp": 29, "fp": 20}]},  # fewer above 0.3 than above 0.5
        {"further": [{"tp": 51, "fp": 20}]},
        {"further": [{"tp": 40, "fp": 51}]},
        {"further": [{"tp": 40, "fp": 20}, {"tp": 31, "fp": 0}]},  # more above 0.7 than above 0.5
        {"tp": None, "fp": None, "tn": None, "fn": None},  # a further threshold, not the first
        {"brier_squares": 0.3},  # above the Brier score
        {"brier_squares": 0.001},  # below its square
        {"auroc_variance": 1e-30},
        {"mean_score": 5e-324},  # whose square is lost
        {"brier_squares": 1e-300},
        {"auroc": None},
        {"n": None, "positives": None, "correct": None, "tp": None, "fp": None, "further": []},
    ],
)
def test_an_evaluation_that_contradicts_itself_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        check_evaluation(STUDY, evaluation(**values), last=True)
