"""Models that give the inputs back, or make new ones."""

from typing import ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt

from cohortium.common.layout import BlockKind
from cohortium.common.models.options_base import Activation, ModelDocument, Widths


class AutoencoderModel(ModelDocument):
    """`autoencoder`, or `vae` (Kingma & Welling 2014) with `beta` times the divergence.

    Of a vae the outputs have one number more, the divergence of each patient.
    """

    blocks: ClassVar[tuple[BlockKind, ...]] = ("table", "numbers", "image")
    several: ClassVar[bool] = True
    outcomes: ClassVar[tuple[str, ...]] = ("reconstruction", "generation")

    name: Literal["autoencoder", "vae"]
    hidden: Widths = (32,)
    latent: PositiveInt = 8
    beta: PositiveFloat = 1.0
    activation: Activation = "relu"
