"""What a study says about its model: one document for each family, told apart by `name`.

Imports no torch, so that the command line starts quickly. Each family says which kinds of blocks
(`layout.py`) it reads and which outcomes it gives; `coherence.py` refuses any other.
"""

from typing import Annotated, get_args

from pydantic import Field

from cohortium.common.models.options_base import (
    Activation,
    Initialisation,
    ModelDocument,
    TableModel,
)
from cohortium.common.models.options_fusion import FusionModel
from cohortium.common.models.options_generative import AdversarialModel, AutoencoderModel
from cohortium.common.models.options_graph import GraphModel, NetworkModel
from cohortium.common.models.options_image import Cnn2dModel, ResnetModel
from cohortium.common.models.options_sequence import Cnn1dModel, RecurrentModel, TransformerModel
from cohortium.common.models.options_series import OdeModel
from cohortium.common.models.options_tensor import TensorTrainModel

__all__ = ["NAMES", "Activation", "Initialisation", "Model", "ModelDocument", "ModelOptions"]

ModelOptions = TableModel  # the first family there was

Model = Annotated[
    TableModel
    | Cnn1dModel
    | RecurrentModel
    | TransformerModel
    | Cnn2dModel
    | ResnetModel
    | GraphModel
    | NetworkModel
    | FusionModel
    | AutoencoderModel
    | AdversarialModel
    | OdeModel
    | TensorTrainModel,
    Field(discriminator="name"),
]

FAMILIES: tuple[type[ModelDocument], ...] = get_args(get_args(Model)[0])
NAMES: tuple[str, ...] = tuple(
    name for one in FAMILIES for name in get_args(one.model_fields["name"].annotation)
)
