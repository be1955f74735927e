"""A flat vector goes into a module and comes out the same, or not at all."""

import numpy as np
import pytest
import torch
from torch import nn

from cohortium.common.arrays import flatten, layout, load_into
from cohortium.common.errors import ProtocolError


def module() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))


def test_a_vector_comes_out_as_it_went_in_and_in_the_order_of_the_layers() -> None:
    vector = np.arange(13, dtype=np.float32)
    target = module()
    load_into(target, vector)
    assert flatten(target).tolist() == list(range(13))
    assert next(target.parameters()).tolist() == [[0, 1], [2, 3], [4, 5]]
    assert layout(target) == [
        ("0.weight", (3, 2)),
        ("0.bias", (3,)),
        ("2.weight", (1, 3)),
        ("2.bias", (1,)),
    ]


def test_training_on_does_not_change_a_vector_already_taken() -> None:
    target = module()
    before = flatten(target)
    kept = before.copy()
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.add_(1)
    assert (before == kept).all()


def test_a_read_only_view_of_a_message_can_be_loaded_and_stays_untouched() -> None:
    vector = np.frombuffer(np.ones(13, np.float32).tobytes(), np.float32)
    target = module()
    load_into(target, vector)
    with torch.no_grad():
        next(target.parameters()).zero_()
    assert vector.sum() == 13


@pytest.mark.parametrize(
    ("vector", "reason"),
    [
        (np.zeros(12, np.float32), "13 float32"),
        (np.zeros((13, 1), np.float32), "13 float32"),
        (np.zeros(13, np.float64), "float64"),
        (np.full(13, np.nan, np.float32), "finite"),
        (np.r_[np.zeros(12), np.inf].astype(np.float32), "finite"),
    ],
)
def test_a_vector_that_does_not_fit_leaves_the_module_as_it_was(
    vector: np.ndarray, reason: str
) -> None:
    target = module()
    before = flatten(target)
    with pytest.raises(ProtocolError, match=reason):
        load_into(target, vector)
    assert (flatten(target) == before).all()
