"""The message of a site's explanations."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from cohortium.common.document import Document
from cohortium.common.explanation import Method

Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e30, le=1e30)]
Rows = tuple[tuple[Number | None, ...], ...]


class Mean(Document):
    """Of a column's attribution over a site's explained patients: of its size, and with sign."""

    size: Annotated[Number, Field(ge=0)]
    signed: Number


class Told(Document):
    """What one method says at one site, on its held-out patients.

    columns: by name; one that enough patients do not differ in is left out. motifs: of a sequence,
    by class that the model chose, (places, letters) mean attribution of that letter there, None
    where too few of them have it. saliency: of an image, by class, (height, width).
    """

    method: Method
    columns: Mapping[str, Mean]
    motifs: Mapping[str, Rows] = {}
    saliency: Mapping[str, Rows] = {}
