"""Models that give the inputs back, or make new ones."""

import math
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

    @property
    def spread(self) -> float:
        """Deviation of an input from what a vae's code says of it."""
        return math.sqrt(self.beta / 2)


class AdversarialModel(ModelDocument):
    """`gan`: a generator that no patient moves, and a discriminator (Goodfellow et al. 2014).

    `hidden`: widths of the generator, from `latent` numbers to the inputs; `discriminator`: those
    of the other, which alone has the `dropout`. The generator steps after every `generator_every`
    steps of the discriminator. A release holds the generator only.
    """

    blocks: ClassVar[tuple[BlockKind, ...]] = ("table", "numbers")
    several: ClassVar[bool] = True
    outcomes: ClassVar[tuple[str, ...]] = ("generation",)
    withheld: ClassVar[tuple[str, ...]] = ("discriminator.*",)
    spread: ClassVar[float] = 0.0  # rows are as they are made, and vary as it has learnt

    name: Literal["gan"]
    hidden: Widths = (32,)
    latent: PositiveInt = 8
    discriminator: Widths = (32,)
    generator_every: PositiveInt = 5
    activation: Activation = "leaky_relu"
