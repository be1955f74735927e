"""Labels of every kind of outcome, for tests of the three ways to train."""

import numpy as np
from numpy.typing import NDArray

# kind of outcome, outputs of its model
OUTCOMES = [("binary", 1), ("multiclass", 3), ("multilabel", 3), ("regression", 1), ("survival", 3)]


def labels_of(outcome: str, rows: int, seed: int = 0) -> NDArray[np.float32]:
    """As `preprocessing/labels.py` makes them for a model of three outputs, or of one."""
    rng = np.random.default_rng(seed)
    survived = rng.integers(0, 4, rows)
    made = {
        "binary": rng.integers(0, 2, rows),
        "multiclass": rng.integers(0, 3, rows),
        "multilabel": rng.integers(0, 2, (rows, 3)),
        "regression": rng.normal(size=rows),
        "survival": np.column_stack([survived, rng.integers(0, 2, rows) * (survived < 3)]),
    }
    return made[outcome].astype(np.float32)
