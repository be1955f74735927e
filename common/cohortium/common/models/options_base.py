"""What the documents of all model families have in common, and the family for plain tables."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from cohortium.common.document import GrownDocument
from cohortium.common.layout import BlockKind

Activation = Literal["relu", "sigmoid", "tanh", "gelu", "silu", "elu", "leaky_relu"]
Initialisation = Literal["default", "xavier", "he", "orthogonal", "zeros"]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Widths = Annotated[tuple[PositiveInt, ...], Field(max_length=20)]

ONE_ANSWER = ("binary", "multiclass", "multilabel", "regression", "survival")


class ModelDocument(GrownDocument):
    """A model's family and its free choices.

    blocks: which kinds of blocks it reads; several: whether more than one of them.
    outcomes: the kinds of task that it can have. Both are checked in `coherence.py`.
    withheld: patterns of the parameters that a released model is without.
    """

    later: ClassVar[frozenset[str]] = frozenset()
    blocks: ClassVar[tuple[BlockKind, ...]] = ()
    several: ClassVar[bool] = False
    outcomes: ClassVar[tuple[str, ...]] = ONE_ANSWER
    withheld: ClassVar[tuple[str, ...]] = ()

    name: str
    dropout: Dropout = 0.0
    initialisation: Initialisation = "default"


class TableModel(ModelDocument):
    """Linear models and the multilayer perceptron, over tables and blocks of numbers.

    `hidden` holds the widths of an MLP's hidden layers, first to last; `activation` and `dropout`
    follow each of them. The others have none of the three. `embedding`: an MLP learns so many
    numbers for each code of a category column (Guo & Berkhahn 2016). `cox` is a linear model
    without intercept.
    """

    later: ClassVar[frozenset[str]] = frozenset({"initialisation", "embedding"})
    blocks: ClassVar[tuple[BlockKind, ...]] = ("table", "numbers")
    several: ClassVar[bool] = True

    name: Literal["logistic", "linear", "mlp", "cox"]
    hidden: Widths = ()
    activation: Activation = "relu"
    embedding: Annotated[int, Field(ge=1, le=64)] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.name == "mlp" and not self.hidden:
            raise ValueError('an mlp needs at least one width in "hidden", such as [16]')
        if self.name != "mlp" and self.hidden:
            raise ValueError(f'a {self.name} model has no "hidden" layers; set name = "mlp"')
        if self.name != "mlp" and self.dropout:
            raise ValueError(f'a {self.name} model has no layer for "dropout"; set name = "mlp"')
        if self.name != "mlp" and self.embedding is not None:
            raise ValueError(f'a {self.name} model has no "embedding"; set name = "mlp"')
        return self
