"""Quantum-inspired models."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cohortium.common.layout import BlockKind
from cohortium.common.models.options_base import ModelDocument


class TensorTrainModel(ModelDocument):
    """Matrix product state of bond dimension `bond` over the inputs (Stoudenmire & Schwab 2016)."""

    blocks: ClassVar[tuple[BlockKind, ...]] = ("table", "numbers", "image")

    name: Literal["mps"]
    bond: Annotated[int, Field(ge=2, le=64)] = 8
