"""Models of sequences: convolutions, recurrent networks, the Transformer encoder."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from cohortium.common.layout import BlockKind
from cohortium.common.models.options_base import (
    ONE_ANSWER,
    Activation,
    ModelDocument,
    Widths,
)

ALONG = (*ONE_ANSWER, "labelling", "contacts")
Kernel = Annotated[int, Field(ge=1, le=101)]


class SequenceModel(ModelDocument):
    """What all models of sequences may say.

    embedding: 0 reads letters one-hot, above it learns so many numbers for each letter. readout:
    how the places of a patient become one vector: their `mean`, or side by side (`flatten`), where
    it counts at which place something stands.
    """

    blocks: ClassVar[tuple[BlockKind, ...]] = ("sequence",)
    outcomes: ClassVar[tuple[str, ...]] = ALONG

    embedding: Annotated[int, Field(ge=0, le=512)] = 0
    readout: Literal["mean", "flatten"] = "mean"


class Cnn1dModel(SequenceModel):
    """Convolutions of width `kernel`, each with `channels[i]` filters, activation and max pooling.

    norm: `layer` norms the filters' answers at each place alone; `batch` would mix patients and
    `group` count padding, and both are refused with that reason. hidden: layers after the readout.
    """

    name: Literal["cnn1d"]
    channels: Annotated[Widths, Field(min_length=1)] = (32, 32)
    kernel: Kernel = 7
    pool: Annotated[int, Field(ge=1, le=16)] = 2
    norm: Literal["none", "layer", "group", "batch"] = "none"
    readout: Literal["mean", "flatten"] = "flatten"
    hidden: Widths = (32,)
    activation: Activation = "relu"


class RecurrentModel(SequenceModel):
    """`rnn` (Elman), `lstm` or `gru` with `layers` layers of `width` units, perhaps both ways."""

    name: Literal["rnn", "lstm", "gru"]
    width: PositiveInt = 32
    layers: Annotated[int, Field(ge=1, le=8)] = 1
    bidirectional: bool = False


class TransformerModel(SequenceModel):
    """Encoder with `layers` blocks of `heads` heads (Vaswani et al. 2017), norm first."""

    name: Literal["transformer"]
    width: PositiveInt = 32
    heads: PositiveInt = 4
    layers: Annotated[int, Field(ge=1, le=24)] = 2
    feedforward: PositiveInt = 64
    activation: Activation = "gelu"

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        return self
