"""Logistic and linear regression: one linear layer; only the loss tells them apart."""

from torch import nn


def linear(inputs: int, outputs: int) -> nn.Module:
    """Logits (B, outputs) from features (B, inputs)."""
    return nn.Linear(inputs, outputs)
