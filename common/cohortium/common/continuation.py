"""A study that goes on from another's model, as when a hospital has withdrawn."""

from typing import Annotated

from pydantic import Field, PositiveInt

from cohortium.common.document import Document
from cohortium.common.schema import Name

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Continues(Document):
    """Where a study starts instead of at a fresh model.

    study: digest of the one before; round: after which of its rounds; model: SHA-256 of that
    round's model, float32 little-endian, so that every site approves exactly this start.
    """

    name: Name
    study: Sha256
    round: PositiveInt
    model: Sha256
