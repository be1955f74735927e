"""Graph networks: of molecules, and of interactions between measured quantities."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from cohortium.common.layout import BlockKind
from cohortium.common.models.options_base import Activation, ModelDocument, Widths


class GraphModel(ModelDocument):
    """Message passing over atoms and bonds (Gilmer et al. 2017), then a sum or mean over atoms."""

    blocks: ClassVar[tuple[BlockKind, ...]] = ("molecule",)

    name: Literal["gnn"]
    width: PositiveInt = 32
    layers: Annotated[int, Field(ge=1, le=10)] = 3
    readout: Literal["sum", "mean"] = "mean"
    hidden: Widths = (32,)
    activation: Activation = "relu"


class NetworkModel(ModelDocument):
    """Graph convolution over a public network of the names of a `numbers` block (Kipf 2017).

    edges: pairs of names, such as genes whose proteins interact; public knowledge.
    """

    blocks: ClassVar[tuple[BlockKind, ...]] = ("numbers",)

    name: Literal["network"]
    edges: Annotated[tuple[tuple[str, str], ...], Field(min_length=1, max_length=1_000_000)]
    width: PositiveInt = 8
    layers: Annotated[int, Field(ge=1, le=10)] = 2
    hidden: Widths = (32,)
    activation: Activation = "relu"
