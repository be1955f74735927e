"""Small studies of every kind of outcome, and made-up patients for them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohortium.common.document import parse
from cohortium.common.study import Study

Floats = NDArray[np.float64]

COLUMNS: dict[str, dict[str, Any]] = {
    "age": {"kind": "number", "low": 0.0, "high": 100.0},
    "ill": {"kind": "flag"},
    "pain": {"kind": "flag"},
    "type": {"kind": "category", "codes": ["a", "b", "c"]},
    "weight": {"kind": "number", "low": 0.0, "high": 200.0},
    "time": {"kind": "number", "low": 0.0, "high": 5000.0},
    "chain": {"kind": "sequence", "alphabet": "protein", "length": 30},
    "fold": {"kind": "sequence", "alphabet": "HEC", "length": 30},
    "touching": {"kind": "pairs", "length": 30},
}
LENGTH, STATES, APART = 30, 3, 6
TASKS: dict[str, dict[str, Any]] = {
    "binary": {"label": "ill", "positive_codes": ["1"]},
    "multiclass": {"label": "type"},
    "multilabel": {"labels": ["ill", "pain"]},
    "regression": {"label": "weight"},
    "survival": {"time": "time", "event": "ill", "horizons": [1.0, 2.0]},
    "cox": {"time": "time", "event": "ill", "horizons": [1.0, 2.0], "likelihood": "cox"},
    "labelling": {"label": "fold", "of": "chain"},
    "contacts": {"label": "touching", "of": "chain", "apart": APART},
    "reconstruction": {},
}
MODELS: dict[str, dict[str, Any]] = {
    "regression": {"name": "linear"},
    "cox": {"name": "cox"},
    "labelling": {"name": "gru"},
    "contacts": {"name": "gru"},
    "reconstruction": {"name": "autoencoder"},
}
CALLED: dict[str, Any] = {"thresholds": [0.5, 0.3]}


def study(kind: str, **task: Any) -> Study:
    """A study of that outcome; `task` changes keys of its task."""
    return parse(
        {
            "name": "made-up",
            "purpose": {"text": "to test the measures", "duo": "GRU", "legal_basis": "consent"},
            "data": {"dataset": "ward", "features": ["chain" if "of" in TASKS[kind] else "age"]},
            "data_model": {"name": "ward", "columns": COLUMNS},
            "task": {"kind": "survival" if kind == "cox" else kind, **TASKS[kind], **task},
            "model": MODELS.get(kind, {"name": "logistic"}),
            "split": {"test_fraction": 0.5},
            "training": {"rounds": 1, "batches": "full"},
            "privacy": {"mechanism": "none"},
            "evaluation": CALLED if kind in ("binary", "multilabel") else {},
            "sites": {"names": ["north", "south"], "min_sites": 1},
        },
        Study,
        "study.toml",
    )


def patients(kind: str, count: int, seed: int) -> tuple[Floats, Floats]:
    """Predictions and outcomes, as a site's model and table give them."""
    rng = np.random.default_rng(seed)
    return MAKERS[kind](rng, count)


def _binary(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    ill = (rng.random(n) < 0.4).astype(float)
    return 1 / (1 + np.exp(-rng.normal(2 * ill - 1, 1.5))), ill


def _multiclass(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    true = rng.integers(0, 3, n)
    logits = rng.normal(size=(n, 3)) + 1.5 * np.eye(3)[true]
    odds = np.exp(logits)
    return odds / odds.sum(axis=1, keepdims=True), true.astype(float)


def _multilabel(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    (one, ill), (other, pain) = _binary(rng, n), _binary(rng, n)
    return np.column_stack([one, other]), np.column_stack([ill, pain])


def _regression(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    predicted = rng.normal(75, 10, n)
    return predicted, predicted + rng.normal(1, 5, n)


def _survival(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Exponential times, predicted rightly but for some noise; watched for up to 4."""
    rate = np.exp(rng.normal(-0.7, 0.7, n))
    event, end = rng.exponential(1 / rate), rng.uniform(0.5, 4, n)
    times = np.round(np.minimum(event, end), 2) + 0.01
    guess = rate * np.exp(rng.normal(0, 0.3, n))
    return np.exp(-guess[:, None] * [1.0, 2.0]), np.column_stack([times, event <= end])


def _cox(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    survival, outcome = _survival(rng, n)
    return np.log(-np.log(survival[:, -1])), outcome


def _labelling(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Chains of 10 to 30 places, one in ten of which has no known state."""
    true = rng.integers(0, STATES, (n, LENGTH))
    skill = rng.normal(1.5, 0.5, (n, 1, 1)) * np.eye(STATES)[true]
    odds = np.exp(rng.normal(size=(n, LENGTH, STATES)) + skill)
    end = np.arange(LENGTH) >= rng.integers(10, LENGTH + 1, n)[:, None]
    outcome = np.where(end | (rng.random((n, LENGTH)) < 0.1), -1, true)
    return odds / odds.sum(axis=2, keepdims=True), outcome.astype(np.float64)


def _contacts(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Chains of 15 to 30 places, one in ten of whose pairs, far enough apart, touch."""
    place = np.arange(LENGTH)
    near = np.abs(place[:, None] - place) < APART
    touch = np.triu(rng.random((n, LENGTH, LENGTH)) < 0.1)
    touch = (touch | touch.transpose(0, 2, 1)).astype(np.float64)
    end = place >= rng.integers(15, LENGTH + 1, n)[:, None]
    asked = ~(near | end[:, :, None] | end[:, None, :])
    skill = rng.normal(1.2, 0.4, (n, 1, 1))
    said = 1 / (1 + np.exp(2 - rng.normal(skill * touch, 1.0)))
    return said.reshape(n, -1), np.where(asked, touch, -1.0).reshape(n, -1)


def _reconstruction(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    inputs = rng.normal(2.0, 1.0, (n, 12))
    return inputs + rng.normal(0, 0.6, inputs.shape), inputs


MAKERS = {
    "binary": _binary,
    "multiclass": _multiclass,
    "multilabel": _multilabel,
    "regression": _regression,
    "survival": _survival,
    "cox": _cox,
    "labelling": _labelling,
    "contacts": _contacts,
    "reconstruction": _reconstruction,
}
