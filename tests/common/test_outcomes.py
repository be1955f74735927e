"""Outcomes of every kind: what is learnt, what is lost, and what a model says in the end."""

from typing import Any

import numpy as np
import pytest
import torch
from lifelines import KaplanMeierFitter
from torch import Tensor

from cohortium.common.document import parse
from cohortium.common.errors import DataError, ProtocolError
from cohortium.common.loss import per_example
from cohortium.common.predict import predictions
from cohortium.common.preprocessing.encode import encode, require_classes
from cohortium.common.preprocessing.labels import learnt, observed
from cohortium.common.study import Study
from cohortium.common.table import Table

NAN = float("nan")
COLUMNS: dict[str, dict[str, Any]] = {
    "age": {"kind": "number", "low": 0.0, "high": 100.0},
    "stage": {"kind": "category", "codes": ["I", "II", "III"], "labels": ["early", "mid", "late"]},
    "pain": {"kind": "flag"},
    "fever": {"kind": "flag"},
    "days": {"kind": "number", "low": 0.0, "high": 100.0},
    "dead": {"kind": "flag"},
    "sugar": {"kind": "number", "low": 50.0, "high": 150.0, "centre": 90.0, "spread": 20.0},
}
TASKS: dict[str, dict[str, Any]] = {
    "multiclass": {"label": "stage"},
    "multilabel": {"labels": ["pain", "fever"]},
    "regression": {"label": "sugar"},
    "survival": {"time": "days", "event": "dead", "horizons": [10.0, 20.0, 30.0]},
}


def study(kind: str, **task: Any) -> Study:
    values = {
        "name": "made-up",
        "purpose": {"text": "to test outcomes", "duo": "GRU", "legal_basis": "consent"},
        "data": {"dataset": "ward", "features": ["age"]},
        "data_model": {"name": "ward", "columns": COLUMNS},
        "task": {"kind": kind, **TASKS[kind], **task},
        "model": {"name": "linear" if kind == "regression" else "logistic"},
        "split": {"test_fraction": 1e-6},
        "training": {"rounds": 1, "batches": "full"},
        "privacy": {"mechanism": "none"},
        "sites": {"names": ["north", "south"], "min_sites": 1},
    }
    return parse(values, Study, "study.toml")


def table(**columns: list[float]) -> Table:
    numbers = {n: np.array(v) for n, v in columns.items() if COLUMNS[n]["kind"] == "number"}
    codes = {n: np.array(v, np.int16) for n, v in columns.items() if n not in numbers}
    rows = len(next(iter(columns.values())))
    ages = {"age": np.full(rows, 50.0)}
    return Table({**ages, **numbers}, codes, np.arange(rows), {})


def test_a_class_is_its_place_among_the_schemas_codes() -> None:
    chosen = study("multiclass")
    assert chosen.outputs == 3
    outcomes = observed(table(stage=[2, 0, 1]), chosen)
    assert learnt(outcomes, chosen).tolist() == outcomes.tolist() == [2.0, 0.0, 1.0]


def test_labels_are_one_column_each_in_the_studys_order() -> None:
    chosen = study("multilabel", labels=["fever", "pain"])
    assert chosen.outputs == 2
    outcomes = observed(table(pain=[1, 0, 0], fever=[0, 0, 1]), chosen)
    assert outcomes.tolist() == [[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]


def test_a_number_is_learnt_on_the_public_scale_and_said_in_its_units() -> None:
    chosen = study("regression")
    outcomes = observed(table(sugar=[90.0, 110.0, 55.0]), chosen)
    assert outcomes.tolist() == [90.0, 110.0, 55.0]
    scaled = learnt(outcomes, chosen)
    assert scaled.tolist() == [0.0, 1.0, -1.75]
    assert predictions(chosen, torch.tensor(scaled)[:, None]).tolist() == [90.0, 110.0, 55.0]


@pytest.mark.parametrize(
    ("days", "dead", "survived", "event"),
    [
        (0.0, 1, 0, 1),  # at once: the first interval
        (0.0, 0, 0, 0),  # never watched: says nothing
        (5.0, 1, 0, 1),
        (5.0, 0, 0, 0),  # lost within the first interval, which counts for nothing
        (10.0, 1, 0, 1),  # an event at a horizon lies before it
        (10.0, 0, 1, 0),  # last seen at a horizon: survived until there
        (19.9, 1, 1, 1),
        (19.9, 0, 1, 0),
        (30.0, 1, 2, 1),
        (30.0, 0, 3, 0),
        (31.0, 1, 3, 0),  # after the last horizon: survived all that is looked for
        (99.0, 0, 3, 0),
    ],
)
def test_a_patient_counts_for_the_intervals_that_were_watched_to_their_end(
    days: float, dead: int, survived: int, event: int
) -> None:
    chosen = study("survival")
    outcomes = observed(table(days=[days], dead=[dead]), chosen)
    assert outcomes.tolist() == [[days, float(dead)]]
    assert learnt(outcomes, chosen).tolist() == [[float(survived), float(event)]]


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("multiclass", {"stage": [0, -1, 1]}),
        ("multilabel", {"pain": [0, 0, 1], "fever": [1, -1, 1]}),
        ("regression", {"sugar": [90.0, NAN, 80.0]}),
        ("survival", {"days": [1.0, NAN, 3.0], "dead": [1, 1, 0]}),
        ("survival", {"days": [1.0, 2.0, 3.0], "dead": [1, -1, 0]}),
    ],
)
def test_a_row_without_the_whole_outcome_is_not_used(
    kind: str, columns: dict[str, list[float]]
) -> None:
    assert encode(table(**columns), study(kind), "north").patients.tolist() == [0, 2]


