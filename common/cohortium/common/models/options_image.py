"""Models of images."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cohortium.common.layout import BlockKind
from cohortium.common.models.options_base import Activation, ModelDocument, Widths


class Cnn2dModel(ModelDocument):
    """Convolutions with `channels[i]` filters, perhaps group norm, activation, max pooling by 2.

    norm: `batch` is refused, with the reason.
    """

    blocks: ClassVar[tuple[BlockKind, ...]] = ("image",)

    name: Literal["cnn2d"]
    channels: Annotated[Widths, Field(min_length=1)] = (16, 32)
    kernel: Annotated[int, Field(ge=1, le=15)] = 3
    norm: Literal["none", "group", "batch"] = "none"
    hidden: Widths = (32,)
    activation: Activation = "relu"


class ResnetModel(ModelDocument):
    """Residual network (He et al. 2016) with group norm: `blocks_each` blocks at each width."""

    blocks: ClassVar[tuple[BlockKind, ...]] = ("image",)

    name: Literal["resnet"]
    channels: Annotated[Widths, Field(min_length=1)] = (16, 32)
    blocks_each: Annotated[int, Field(ge=1, le=10)] = 1
    groups: Annotated[int, Field(ge=1, le=64)] = 4
    activation: Activation = "relu"
