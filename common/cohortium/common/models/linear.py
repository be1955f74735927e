"""Logistic, linear and Cox regression: one linear layer; only the loss tells them apart."""

from torch import nn

from cohortium.common.layout import Layout
from cohortium.common.models.options_base import TableModel


def linear(options: TableModel, layout: Layout, outputs: int) -> nn.Module:
    """Logits (B, outputs) from features (B, inputs)."""
    return nn.Linear(layout.inputs, outputs)


def cox(options: TableModel, layout: Layout, outputs: int) -> nn.Module:
    """Logarithm of the hazard ratio (B, 1); the intercept is the baseline hazard's."""
    return nn.Linear(layout.inputs, outputs, bias=False)
