"""Models that give the inputs back, or make new ones."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

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


class GanModel(ModelDocument):
    """Generator and discriminator (Goodfellow et al. 2014); the discriminator alone sees patients.

    With privacy only its gradients are clipped and noised (Xie et al. 2018, DPGAN); the generator
    learns from it alone and so costs nothing more.
    """

    blocks: ClassVar[tuple[BlockKind, ...]] = ("table", "numbers", "image")
    several: ClassVar[bool] = True
    outcomes: ClassVar[tuple[str, ...]] = ("generation",)

    name: Literal["gan"]
    latent: PositiveInt = 16
    hidden: Widths = (32,)
    activation: Activation = "leaky_relu"
    generator_rate: Annotated[float, Field(gt=0)] = 0.01
    critic_steps: Annotated[int, Field(ge=1, le=20)] = 1