def test_a_site_with_one_class_only_is_refused_if_the_study_minds() -> None:
    rows = table(stage=[1.0] * 50)
    for chosen in (study("multiclass"), study("multiclass", one_class_sites="refuse")):
        with pytest.raises(DataError, match=r"one class only .* cannot train a multiclass model"):
            require_classes(encode(rows, chosen, "north"), chosen, "north")
    allowed = study("multiclass", one_class_sites="allow")
    require_classes(encode(rows, allowed, "north"), allowed, "north")


# ------------------------------------------------------------------ losses


def test_a_patients_labels_add_up_to_one_loss() -> None:
    logits = torch.tensor([[0.0, 2.0], [-1.0, 1.0]])
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    each = per_example("multilabel", logits, labels)
    assert each.tolist() == pytest.approx([0.693147 + 2.126928, 2 * 0.313262], abs=1e-6)


def hazard_by_loop(logits: Tensor, survived: int, event: int) -> float:
    """-log of what happened: h of the interval with the event, 1 - h of those before."""
    total = 0.0
    for place, logit in enumerate(logits.double().tolist()):
        hazard = 1 / (1 + np.exp(-logit))
        if place < survived:
            total -= np.log(1 - hazard)
        elif place == survived and event:
            total -= np.log(hazard)
    return total


def test_a_survival_loss_is_the_likelihood_of_what_was_seen() -> None:
    happened = [(s, e) for s in range(4) for e in (0, 1) if (s, e) != (3, 1)]
    logits = torch.randn(len(happened), 3, generator=torch.Generator().manual_seed(1))
    found = per_example("survival", logits, torch.tensor(happened, dtype=torch.float32))
    expected = [hazard_by_loop(row, *seen) for row, seen in zip(logits, happened, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert found[0] == 0  # lost before anything was seen


@pytest.mark.parametrize(
    ("outcome", "shape"), [("multilabel", (4,)), ("multilabel", (4, 1)), ("survival", (4, 3))]
)
def test_labels_that_would_broadcast_are_refused(outcome: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ProtocolError, match="do not belong together"):
        per_example(outcome, torch.zeros(4, 3), torch.zeros(shape))


def test_a_model_without_inputs_learns_the_curve_of_kaplan_and_meier() -> None:
    """With a horizon at every time, the hazards of greatest likelihood are Kaplan and Meier's."""
    rng = np.random.default_rng(7)
    days = rng.integers(1, 13, 300).astype(np.float64)
    dead = rng.integers(0, 2, 300).astype(np.float64)
    horizons = [float(day) for day in range(1, 13)]
    chosen = study("survival", horizons=horizons)
    labels = torch.tensor(learnt(np.column_stack([days, dead]), chosen))
    logits = torch.zeros(12, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = per_example("survival", logits.expand(300, 12), labels).sum()
        torch.autograd.backward(loss)
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    curve = KaplanMeierFitter().fit(days, dead).survival_function_at_times(horizons)
    found = predictions(chosen, logits.detach()[None])[0]
    assert found == pytest.approx(curve.to_numpy(), abs=1e-4)


# ------------------------------------------------------------------ predictions


def test_probabilities_of_classes_add_up_and_those_of_labels_need_not() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [50.0, -50.0, 0.0]])
    classes = predictions(study("multiclass"), logits)
    assert classes.dtype == np.float64
    assert classes[0] == pytest.approx(np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum())
    assert classes.sum(axis=1) == pytest.approx([1.0, 1.0])
    labels = predictions(study("multilabel"), logits[:, :2])
    assert labels[0] == pytest.approx([0.5, 1 / (1 + np.exp(-1))])


def test_survival_falls_from_horizon_to_horizon() -> None:
    logits = torch.tensor([[0.0, np.log(1 / 3), -40.0], [40.0, 0.0, 0.0]])
    found = predictions(study("survival"), logits)
    assert found[0] == pytest.approx([0.5, 0.375, 0.375])
    assert (np.diff(found, axis=1) <= 0).all()
    assert ((found >= 0) & (found <= 1)).all()


def test_nobody_to_predict_for_is_no_error() -> None:
    for kind, outputs, shape in (
        ("multiclass", 3, (0, 3)),
        ("multilabel", 2, (0, 2)),
        ("regression", 1, (0,)),
        ("survival", 3, (0, 3)),
    ):
        assert predictions(study(kind), torch.zeros(0, outputs)).shape == shape


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_a_model_that_diverged_is_said_to_have(kind: str) -> None:
    chosen = study(kind)
    with pytest.raises(ProtocolError, match="training diverged"):
        predictions(chosen, torch.full((2, chosen.outputs), float("inf")))
