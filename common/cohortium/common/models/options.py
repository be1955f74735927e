"""What a study says about its model. Imports no torch, so that the command line starts quickly."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from cohortium.common.document import Document

Activation = Literal["relu", "sigmoid", "tanh", "gelu", "silu"]


class ModelOptions(Document):
    """The model's family and its free choices.

    `hidden` holds the widths of an MLP's hidden layers, first to last; `activation` and `dropout`
    follow each of them. A logistic or linear model has none of the three.
    """

    name: Literal["logistic", "linear", "mlp"]
    hidden: tuple[PositiveInt, ...] = ()
    activation: Activation = "relu"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.name == "mlp" and not self.hidden:
            raise ValueError('an mlp needs at least one width in "hidden", such as [16]')
        if self.name != "mlp" and self.hidden:
            raise ValueError(f'a {self.name} model has no "hidden" layers; set name = "mlp"')
        if self.name != "mlp" and self.dropout:
            raise ValueError(f'a {self.name} model has no layer for "dropout"; set name = "mlp"')
        return self
