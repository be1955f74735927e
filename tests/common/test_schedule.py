"""The learning rate of each round is torch's, and never 0."""

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from cohortium.common.schedule import learning_rate, of_the_coordinator, share
from cohortium.common.training import Strategy, Training

RATE = 0.2


def training(**changes: object) -> Training:
    base = {"rounds": 9, "batches": "shuffle", "batch_size": 4, "learning_rate": RATE}
    return Training.model_validate({**base, **changes})


def by_torch(made: lr_scheduler.LRScheduler, rounds: int) -> list[float]:
    rates = []
    for _ in range(rounds):
        rates.append(made.optimizer.param_groups[0]["lr"])
        made.optimizer.step()
        made.step()
    return rates


def sgd() -> torch.optim.SGD:
    return torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=RATE)


def ours(chosen: Training) -> list[float]:
    return [learning_rate(chosen, number) for number in range(1, chosen.rounds + 1)]


def test_cosine_is_torchs_cosine_annealing() -> None:
    made = lr_scheduler.CosineAnnealingLR(sgd(), T_max=9, eta_min=0.1 * RATE)
    chosen = training(schedule="cosine", final_share=0.1)
    assert ours(chosen) == pytest.approx(by_torch(made, 9), rel=1e-9)


def test_linear_is_torchs_linear_rate() -> None:
    made = lr_scheduler.LinearLR(sgd(), 1.0, 0.25, total_iters=9)
    chosen = training(schedule="linear", final_share=0.25)
    assert ours(chosen) == pytest.approx(by_torch(made, 9), rel=1e-9)


def test_step_falls_twice_by_the_same_factor() -> None:
    made = lr_scheduler.MultiStepLR(sgd(), [3, 6], gamma=0.1)
    chosen = training(schedule="step", final_share=0.01)
    assert ours(chosen) == pytest.approx(by_torch(made, 9), rel=1e-9)


def test_after_a_linear_warmup_the_schedule_has_the_rounds_that_are_left() -> None:
    optimiser = sgd()
    warm = lr_scheduler.LinearLR(optimiser, 1 / 4, 1.0, total_iters=3)
    then = lr_scheduler.CosineAnnealingLR(optimiser, T_max=6, eta_min=0.0)
    made = lr_scheduler.SequentialLR(optimiser, [warm, then], milestones=[3])
    chosen = training(schedule="cosine", warmup_rounds=3)
    assert ours(chosen) == pytest.approx(by_torch(made, 9), rel=1e-9)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_no_round_is_wasted_at_rate_zero(schedule: str) -> None:
    chosen = training(schedule=schedule)
    assert min(share(chosen, number) for number in range(1, 10)) > 0
    assert share(chosen, 1) == 1


def test_with_full_batches_the_coordinators_rate_follows_the_schedule() -> None:
    full = Training(rounds=4, batches="full", schedule="linear")
    rates = [of_the_coordinator(Strategy(learning_rate=2.0), full, n).learning_rate for n in (1, 3)]
    assert rates == [2.0, 1.0]
    strategy = Strategy(learning_rate=2.0)
    assert of_the_coordinator(strategy, training(schedule="linear"), 3) is strategy
