"""Cox's partial likelihood at one site, against a loop over risk sets and against lifelines."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter
from numpy.typing import NDArray
from torch import Tensor, nn

from cohortium.client.training import cox
from cohortium.client.training.cox import Events
from cohortium.common import arrays

Floats = NDArray[np.float64]
CPU = torch.device("cpu")


def by_loop(log_hazard: Tensor, labels: Floats) -> Tensor:
    """Efron's log partial likelihood, one event after the other, as it is written in books."""
    times, event = labels[:, 0], labels[:, 1] > 0.5
    total = torch.zeros((), dtype=torch.float64)
    for time in np.unique(times[event]):
        had = np.flatnonzero(event & (times == time))
        at_risk = np.flatnonzero(times >= time)
        for place, patient in enumerate(had):
            tied = log_hazard[had].exp().sum() * place / len(had)
            total = total + log_hazard[patient] - (log_hazard[at_risk].exp().sum() - tied).log()
    return total


def patients(n: int, seed: int, last: int = 12) -> tuple[Floats, Floats]:
    """Inputs (n, 3), and labels (n, 2) with many ties of events and of ends of watching."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, 3))
    times = rng.integers(1, last, n)
    return inputs, np.column_stack([times, rng.random(n) < 0.6]).astype(np.float64)


@given(n=st.integers(1, 40), seed=st.integers(0, 10_000), last=st.integers(2, 30))
@settings(max_examples=40, deadline=None)
def test_likelihood_and_both_derivatives_are_those_of_a_loop_over_risk_sets(
    n: int, seed: int, last: int
) -> None:
    inputs, labels = patients(n, seed, last)
    weights = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
    found = Events.of(inputs @ weights.numpy(), labels)

    def likelihood(of: Tensor) -> Tensor:
        return by_loop(torch.tensor(inputs) @ of, labels)

    gradient = torch.autograd.functional.jacobian(likelihood, weights)  # type: ignore[no-untyped-call]
    hessian = torch.autograd.functional.hessian(likelihood, weights)  # type: ignore[no-untyped-call]
    assert found.log_likelihood == pytest.approx(float(likelihood(weights)), abs=1e-9)
    assert (labels[:, 1] - found.expected()) @ inputs == pytest.approx(gradient.numpy(), abs=1e-9)
    assert found.information(inputs) == pytest.approx(-hessian.numpy(), abs=1e-9)


def test_hazards_far_apart_overflow_nothing() -> None:
    labels = np.column_stack([np.arange(1.0, 5.0), np.ones(4)])
    found = Events.of(np.array([-1e4, 0.0, 800.0, 2000.0]), labels)
    assert np.isfinite(found.expected()).all()
    assert np.isfinite(found.information(np.ones((4, 2)))).all()


def test_a_site_without_events_adds_nothing() -> None:
    inputs, labels = patients(20, seed=1)
    labels[:, 1] = 0
    found = Events.of(inputs[:, 0], labels)
    assert found.log_likelihood == 0
    assert (found.expected() == 0).all()
    assert (found.information(inputs) == 0).all()


def test_information_at_the_maximum_gives_the_standard_errors_of_lifelines() -> None:
    inputs, labels = patients(150, seed=2)
    frame = pd.DataFrame(np.column_stack([inputs, labels]), columns=["a", "b", "c", "time", "had"])
    fitted = CoxPHFitter().fit(frame, "time", "had", fit_options={"precision": 1e-10})
    found = Events.of(inputs @ fitted.params_.to_numpy(), labels).information(inputs)
    errors = np.sqrt(np.diag(np.linalg.inv(found)))
    assert errors == pytest.approx(fitted.standard_errors_.to_numpy(), rel=1e-5)


def test_the_gradient_of_any_model_is_that_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worked through a few rows at a time, though every risk set spans them all."""
    monkeypatch.setattr(cox, "ROWS", 7)
    inputs, labels = patients(30, seed=3)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    features, start = inputs.astype(np.float32), arrays.flatten(module)
    update = cox.train(module, start, features, labels.astype(np.float32), 30.0, CPU)
    module.zero_grad()
    torch.autograd.backward(by_loop(module(torch.tensor(features))[:, 0].double(), labels) / 30)
    expected = np.concatenate(
        [p.grad.reshape(-1).numpy() for p in module.parameters() if p.grad is not None]
    )
    assert update.delta == pytest.approx(expected, abs=1e-6)
    assert np.abs(update.delta).max() > 1e-3
