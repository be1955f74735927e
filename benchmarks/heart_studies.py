"""The studies of Fed-Heart-Disease: the published protocol (A), ours with privacy (B), an audit."""

from pathlib import Path

from cohortium.common.document import parse
from cohortium.common.study import Study

SITES = ("cleveland", "hungarian", "switzerland", "va")
TRAIN_ROWS = (199, 172, 30, 85)
DELTA = 1e-5
TEST_FRACTION = 0.34  # as in FLamby's split
ROUNDS = 15
ROUNDS_AUDITED = 3

# The data are public: a cell of one patient may be shown, and in track A exact counts may leave.
POLICY_B = {"purposes": '["GRU"]', "minimum_cell": "0", "max_epsilon_per_study": "8.0"}
POLICY_A = {**POLICY_B, "allow_unprotected": "true", "allow_exact_counts": "true"}
POLICY_AUDITED = {**POLICY_A, "allow_exact_counts": "false"}

FEATURES = ["age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak", "cp", "restecg"]


def number(unit: str, low: float, high: float, centre: float, spread: float) -> dict[str, object]:
    """A number column; centre and spread are clinical reference limits, as in the demonstration."""
    bounds = {"low": low, "high": high, "centre": centre, "spread": spread}
    return {"kind": "number", "unit": unit, **bounds}


COLUMNS: dict[str, dict[str, object]] = {
    "age": number("a", 0.0, 120.0, 50.0, 15.0),
    "sex": {"kind": "flag", "no_label": "female", "yes_label": "male"},
    "cp": {"kind": "category", "codes": ["1", "2", "3", "4"]},
    "trestbps": number("mm[Hg]", 0.0, 300.0, 120.0, 20.0),
    "chol": number("mg/dL", 0.0, 1000.0, 200.0, 40.0),
    "fbs": {"kind": "flag"},
    "restecg": {"kind": "category", "codes": ["0", "1", "2"]},
    "thalach": number("/min", 0.0, 250.0, 145.0, 25.0),
    "exang": {"kind": "flag"},
    "oldpeak": number("mm", -10.0, 10.0, 1.0, 1.0),
    "label": {"kind": "flag"},
}
# Client and server learning rates of the published results.
TRACK_A_RATES = {
    "fedavg": (1e-3, 1.0),
    "fedadam": (1e-2, 1e-2),
    "fedyogi": (3.162e-3, 1e-2),
    "fedadagrad": (3.162e-3, 0.316228),
}
# Learning rate, momentum, weight decay and share of averaged rounds, by epsilon. At epsilon 1 the
# choice hardly matters: with this momentum every rate from 0.25 to 3 gives .80 or more.
TRACK_B_SETTINGS = {
    1.0: (1.5, 0.5, 0.03, 0.8),
    3.0: (5.0, 0.5, 0.01, 0.8),
    8.0: (5.0, 0.8, 0.01, 0.5),
}


def tables(folder: Path) -> dict[str, Path]:
    """Each hospital's file."""
    return {site: folder / f"{site}.csv" for site in SITES}


def schema(track: str) -> dict[str, object]:
    """The data model; in track B a cholesterol of 0 means that nobody measured it."""
    columns = {name: dict(column) for name, column in COLUMNS.items()}
    if track == "B":
        columns["chol"]["not_measured"] = [0.0]
    return {"name": f"heart-flamby-{track.lower()}", "columns": columns}


def study_a(strategy: str, seed: int, split_seed: int | None = None) -> Study:
    """The published protocol, on FLamby's split or on a fresh one."""
    client_rate, server_rate = TRACK_A_RATES[strategy]
    return _study(
        "A",
        preprocessing={"scaling": "site-standard", "missing": "exclude"},
        split=split(split_seed),
        training={
            "rounds": ROUNDS,
            "batches": "shuffle",
            "local_steps": 100,
            "batch_size": 4,
            "learning_rate": client_rate,
            "seed": seed,
            "shared_stream_rows": TRAIN_ROWS if split_seed is None else (),
        },
        strategy={"name": strategy, "weighting": "exact", "learning_rate": server_rate},
        privacy={"mechanism": "none"},
    )


def study_b(epsilon: float, split_seed: int | None = None) -> Study:
    """Full-batch noisy gradient sums, on FLamby's split or on a fresh one."""
    rate, momentum, decay, share = TRACK_B_SETTINGS[epsilon]
    return _study(
        "B",
        preprocessing={"missing_indicators": ["chol"], "site_intercept": True},
        split=split(split_seed),
        training={"rounds": ROUNDS, "batches": "full"},
        strategy={
            "name": "fedavgm",
            "learning_rate": rate,
            "momentum": momentum,
            "weight_decay": decay,
            "average_last": share,
        },
        privacy={"mechanism": "gaussian", "epsilon": epsilon, "delta": DELTA, "clip_norm": 1.0},
    )


def study_audited() -> Study:
    """Without noise, the same model every time; Switzerland's patients, nearly all ill, held out.

    Audited by sex and age, and both together; women are compared with men, as they are few.
    """
    return _study(
        "B",
        name="heart-fairness",
        preprocessing={"missing_indicators": ["chol"]},
        split={"test_fraction": 0.5, "seed": 0},
        training={
            "rounds": ROUNDS_AUDITED,
            "batches": "shuffle",
            "local_steps": 60,
            "batch_size": 16,
            "learning_rate": 0.1,
        },
        privacy={"mechanism": "none"},
        evaluation={"every": ROUNDS_AUDITED, "thresholds": (0.5, 0.3)},
        fairness={
            "attributes": ("sex", "age"),
            "bands": {"age": (50.0, 60.0)},
            "intersections": (("sex", "age"),),
            "reference": {"sex": "male"},
        },
        sites={"names": SITES, "min_sites": 3, "evaluate_only": ("switzerland",)},
    )


def heart(**parts: object) -> Study:
    """Another study of the same hospitals, with track B's data model."""
    return _study("B", **parts)


def split(seed: int | None) -> dict[str, object]:
    """FLamby's own, or a fresh one."""
    return {"column": "split"} if seed is None else {"test_fraction": TEST_FRACTION, "seed": seed}


def _study(track: str, **parts: object) -> Study:
    values = {
        "name": f"fed-heart-disease-{track.lower()}",
        "purpose": {
            "text": "Reproduce and improve a published benchmark on public data",
            "duo": "GRU",
            "legal_basis": "public data, CC BY 4.0",
        },
        "data": {"dataset": f"heart-{track.lower()}", "features": FEATURES},
        "data_model": schema(track),
        "task": {
            "kind": "binary",
            "label": "label",
            "positive_codes": ["1"],
            "one_class_sites": "allow",  # FLamby trains on 30 patients of Switzerland, all ill
        },
        "model": {"name": "logistic"},
        "evaluation": {"every": ROUNDS},
        "sites": {"names": SITES, "min_sites": len(SITES)},
    }
    return parse({**values, **parts}, Study, "benchmarks/heart_studies.py")
