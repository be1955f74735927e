"""Several modalities of one patient, any of which may be missing."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from cohortium.common.layout import BlockKind
from cohortium.common.models.options_base import Activation, ModelDocument, TableModel, Widths
from cohortium.common.models.options_graph import GraphModel
from cohortium.common.models.options_image import Cnn2dModel, ResnetModel
from cohortium.common.models.options_sequence import Cnn1dModel, RecurrentModel, TransformerModel
from cohortium.common.models.options_series import OdeModel

Branch = Annotated[
    TableModel
    | Cnn1dModel
    | RecurrentModel
    | TransformerModel
    | Cnn2dModel
    | ResnetModel
    | GraphModel
    | OdeModel,
    Field(discriminator="name"),
]


class FusionModel(ModelDocument):
    """One branch for each block, by the block's name; a missing block counts for nothing.

    how: `early` puts the blocks' values side by side into one MLP; `late` takes the mean of the
    branches' answers; `attention` weighs the branches' features by what they say.
    branches: of `late` and `attention`; a block without one has an MLP with `hidden`.
    width: of a branch's features, with `attention`.
    """

    blocks: ClassVar[tuple[BlockKind, ...]] = (
        "table",
        "numbers",
        "sequence",
        "molecule",
        "image",
        "series",
    )
    several: ClassVar[bool] = True

    name: Literal["fusion"]
    how: Literal["early", "late", "attention"] = "late"
    hidden: Widths = (32,)
    width: PositiveInt = 32
    activation: Activation = "relu"
    branches: Mapping[str, Branch] = {}
