"""A study of a network with 23 inputs and 1601 parameters, as L2 needs one to have room."""

from typing import Any

from cohortium.common.document import parse
from cohortium.common.study import Study

INPUTS = 23


def made_up(batches: str, epsilon: float, hidden: int = 64, **changes: Any) -> Study:
    """4 rounds of Poisson batches, or 3 of full ones; `hidden` 0 for logistic regression."""
    columns: dict[str, Any] = {
        f"lab{number}": {"kind": "number", "low": 0.0, "high": 10.0} for number in range(INPUTS)
    }
    poisson = {"local_steps": 5, "sample_rate": 0.2, "learning_rate": 0.5}
    values = {
        "name": "made-up",
        "purpose": {"text": "to test the audit", "duo": "GRU", "legal_basis": "nobody's data"},
        "data": {"dataset": "nobody", "features": list(columns)},
        "data_model": {"name": "labs", "columns": {**columns, "ill": {"kind": "flag"}}},
        "task": {"kind": "binary", "label": "ill", "positive_codes": ["1"]},
        "model": {"name": "mlp", "hidden": [hidden]} if hidden else {"name": "logistic"},
        "split": {"test_fraction": 0.2},
        "training": {
            "rounds": 4 if batches == "poisson" else 3,
            "batches": batches,
            **(poisson if batches == "poisson" else {}),
        },
        "privacy": {
            "mechanism": "gaussian", "epsilon": epsilon, "delta": 1e-5, "clip_norm": 1.0
        },
        "sites": {"names": ["a", "b"], "min_sites": 1},
        **changes,
    }  # fmt: skip
    return parse(values, Study, "study.toml")
